"""Training of the embedded decoder alone, last of all: on latents as a sampler leaves them, to look right.

Encoder and U-Net are frozen, so latents, adapters and what was trained on them stay valid. What a sampler hands over
differs from what the encoder would: it is a little noisy, fine detail is guessed, and the border of a drawn picture
looks like the inside of one, because the U-Net learned from windows of larger pictures.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from anosynth.diffusion.autoencoder import LATENT_STRIDE, UnshuffleAutoencoder
from anosynth.diffusion.embedded import SCHEDULE
from anosynth.diffusion.objective import perceptual_loss, reconstruction_loss
from anosynth.diffusion.schedule import NoiseSchedule
from anosynth.diffusion.solver import SamplerSettings, renoise, solve
from anosynth.diffusion.text import TextEmbedding
from anosynth.features.lite import open_network
from anosynth.pretraining.autoencoder import crops, psnr_of
from anosynth.pretraining.corpus import Corpus
from anosynth.pretraining.recipe import DecoderRecipe
from anosynth.pretraining.state import StepReport, TrainingState, follow_steps
from anosynth.seeding import numpy_rng, seed_for, torch_generator

BORDER_CELLS = 2
"""Latent cells around the window that is drawn again; the encoder saw them, the decoder does not."""
MOST_SOLVER_STEPS = 3


def start(network: UnshuffleAutoencoder, recipe: DecoderRecipe) -> TrainingState:
    """The decoder of a trained autoencoder with an optimizer of its own; the encoder is frozen with all it knows."""
    network.requires_grad_(False)
    decoder = network.decoder.requires_grad_(True)
    return TrainingState(decoder, torch.optim.AdamW(decoder.parameters(), lr=recipe.lr, betas=(0.9, 0.99), fused=True))


def redrawn(
    unet: UNet2DConditionModel,
    latents: Tensor,
    *,
    level: int,
    steps: int,
    blank: TextEmbedding,
    schedule: NoiseSchedule,
    generator: torch.Generator,
) -> Tensor:
    """Latents [B, C, h, w] lifted to a noise level and brought back by `steps` steps of DDIM, without text."""
    count = len(latents)
    assert blank.mask is not None
    states, mask = blank.states.float().to(latents.device), blank.mask.to(latents.device)

    def clean(noisy: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        output = unet(
            noisy.contiguous(memory_format=torch.channels_last),
            timesteps.to(noisy.device),
            encoder_hidden_states=states.expand(len(rows), -1, -1),
            encoder_attention_mask=mask.expand(len(rows), -1),
            return_dict=False,
        )[0]
        return schedule.clean(output.float(), noisy, timesteps)

    noise = torch.randn(latents.shape, generator=generator).to(latents)
    noisy = renoise(latents, levels=[level] * count, noise=noise, schedule=schedule)
    settings = SamplerSettings("ddim", max(1, round(steps * schedule.num_timesteps / level)))
    return solve(clean, noisy, levels=[level] * count, schedule=schedule, settings=settings)


def train(
    state: TrainingState,
    vae: UnshuffleAutoencoder,
    unet: UNet2DConditionModel,
    blank: TextEmbedding,
    corpus: Corpus,
    recipe: DecoderRecipe,
    *,
    seed: int,
    device: str,
    threads: int,
) -> Iterator[StepReport]:
    """Take steps until `recipe.steps`; the caller may stop, save or export between any two.

    A share of every batch are windows cut out of the latents of larger crops, lifted to a random noise level and drawn
    again by the U-Net; the rest are whole crops. All latents but the redrawn ones carry noise of a strength of their
    own, from none to `recipe.noise_std`. The loss is the autoencoder's plus a perceptual one.

    Args:
        state: as `start` made it, of `vae`'s decoder.
        vae: frozen but for its decoder.
        unet: finished; redraws.
        blank: the empty prompt, one row.
        corpus: pictures.
        recipe: of this stage.
        seed: root seed.
        device: torch device.
        threads: parts of a batch.

    Yields:
        after each step: loss and psnr_db of the batch.
    """
    vae.eval()
    unet.eval().requires_grad_(False)
    nn.Module.to(unet, device)
    judge = open_network("lite0", size_px=recipe.crop_px, device=torch.device(device))
    schedule = NoiseSchedule.from_config(SCHEDULE, name="embedded schedule")
    border = BORDER_CELLS * LATENT_STRIDE
    count = recipe.batch_size // threads
    num_redrawn = round(count * recipe.redrawn_ratio)

    def loss_of(decoder: nn.Module, part: int) -> tuple[Tensor, dict[str, Tensor]]:
        rng = numpy_rng(seed, "pretrain_decoder", "batch", state.step, part)
        generator = torch_generator(seed_for(seed, "pretrain_decoder", "noise", state.step, part))
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            pixels, latents = [], []
            if num_redrawn:
                large = crops(corpus, rng, count=num_redrawn, size_px=recipe.crop_px + 2 * border).to(device)
                inner = vae.encode(large).latent_dist.mode().float()
                inner = inner[:, :, BORDER_CELLS:-BORDER_CELLS, BORDER_CELLS:-BORDER_CELLS]
                level = int(rng.integers(recipe.redrawn_levels[0], recipe.redrawn_levels[1] + 1))
                steps = int(rng.integers(1, MOST_SOLVER_STEPS + 1))
                latents.append(
                    redrawn(unet, inner, level=level, steps=steps, blank=blank, schedule=schedule, generator=generator)
                )
                pixels.append(large[:, :, border:-border, border:-border])
            if count > num_redrawn:
                whole = crops(corpus, rng, count=count - num_redrawn, size_px=recipe.crop_px).to(device)
                mean = vae.encode(whole).latent_dist.mode().float()
                strength = recipe.noise_std * torch.rand(len(mean), 1, 1, 1, generator=generator)
                latents.append(mean + (strength * torch.randn(mean.shape, generator=generator)).to(device))
                pixels.append(whole)
            target = torch.cat(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            output = decoder(torch.cat(latents)).float()
            seen = perceptual_loss(judge, output, target)
        loss = reconstruction_loss(output, target, ssim_weight=recipe.ssim_weight) + recipe.perceptual_weight * seen
        return loss, {"loss": loss.detach(), "psnr_db": psnr_of(output.detach(), target)}

    return follow_steps(state, loss_of, recipe.schedule(), threads=threads, ema_decay=recipe.ema_decay)
