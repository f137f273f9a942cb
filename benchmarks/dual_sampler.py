"""Pairs end to end: the default profile against the published recipe, and a batch against one pair at a time.

Published recipe (DualAnoDiff, profile `paper`): PNDM with 100 steps (101 evaluations, diffusers' own scheduler),
guidance 2.5, float32, one pair at a time, loose LoRAs, the exchange at full width and unfolded. Default profile:
DPM-Solver++ with 25 steps, the bottleneck exchange, LoRAs merged, the exchange folded, prompts' keys and values kept,
four pairs at a time. Fewer steps change the samples, the rest must not: it is compared first, with equal steps and
equal adapters. The note says how much of the ratio the steps alone explain. Both sides decode both images. The model is
a random one in Stable Diffusion 1.5's block layout at a twentieth of the width.

Run: python -m benchmarks.dual_sampler
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import torch
from diffusers import PNDMScheduler, UNet2DConditionModel
from numpy.typing import NDArray

from anosynth.diffusion import toy
from anosynth.diffusion.dual import DualAdapter, DualShape, attach, detach
from anosynth.diffusion.dual_sample import DualPrompts, draw_pairs, two_branches
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.solver import SamplerSettings
from anosynth.diffusion.text import TextEmbedding
from anosynth.params import ComputeParams
from anosynth.seeding import torch_generators
from benchmarks.measure import Bar, best_seconds, finish

ASK_PROFILE = 4.0
ASK_BATCH = 1.5
PAIRS = 4
SIZE_PX = 64
GUIDANCE = 2.5
PAPER_STEPS = 100
DEFAULT = SamplerSettings("dpm_solver", 25, GUIDANCE)
EQUAL_STEPS = SamplerSettings("ddim", 5, GUIDANCE)
GREY_LEVELS = 1
TOLERANCE = 1e-4
RANK = 32
COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")
Pairs = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def small_backbone() -> LatentDiffusion:
    """The toy backbone with a U-Net in Stable Diffusion 1.5's block layout: four levels, two layers a block."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 64, 64),
            attention_head_dim=8,
            cross_attention_dim=toy.WIDTH,
            norm_num_groups=8,
        )
    return LatentDiffusion.on(replace(toy.build(0), unet=unet), compute=COMPUTE)


def adapter_for(backbone: LatentDiffusion, shape: DualShape) -> DualAdapter:
    """An adapter as training leaves it: no tensor at its start."""
    adapter = DualAdapter(backbone.unet, shape, generator=torch.Generator().manual_seed(1)).requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    for value in adapter.parameters():
        value.add_(0.02 * torch.randn(value.shape, generator=generator))
    return adapter


@torch.inference_mode()
def published(backbone: LatentDiffusion, prompts: DualPrompts, *, seed: int) -> Pairs:
    """One pair by the published recipe, inside an attached adapter."""
    assert prompts.blank is not None
    (generator,) = torch_generators([seed])
    latents = torch.randn(2, *backbone.latent_shape(SIZE_PX), generator=generator)
    order = (prompts.whole, prompts.blank, prompts.part, prompts.blank)
    text = TextEmbedding(torch.cat([one.states for one in order]))
    scheduler = PNDMScheduler.from_config(dict(backbone.schedule.config), skip_prk_steps=True)
    scheduler.set_timesteps(PAPER_STEPS)
    for timestep in scheduler.timesteps:
        told_whole, free_whole, told_part, free_part = backbone.predict(
            latents.repeat_interleave(2, dim=0), timestep.expand(4), text
        )
        told, free = torch.stack([told_whole, told_part]), torch.stack([free_whole, free_part])
        latents = scheduler.step(free + GUIDANCE * (told - free), timestep, latents).prev_sample
    images = backbone.decode(latents)
    return images[:1], images[1:]


def ours(backbone: LatentDiffusion, prompts: DualPrompts, settings: SamplerSettings, seeds: list[int]) -> Pairs:
    """A batch of pairs, inside an attached adapter."""
    return draw_pairs(backbone, prompts, size_px=SIZE_PX, settings=settings, generators=torch_generators(seeds))


def agreement(backbone: LatentDiffusion, adapter: DualAdapter, prompts: DualPrompts) -> int:
    """Largest difference, in grey levels, that merging, folding and batching make at equal steps."""
    seeds = list(range(PAIRS))
    with two_branches(backbone, adapter):
        together = ours(backbone, prompts, EQUAL_STEPS, seeds)
    attach(backbone.unet, adapter)
    alone = [ours(backbone, prompts, EQUAL_STEPS, [seed]) for seed in seeds]
    detach(backbone.unet)
    return max(
        int(np.abs(together[side][at].astype(int) - alone[at][side][0].astype(int)).max())
        for at in seeds
        for side in (0, 1)
    )


@torch.inference_mode()
def prediction_gap(backbone: LatentDiffusion, adapter: DualAdapter, prompts: DualPrompts) -> float:
    """Largest difference of one evaluation, merged and in a batch against loose and pair by pair.

    Pictures of a random autoencoder hide small differences; the U-Net's own output does not.
    """
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(2 * PAIRS, *backbone.latent_shape(SIZE_PX), generator=generator)
    text = prompts.whole.rows([0] * PAIRS).followed_by(prompts.part.rows([0] * PAIRS))
    with two_branches(backbone, adapter):
        together = backbone.predict(latents, torch.full((2 * PAIRS,), 500), text)
    attach(backbone.unet, adapter)
    gaps = []
    for pair in range(PAIRS):
        rows = [pair, PAIRS + pair]
        alone = backbone.predict(latents[rows], torch.full((2,), 500), text.rows(rows))
        gaps.append(float((alone - together[rows]).abs().max()))
    detach(backbone.unet)
    return max(gaps)


def main() -> int:
    """Command line."""
    backbone, reference = small_backbone(), small_backbone()
    prompts = DualPrompts(*(backbone.embed([text]) for text in ("a vfx with sks", "sks", "")))
    paper = adapter_for(reference, DualShape("paper", RANK, float(RANK), 1))
    default = adapter_for(backbone, DualShape("default", RANK, float(RANK), 16))
    for adapter in (paper, default):
        gap, difference = prediction_gap(backbone, adapter, prompts), agreement(backbone, adapter, prompts)
        if not gap < TOLERANCE or difference > GREY_LEVELS:
            print(
                f"dual_sampler: predictions are {gap:.1e} apart, pictures of equal steps {difference} grey levels",
                file=sys.stderr,
            )
            return 1
    attach(reference.unet, paper)
    with two_branches(backbone, default):
        best = best_seconds(
            {
                "paper": lambda: published(reference, prompts, seed=0),
                "default": lambda: ours(backbone, prompts, DEFAULT, list(range(PAIRS))),
                "one": lambda: ours(backbone, prompts, DEFAULT, [0]),
            }
        )
    detach(reference.unet)
    each = best["default"] / PAIRS
    note = (
        f"CPU s per pair: paper {best['paper']:.2f}, default {each:.3f}, default one at a time {best['one']:.3f}; "
        f"steps alone explain x{(PAPER_STEPS + 1) / DEFAULT.steps:.2f}"
    )
    return finish(
        [
            Bar("dual_sampler.profile", best["paper"] / each, ASK_PROFILE, note=note),
            Bar("dual_sampler.batch", best["one"] / each, ASK_BATCH, note=note),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
