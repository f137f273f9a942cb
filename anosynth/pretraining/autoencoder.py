"""Training of the embedded autoencoder on crops of the corpus."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from anosynth.diffusion.autoencoder import UnshuffleAutoencoder
from anosynth.diffusion.objective import reconstruction_loss
from anosynth.pretraining.corpus import Corpus
from anosynth.pretraining.recipe import AutoencoderRecipe
from anosynth.pretraining.state import StepReport, TrainingState, follow_steps
from anosynth.seeding import numpy_rng, seed_for, torch_generator


def crops(corpus: Corpus, rng: np.random.Generator, *, count: int, size_px: int) -> Tensor:
    """A batch of augmented crops, float32 [count, 3, size_px, size_px] in [-1, 1].

    Turned and mirrored, colours scaled, a quarter made grey, a quarter blended with another crop: an autoencoder has
    no labels that this could falsify, and real photographs are more varied than any renderer.
    """
    batch = np.empty((count, size_px, size_px, 3), np.float32)
    for row in range(count):
        image = _crop(corpus, rng, size_px)
        if rng.random() < 0.25:
            image = image + (_crop(corpus, rng, size_px) - image) * np.float32(rng.uniform(0.2, 0.8))
        if rng.random() < 0.25:
            image = np.broadcast_to(image.mean(axis=2, keepdims=True), image.shape)
        middle = image.mean()
        gain = np.float32(np.exp(rng.normal(0.0, 0.25)))
        shift = np.float32(rng.normal(0.0, 0.08))
        tint = np.exp(rng.normal(0.0, 0.06, 3)).astype(np.float32)
        batch[row] = np.clip(((image - middle) * gain + middle + shift) * tint, 0.0, 1.0)
    return torch.from_numpy(batch).permute(0, 3, 1, 2) * 2.0 - 1.0


def _crop(corpus: Corpus, rng: np.random.Generator, size_px: int) -> np.ndarray:
    image = corpus.image(int(rng.integers(len(corpus))))
    y, x = rng.integers(0, image.shape[0] - size_px + 1, 2)
    crop = image[y : y + size_px, x : x + size_px].astype(np.float32) / np.float32(255.0)
    crop = np.rot90(crop, int(rng.integers(4)))
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def start(recipe: AutoencoderRecipe, *, seed: int, device: str) -> TrainingState:
    """A fresh autoencoder with its optimizer."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(seed, "pretrain_autoencoder", "weights"))
        network = UnshuffleAutoencoder(latent_channels=recipe.latent_channels, latent_std=recipe.latent_std)
    network = network.to(device, memory_format=torch.channels_last)
    return TrainingState(network, torch.optim.AdamW(network.parameters(), lr=recipe.lr, betas=(0.9, 0.99), fused=True))


def train(
    state: TrainingState, corpus: Corpus, recipe: AutoencoderRecipe, *, seed: int, device: str, threads: int
) -> Iterator[StepReport]:
    """Take steps until `recipe.steps`; the caller may stop, save or export between any two.

    Every step draws its batch and its noise from its own number, so a resumed run repeats an unbroken one.

    Yields:
        after each step: loss and psnr_db of the batch.
    """
    state.network.train()

    def loss_of(network: nn.Module, part: int) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(network, UnshuffleAutoencoder)
        rng = numpy_rng(seed, "pretrain_autoencoder", "batch", state.step, part)
        pixels = crops(corpus, rng, count=recipe.batch_size // threads, size_px=recipe.crop_px)
        pixels = pixels.to(device, memory_format=torch.channels_last)
        generator = torch_generator(seed_for(seed, "pretrain_autoencoder", "noise", state.step, part))
        with torch.autocast(device, torch.bfloat16):
            output = network.decode(network.encode(pixels).latent_dist.sample(generator)).sample.float()
        loss = reconstruction_loss(output, pixels, ssim_weight=recipe.ssim_weight)
        return loss, {"loss": loss.detach(), "psnr_db": psnr_of(output.detach(), pixels)}

    return follow_steps(state, loss_of, recipe.schedule(), threads=threads, ema_decay=recipe.ema_decay)


def psnr_of(output: Tensor, target: Tensor) -> Tensor:
    """Mean over a batch of the peak signal-to-noise ratio in dB, both [B, 3, H, W] in [-1, 1]; a scalar."""
    error = ((output - target) / 2).square().mean(dim=(1, 2, 3))
    return (-10 * torch.log10(error + 1e-8)).mean()
