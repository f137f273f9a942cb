"""Drawing pictures: from text, from a picture re-noised in part, and into a hole of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.solver import Known, SamplerSettings, level_of, renoise, solve
from anosynth.diffusion.text import TextEmbedding

if TYPE_CHECKING:
    from numpy.typing import NDArray


def draw_noise(shape: tuple[int, int, int], *, generators: Sequence[Generator]) -> Tensor:
    """Standard normal noise, float32 [B, C, h, w] on the CPU; sample b draws only from generators[b]."""
    return torch.stack([torch.randn(shape, generator=generator, dtype=torch.float32) for generator in generators])


@torch.no_grad()
def denoise(
    backbone: LatentDiffusion,
    noisy: Tensor,
    *,
    levels: Sequence[int],
    text: TextEmbedding,
    settings: SamplerSettings,
    blank: TextEmbedding | None = None,
    known: Known | None = None,
) -> Tensor:
    """Turn noisy latents into clean ones, guided by text.

    Args:
        backbone: whose U-Net is asked.
        noisy: z_n, [B, C, h, w].
        levels: noise level n of each sample, 0 (clean, comes back unchanged) to T (pure noise).
        text: B prompts, or one for all.
        settings: solver, steps, guidance.
        blank: the empty prompt, one row; needed if guidance is not 1.
        known: what inpainting keeps.

    Returns:
        Clean latents, float32 [B, C, h, w], on the backbone's device.

    Raises:
        ValueError: if numbers of samples differ, or `blank` is missing.
    """
    count = len(noisy)
    if len(levels) != count or len(text) not in (1, count):
        raise ValueError(f"{count} latents, {len(levels)} levels and {len(text)} prompts do not fit together")
    if settings.guidance != 1.0 and blank is None:
        raise ValueError(f"guidance {settings.guidance} needs the embedding of the empty prompt")
    texts = text if len(text) == count else text.rows([0] * count)

    def clean(latents: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        prompts = texts.rows(rows.tolist())
        if settings.guidance == 1.0 or blank is None:
            output = backbone.predict(latents, timesteps, prompts)
        else:
            both = prompts.followed_by(blank.rows([0] * len(rows)))
            output, free = backbone.predict(latents.repeat(2, 1, 1, 1), timesteps.repeat(2), both).chunk(2)
            output = free + settings.guidance * (output - free)
        return backbone.schedule.clean(output, latents, timesteps)

    start = noisy.to(backbone.device, torch.float32)
    return solve(clean, start, levels=levels, schedule=backbone.schedule, settings=settings, known=known)


@torch.inference_mode()
def draw_again(
    backbone: LatentDiffusion,
    latents: Tensor,
    text: TextEmbedding,
    *,
    strengths: Sequence[float],
    settings: SamplerSettings,
    generators: Sequence[Generator],
    blank: TextEmbedding | None = None,
    redraw: Tensor | None = None,
) -> Tensor:
    """Re-noise clean latents in part and denoise them: what image-to-image, inpainting and normal twins share.

    Args:
        backbone: what draws.
        latents: z_0, [B, C, h, w].
        text: one prompt per sample, or one for all.
        strengths: share of T that each sample is re-noised by, [0, 1]; at 0 it comes back unchanged.
        settings: solver, steps of a full path, guidance.
        generators: one CPU generator per sample.
        blank: embedding of the empty prompt, if guidance is not 1.
        redraw: 1 where cells are drawn anew, 0 where they are kept exactly, [B, 1, h, w]; None: all are drawn.

    Returns:
        Clean latents, float32 [B, C, h, w].
    """
    levels = [level_of(strength, backbone.schedule) for strength in strengths]
    channels, height, width = latents.shape[1:]
    noise = draw_noise((channels, height, width), generators=generators).to(latents)
    return denoise(
        backbone,
        renoise(latents, levels=levels, noise=noise, schedule=backbone.schedule),
        levels=levels,
        text=text,
        settings=settings,
        blank=blank,
        known=None if redraw is None else Known(latents, noise, redraw.to(latents)),
    )


@torch.inference_mode()
def text_to_image(
    backbone: LatentDiffusion,
    text: TextEmbedding,
    *,
    size_px: int,
    settings: SamplerSettings,
    generators: Sequence[Generator],
    blank: TextEmbedding | None = None,
) -> NDArray[np.uint8]:
    """Draw one square picture per generator from noise alone.

    Args:
        backbone: what draws.
        text: one prompt per generator, or one for all.
        size_px: height and width.
        settings: solver, steps, guidance.
        generators: one CPU generator per picture; the only source of chance.
        blank: embedding of the empty prompt, if guidance is not 1.

    Returns:
        uint8 RGB [B, size_px, size_px, 3].
    """
    noise = draw_noise(backbone.latent_shape(size_px), generators=generators)
    levels = [backbone.schedule.num_timesteps] * len(generators)
    return backbone.decode(denoise(backbone, noise, levels=levels, text=text, settings=settings, blank=blank))


@torch.inference_mode()
def image_to_image(
    backbone: LatentDiffusion,
    images: Sequence[NDArray[np.uint8]],
    text: TextEmbedding,
    *,
    strengths: Sequence[float],
    settings: SamplerSettings,
    generators: Sequence[Generator],
    blank: TextEmbedding | None = None,
) -> NDArray[np.uint8]:
    """Re-noise each picture in part and draw it again.

    Args:
        backbone: what draws.
        images: uint8 RGB, [H, W, 3] each, one size.
        text: one prompt per picture, or one for all.
        strengths: share of T that each picture is re-noised by, [0, 1]. Near 0 nothing changes but what the VAE loses
            (at 0 the U-Net is not asked at all); near 1 the picture is forgotten.
        settings: solver, steps of a full path, guidance.
        generators: one CPU generator per picture.
        blank: embedding of the empty prompt, if guidance is not 1.

    Returns:
        uint8 RGB [B, H, W, 3].
    """
    drawn = draw_again(
        backbone,
        backbone.encode(images),
        text,
        strengths=strengths,
        settings=settings,
        generators=generators,
        blank=blank,
    )
    return backbone.decode(drawn)


@torch.inference_mode()
def inpaint(
    backbone: LatentDiffusion,
    images: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.uint8]],
    text: TextEmbedding,
    *,
    strengths: Sequence[float],
    settings: SamplerSettings,
    generators: Sequence[Generator],
    blank: TextEmbedding | None = None,
) -> NDArray[np.uint8]:
    """Draw the masked part of each picture anew and keep the rest: blended latent inpainting.

    A latent cell that touches the mask is redrawn. The rest is kept exactly in latent space; the VAE's decoder mixes
    neighbouring cells, so pixels near the mask's edge follow the new content.

    Args:
        backbone: what draws; an ordinary text-to-image model, not an inpainting variant.
        images: uint8 RGB, [H, W, 3] each, one size.
        masks: uint8 [H, W] in {0, 255} each; 255 is redrawn.
        text: one prompt per picture, or one for all.
        strengths: share of T the masked part starts from, [0, 1]; 1 forgets what was there.
        settings: solver, steps of a full path, guidance.
        generators: one CPU generator per picture.
        blank: embedding of the empty prompt, if guidance is not 1.

    Returns:
        uint8 RGB [B, H, W, 3].

    Raises:
        ValueError: if a mask and its picture differ in size.
    """
    for image, mask in zip(images, masks, strict=True):
        if mask.shape != image.shape[:2]:
            raise ValueError(f"mask {list(mask.shape)} does not fit image {list(image.shape[:2])}")
    redraw = functional.max_pool2d(torch.from_numpy(np.stack(masks)[:, None] / np.float32(255)), backbone.factor)
    drawn = draw_again(
        backbone,
        backbone.encode(images),
        text,
        strengths=strengths,
        settings=settings,
        generators=generators,
        blank=blank,
        redraw=redraw,
    )
    return backbone.decode(drawn)
