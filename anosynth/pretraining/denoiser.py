"""Training of the embedded U-Net on cached latents and token states of the corpus."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anosynth.diffusion.autoencoder import LATENT_STRIDE, UnshuffleAutoencoder
from anosynth.diffusion.embedded import SCHEDULE
from anosynth.diffusion.schedule import NoiseSchedule
from anosynth.diffusion.text import TextEmbedding, TextEncoder
from anosynth.fingerprint import digest_value
from anosynth.pretraining.corpus import Corpus
from anosynth.pretraining.recipe import DenoiserRecipe
from anosynth.pretraining.state import StepReport, TrainingState, follow_steps
from anosynth.seeding import numpy_rng, seed_for, torch_generator

IMAGES_AT_ONCE = 16


@dataclass(frozen=True)
class LatentCorpus:
    """The corpus as the denoiser sees it.

    Attributes:
        pieces: latents, float16 [rows, C, h, w] each, memory-mapped; h and w of a whole picture.
        caption_rows: for each picture the row of its caption in `text`, int64 [N].
        text: token states of the distinct captions and, in the last row, of the empty prompt; float16 states.
    """

    pieces: tuple[NDArray[np.float16], ...]
    caption_rows: NDArray[np.int64]
    text: TextEmbedding

    def __len__(self) -> int:
        return len(self.caption_rows)

    def latents(self, index: int) -> NDArray[np.float16]:
        """[C, h, w] of one picture."""
        rows = len(self.pieces[0])
        return self.pieces[index // rows][index % rows]


@torch.no_grad()
def encode_pieces(autoencoder: UnshuffleAutoencoder, corpus: Corpus, folder: Path) -> Iterator[int]:
    """Write the latents of each piece of the corpus that `folder` does not hold yet.

    Yields:
        the number of each piece made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    autoencoder.eval()
    device = next(autoencoder.parameters()).device
    for number, pixels in enumerate(corpus.pieces):
        target = folder / f"{number:04d}.npy"
        if target.exists():
            continue
        rows = []
        for start in range(0, len(pixels), IMAGES_AT_ONCE):
            batch = torch.from_numpy(np.array(pixels[start : start + IMAGES_AT_ONCE])).to(device)
            batch = (batch.permute(0, 3, 1, 2).float() / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                rows.append(autoencoder.encode(batch).latent_dist.mode().float().cpu().numpy().astype(np.float16))
        temporary = folder / f".{number:04d}.{os.getpid()}"
        with temporary.open("wb") as file:
            np.save(file, np.ascontiguousarray(np.concatenate(rows)))
        temporary.rename(target)
        yield number


def open_latents(corpus: Corpus, folder: Path, text: TextEncoder) -> LatentCorpus:
    """Memory-map what `encode_pieces` wrote; embed every distinct caption once and keep the states in `folder`."""
    pieces = tuple(np.load(folder / f"{number:04d}.npy", mmap_mode="r") for number in range(len(corpus.pieces)))
    distinct = sorted(set(corpus.captions))
    row_of = {caption: row for row, caption in enumerate(distinct)}
    rows = np.array([row_of[caption] for caption in corpus.captions], np.int64)
    prompts = [*distinct, ""]
    kept = folder / f"text-{digest_value(prompts)[:16]}.safetensors"
    if not kept.exists():
        embedding = _embed(prompts, text)
        assert embedding.mask is not None
        temporary = folder / f".text.{os.getpid()}"
        save_file({"states": embedding.states, "mask": embedding.mask}, temporary)
        temporary.rename(kept)
    tensors = load_file(kept)
    return LatentCorpus(pieces, rows, TextEmbedding(tensors["states"], tensors["mask"]))


def _embed(prompts: Sequence[str], text: TextEncoder) -> TextEmbedding:
    states, masks = [], []
    for start in range(0, len(prompts), 64):
        part = text.embed(prompts[start : start + 64])
        assert part.mask is not None
        states.append(part.states.half())
        masks.append(part.mask)
    return TextEmbedding(torch.cat(states), torch.cat(masks))


def build_unet(
    recipe: DenoiserRecipe, *, latent_channels: int, text_width: int, latent_px: int
) -> UNet2DConditionModel:
    """A fresh U-Net in Stable Diffusion 1.x's topology: cross-attention at all levels but the lowest."""
    depth = len(recipe.channels)
    return UNet2DConditionModel(
        sample_size=latent_px,
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=1,
        block_out_channels=recipe.channels,
        down_block_types=("CrossAttnDownBlock2D",) * (depth - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (depth - 1),
        cross_attention_dim=text_width,
        attention_head_dim=recipe.attention_head_dim,
        norm_num_groups=32,
    )


def start(recipe: DenoiserRecipe, *, latent_channels: int, text_width: int, seed: int, device: str) -> TrainingState:
    """A fresh U-Net with its optimizer."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(seed, "pretrain_denoiser", "weights"))
        network = build_unet(
            recipe, latent_channels=latent_channels, text_width=text_width, latent_px=recipe.size_px // LATENT_STRIDE
        )
    nn.Module.to(network, device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    return TrainingState(network, optimizer)


def velocity_weight(abar: Tensor, *, gamma: float) -> Tensor:
    """Weight of the squared velocity error: min(1, gamma / (SNR + 1)) with SNR = abar / (1 - abar).

    Low noise is weighted as by Min-SNR (Hang et al. 2023), gamma / (SNR + 1), but high noise is not faded out: there
    the text decides what is drawn and where.
    """
    snr = abar / (1.0 - abar)
    return (gamma / (snr + 1.0)).clamp(max=1.0)


@dataclass(frozen=True)
class Batch:
    """One training batch: clean latents [B, C, h, w] and the rows of their captions."""

    latents: Tensor
    rows: NDArray[np.int64]


def draw_batch(corpus: LatentCorpus, rng: np.random.Generator, *, count: int, size: int, text_dropout: float) -> Batch:
    """Random pictures, random latent windows of `size` cells, captions dropped with probability `text_dropout`."""
    blank = len(corpus.text) - 1
    latents, rows = [], np.empty(count, np.int64)
    for b in range(count):
        index = int(rng.integers(len(corpus)))
        whole = corpus.latents(index)
        y, x = rng.integers(0, whole.shape[1] - size + 1, 2)
        latents.append(whole[:, y : y + size, x : x + size].astype(np.float32))
        rows[b] = blank if rng.random() < text_dropout else corpus.caption_rows[index]
    return Batch(torch.from_numpy(np.stack(latents)), rows)


def train(
    state: TrainingState, corpus: LatentCorpus, recipe: DenoiserRecipe, *, seed: int, device: str, threads: int
) -> Iterator[StepReport]:
    """Take steps until `recipe.steps`; the caller may stop, save or export between any two.

    Every step draws batch, noise and timesteps from its own number, so a resumed run repeats an unbroken one. A share
    of the steps sees twice as many windows of half the size: half the cost, and the network learns other sizes.

    Yields:
        after each step: loss (weighted) and mse (plain, of the velocity).
    """
    state.network.train()
    assert isinstance(state.network, UNet2DConditionModel)
    # At latent sizes like these plain products beat the fused kernel on a CPU, 1.3 to 1.4 times per step.
    state.network.set_attn_processor(AttnProcessor() if device == "cpu" else AttnProcessor2_0())
    schedule = NoiseSchedule.from_config(SCHEDULE, name="embedded schedule")
    states, mask = corpus.text.states, corpus.text.mask
    assert mask is not None

    def loss_of(network: nn.Module, part: int) -> tuple[Tensor, dict[str, Tensor]]:
        half = numpy_rng(seed, "pretrain_denoiser", "size", state.step).random() < recipe.half_size_ratio
        size = recipe.size_px // LATENT_STRIDE // (2 if half else 1)
        count = recipe.batch_size // threads * (2 if half else 1)
        rng = numpy_rng(seed, "pretrain_denoiser", "batch", state.step, part)
        batch = draw_batch(corpus, rng, count=count, size=size, text_dropout=recipe.text_dropout)
        generator = torch_generator(seed_for(seed, "pretrain_denoiser", "noise", state.step, part))
        noise = torch.randn(batch.latents.shape, generator=generator)
        timesteps = torch.randint(0, schedule.num_timesteps, (count,), generator=generator)
        noisy = schedule.add_noise(batch.latents, noise, timesteps)
        target = schedule.target(batch.latents, noise, timesteps).to(device)
        weight = velocity_weight(schedule.abar[timesteps].float(), gamma=recipe.snr_gamma).to(device)
        rows = torch.from_numpy(batch.rows)
        with torch.autocast(device, torch.bfloat16):
            output = network(
                noisy.to(device).contiguous(memory_format=torch.channels_last),
                timesteps.to(device),
                encoder_hidden_states=states[rows].float().to(device),
                encoder_attention_mask=mask[rows].to(device),
                return_dict=False,
            )[0]
        error = (output.float() - target).square().mean(dim=(1, 2, 3))
        loss = (weight * error).mean()
        return loss, {"loss": loss.detach(), "mse": error.detach().mean()}

    return follow_steps(state, loss_of, recipe.schedule(), threads=threads, ema_decay=recipe.ema_decay)
