"""The pool of synthetic normal images: free samples and variations of the shots (One-to-Normal, Li et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.sample import denoise, draw_noise
from anosynth.diffusion.solver import SamplerSettings, level_of, renoise
from anosynth.diffusion.text import TextEmbedding
from anosynth.licences import most_restrictive
from anosynth.params import GenerateNormalsParams
from anosynth.pools.real import RealNormal
from anosynth.samples import Provenance, Sample, SampleSpec, ShardJob
from anosynth.seeding import numpy_rng, seed_for, torch_generators

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHOD = "personalized"
ALGORITHM = 2
"""Raised whenever equal values give other samples."""


@dataclass(frozen=True, eq=False)
class NormalsGenerator:
    """A personalized backbone and what it starts from, computed once for all shards.

    Attributes:
        backbone: its U-Net carries the category's adapter (`adapters.merged`).
        adapter: digest of that adapter.
        latents: encoded normal shots, [k, C, h, w].
        shot_ids: sha256 of the shots, [k].
        licence: most restrictive licence of the shots.
        prompts: the texts a sample may be given.
        text: their embeddings, one row each.
        blank: embedding of the empty prompt, or None if guidance is 1.
        size_px: side of the square images.
    """

    backbone: LatentDiffusion
    adapter: str
    latents: Tensor
    shot_ids: tuple[str, ...]
    licence: str
    prompts: tuple[str, ...]
    text: TextEmbedding
    blank: TextEmbedding | None
    size_px: int


@dataclass(frozen=True)
class Draft:
    """What one sample will be, drawn from its own seed.

    Attributes:
        parent: index of the shot it varies, or None for a free sample.
        strength: share of T the shot is re-noised by, [0, 1]; 1 for a free sample.
        prompt: index of its prompt.
        noise_seed: seed of its noise.
    """

    parent: int | None
    strength: float
    prompt: int
    noise_seed: int


def prepare(
    backbone: LatentDiffusion,
    shots: Sequence[RealNormal],
    *,
    adapter: str,
    name: str,
    settings: GenerateNormalsParams,
) -> NormalsGenerator:
    """Encode the shots and the prompts.

    Args:
        backbone: personalized.
        shots: normal shots, [size_px, size_px, 3] each.
        adapter: digest of the adapter that the backbone carries.
        name: the object as said in a prompt.
        settings: prompts and guidance.
    """
    prompts = tuple(prompt.format(name=name) for prompt in settings.prompts)
    return NormalsGenerator(
        backbone=backbone,
        adapter=adapter,
        latents=backbone.encode([shot.image for shot in shots]),
        shot_ids=tuple(shot.sha256 for shot in shots),
        licence=most_restrictive(shot.licence for shot in shots),
        prompts=prompts,
        text=backbone.embed(prompts),
        blank=None if settings.guidance == 1.0 else backbone.embed([""]),
        size_px=shots[0].image.shape[0],
    )


def draft(spec: SampleSpec, settings: GenerateNormalsParams, *, num_shots: int) -> Draft:
    """Decide what a sample will be: a pure function of its seed and the settings.

    A share `variation_ratio` of the samples varies a shot, re-noised by a strength uniform in `settings.strength`; the
    others are free.
    """
    rng = numpy_rng(spec.seed, "draft")
    varies = rng.random() < settings.variation_ratio
    parent, strength = int(rng.integers(num_shots)), float(rng.uniform(*settings.strength))
    prompt = int(rng.integers(len(settings.prompts)))
    return Draft(parent if varies else None, strength if varies else 1.0, prompt, seed_for(spec.seed, "noise"))


def samples(job: ShardJob, generator: NormalsGenerator, settings: GenerateNormalsParams) -> Iterator[Sample]:
    """Draw the samples of one shard, batch by batch.

    Free samples and variations share a batch: a variation enters the denoising path where its noise level lies on it.

    Args:
        job: which samples, and how they are cut into batches.
        generator: from `prepare`.
        settings: solver, steps, guidance, shares and strengths.

    Yields:
        The job's samples in order. `provenance.parent_id` is the sha256 of the shot a variation was made from, None for
        a free sample.
    """
    for specs in job.batches():
        drafts = [draft(spec, settings, num_shots=len(generator.shot_ids)) for spec in specs]
        for spec, made, image in zip(specs, drafts, _draw(drafts, generator, settings), strict=True):
            provenance = Provenance(
                shot_ids=generator.shot_ids,
                licence=generator.licence,
                prompt=generator.prompts[made.prompt],
                parent_id=None if made.parent is None else generator.shot_ids[made.parent],
                backbone=generator.backbone.identity,
                adapter=generator.adapter,
            )
            yield Sample(spec, image, None, provenance)


@torch.inference_mode()
def _draw(drafts: Sequence[Draft], generator: NormalsGenerator, settings: GenerateNormalsParams) -> NDArray[np.uint8]:
    """Images of one batch, uint8 [B, size_px, size_px, 3]."""
    backbone = generator.backbone
    seeds = [made.noise_seed for made in drafts]
    noise = draw_noise(backbone.latent_shape(generator.size_px), generators=torch_generators(seeds)).to(backbone.device)
    levels = [level_of(made.strength, backbone.schedule) for made in drafts]
    parents = generator.latents[[made.parent or 0 for made in drafts]]
    varied = renoise(parents, levels=levels, noise=noise, schedule=backbone.schedule)
    free = torch.tensor([made.parent is None for made in drafts], device=noise.device).reshape(-1, 1, 1, 1)
    latents = denoise(
        backbone,
        torch.where(free, noise, varied),
        levels=levels,
        text=generator.text.rows([made.prompt for made in drafts]),
        settings=SamplerSettings(settings.solver, settings.steps, settings.guidance),
        blank=generator.blank,
    )
    return backbone.decode(latents)
