"""Drawing a defective image and its anomaly part together, from one noise each (DualAnoDiff, Jin et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

from anosynth.diffusion.background import check_backgrounds, see_background
from anosynth.diffusion.decoder import decoding
from anosynth.diffusion.dual import DualAdapter, attach_merged, detach
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.solver import SamplerSettings, level_of, renoise, solve
from anosynth.diffusion.text import TextEmbedding
from anosynth.diffusion.text_lora import adapted

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class DualPrompts:
    """What both branches are told; each B rows, or one for all.

    Attributes:
        whole: prompt of the whole image.
        part: prompt of the anomaly part; in the paper a piece of `whole` (nested prompts).
        blank: the empty prompt, one row; needed if guidance is not 1.
    """

    whole: TextEmbedding
    part: TextEmbedding
    blank: TextEmbedding | None = None


@contextmanager
def two_branches(backbone: LatentDiffusion, adapter: DualAdapter) -> Iterator[None]:
    """Let the backbone draw with both branches, merged and folded; its own attention is back at the end.

    Prompts are to be embedded inside: if the adapter has a LoRA of the text encoder, it is at work here and only here.
    """
    attach_merged(backbone.unet, adapter)
    try:
        with adapted(backbone.text, adapter.text):
            yield
    finally:
        detach(backbone.unet)


@torch.inference_mode()
def draw_pairs(
    backbone: LatentDiffusion,
    prompts: DualPrompts,
    *,
    size_px: int,
    settings: SamplerSettings,
    generators: Sequence[Generator],
    parents: Tensor | None = None,
    strength: float = 1.0,
    parent_parts: Tensor | None = None,
    backgrounds: Tensor | None = None,
    decoder: Mapping[str, Tensor] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one pair per generator, inside `two_branches`.

    Args:
        backbone: what draws.
        prompts: of both branches.
        size_px: height and width.
        settings: solver, steps, guidance (one scale for both branches).
        generators: one CPU generator per pair: first the whole image's noise, then the part's.
        parents: clean latents of normal images [B, C, h, w] that the whole images start from, or None: from noise.
        strength: share of T that parents are re-noised by; the parts start from the same level.
        parent_parts: clean latents of the parents' own parts [B, C, h, w], which the parts start from; None: zeros.
        backgrounds: clean latents of backgrounds, [B, C, h, w] or one for all [1, C, h, w], for an adapter with
            background compensation. Each pair draws one noise for its background, last, and keeps it at every step.
        decoder: weights of the subject's decoder, for the whole images; parts, on their neutral colour, are decoded by
            the backbone's own, which their masks are calibrated on.

    Returns:
        Whole images and parts, uint8 RGB [B, size_px, size_px, 3] each.

    Raises:
        ValueError: if guidance needs the empty prompt and there is none, or strength is below 1 without parents, or
            backgrounds are missing or not wanted.
    """
    if settings.guidance != 1.0 and prompts.blank is None:
        raise ValueError(f"guidance {settings.guidance} needs the embedding of the empty prompt")
    if parents is None and strength != 1.0:
        raise ValueError(f"strength is {strength} without parents; only a parent can be re-noised in part")
    count, shape = len(generators), backbone.latent_shape(size_px)
    noise = torch.stack([torch.randn(2, *shape, generator=generator) for generator in generators], dim=1)
    noise = noise.flatten(0, 1).to(backbone.device)
    levels = [level_of(strength, backbone.schedule)] * (2 * count)
    if parents is not None:
        parts = torch.zeros_like(noise[count:]) if parent_parts is None else parent_parts.to(noise)
        clean = torch.cat([parents.to(noise), parts])
        noise = renoise(clean, levels=levels, noise=noise, schedule=backbone.schedule)
    text = _texts(backbone, prompts, count, guided=settings.guidance != 1.0)
    check_backgrounds(backbone.unet, given=backgrounds is not None)
    see = None if backgrounds is None else _background_pass(backbone, prompts, backgrounds, generators)

    def model(latents: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        if see is not None:
            see(timesteps[:count])
        if settings.guidance == 1.0:
            output = backbone.predict(latents, timesteps, text)
        else:
            doubled = torch.cat([half.repeat(2, 1, 1, 1) for half in latents.chunk(2)])
            told_whole, free_whole, told_part, free_part = backbone.predict(doubled, timesteps.repeat(2), text).chunk(4)
            told, free = torch.cat([told_whole, told_part]), torch.cat([free_whole, free_part])
            output = free + settings.guidance * (told - free)
        return backbone.schedule.clean(output, latents, timesteps)

    latents = solve(model, noise, levels=levels, schedule=backbone.schedule, settings=settings)
    with decoding(backbone, decoder or {}):
        wholes = backbone.decode(latents[:count])
    return wholes, backbone.decode(latents[count:])


def _background_pass(
    backbone: LatentDiffusion, prompts: DualPrompts, backgrounds: Tensor, generators: Sequence[Generator]
) -> Callable[[Tensor], None]:
    """The pass that runs before each step, given the pairs' timesteps: with or without guidance once per pair."""
    shape = backgrounds.shape[1:]
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(backbone.device)
    clean = backgrounds.to(noise).expand_as(noise)
    text = _on_device(backbone, _as_many(prompts.whole, len(generators)))

    def see(timesteps: Tensor) -> None:
        see_background(backbone, backbone.schedule.add_noise(clean, noise, timesteps), timesteps=timesteps, text=text)

    return see


def _as_many(text: TextEmbedding, count: int) -> TextEmbedding:
    return text if len(text) == count else text.rows([0] * count)


def _on_device(backbone: LatentDiffusion, text: TextEmbedding) -> TextEmbedding:
    return TextEmbedding(text.states.to(backbone.device, backbone.dtype), text.mask)


def _texts(backbone: LatentDiffusion, prompts: DualPrompts, count: int, *, guided: bool) -> TextEmbedding:
    """Rows of the U-Net's batch: [whole | part], or [whole, blank | part, blank]; one tensor for all steps."""
    blocks = []
    for text in (prompts.whole, prompts.part):
        blocks.append(_as_many(text, count))
        if guided and prompts.blank is not None:
            blocks.append(prompts.blank.rows([0] * count))
    joined = blocks[0]
    for block in blocks[1:]:
        joined = joined.followed_by(block)
    return _on_device(backbone, joined)
