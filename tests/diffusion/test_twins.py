"""Normal twins on the toy backbone: what they depend on, and what they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.solver import SamplerSettings
from anosynth.diffusion.twins import TwinPainter, micro_batches, twin_painter
from tests.diffusion.test_sample import batches_seen, far, picture

PROMPTS = ("a photo of normal tile without flaw", "cat", "a dog")


def painter(backbone: LatentDiffusion, *, micro_batch: int = 4, seed: int = 0, guidance: float = 1.0) -> TwinPainter:
    sampler = SamplerSettings("dpm_solver", 10, guidance)
    return twin_painter(backbone, PROMPTS, sampler=sampler, micro_batch=micro_batch, seed=seed)


def twins(one: TwinPainter, images: list[np.ndarray], ratio: float = 0.3) -> np.ndarray:
    return one.twins(images, one.encode(images), ratio=ratio)


def test_every_query_gets_a_twin_per_prompt_and_they_differ(backbone: LatentDiffusion) -> None:
    drawn = twins(painter(backbone), [picture(1), picture(2)])
    assert drawn.shape == (2, 3, 64, 64, 3)
    assert drawn.dtype == np.uint8
    for query in range(2):
        assert far(drawn[query, 0], drawn[query, 1]) > 2
        assert far(drawn[query, 1], drawn[query, 2]) > 2
    assert far(drawn, twins(painter(backbone, seed=1), [picture(1), picture(2)])) > 2


def test_at_ratio_0_a_twin_is_the_vae_round_trip_and_the_unet_is_not_asked(backbone: LatentDiffusion) -> None:
    images, one = [picture(1), picture(2)], painter(backbone)
    with batches_seen(backbone.unet) as seen:
        drawn = twins(one, images, ratio=0.0)
    assert seen == []
    for query in range(2):
        for prompt in range(3):
            assert np.array_equal(drawn[query, prompt], backbone.decode(backbone.encode([images[query]]))[0])


def test_a_small_ratio_stays_nearer_to_the_query_than_a_large_one(backbone: LatentDiffusion) -> None:
    one, images = painter(backbone), [picture(1)]
    base = one.round_trip(one.encode(images)).astype(int)[:, None]
    errors = [float(np.abs(twins(one, images, ratio=ratio) - base).mean()) for ratio in (0.005, 0.1, 0.6)]
    assert errors == sorted(errors)
    assert errors[0] < 0.3 * errors[2]


def test_twins_depend_on_neither_companions_nor_order(backbone: LatentDiffusion) -> None:
    one, images = painter(backbone), [picture(seed) for seed in (1, 2, 3, 4)]
    together = twins(one, images)
    backwards = twins(one, images[::-1])[::-1]
    alone = np.concatenate([twins(one, [image]) for image in images])
    assert far(together, backwards) <= 1
    assert far(together, alone) <= 1
    assert np.mean(together != alone) < 1e-3


def test_the_unet_sees_batches_of_one_size_only(backbone: LatentDiffusion) -> None:
    for images, calls in (([picture(1)], 1), ([picture(1), picture(2), picture(3)], 3)):
        with batches_seen(backbone.unet) as seen:
            twins(painter(backbone), images)
        assert seen == [4] * 3 * calls  # 10 steps x 0.3


def test_guidance_asks_with_and_without_a_prompt(backbone: LatentDiffusion) -> None:
    with batches_seen(backbone.unet) as seen:
        guided = twins(painter(backbone, guidance=3.0), [picture(1)])
    assert seen == [8, 8, 8]
    assert far(guided, twins(painter(backbone), [picture(1)])) > 2


def test_a_repair_changes_the_marked_cells_and_no_others(backbone: LatentDiffusion) -> None:
    one, images = painter(backbone), [picture(1), picture(2)]
    latents, redraw = one.encode(images), torch.zeros(2, 1, 8, 8)
    redraw[0, 0, 2:4, 2:4] = 1.0
    repaired = one.repaired(images, latents, redraw, prompts=[1, 2], ratio=0.6)
    base = one.round_trip(latents)
    assert far(repaired[1], base[1]) <= 1
    assert far(repaired[0, 16:32, 16:32], base[0, 16:32, 16:32]) > 5
    alone = one.repaired(images[:1], latents[:1], redraw[:1], prompts=[1], ratio=0.6)
    assert far(alone[0], repaired[0]) <= 1
    assert far(one.repaired(images[:1], latents[:1], redraw[:1], prompts=[2], ratio=0.6)[0], repaired[0]) > 2


def test_micro_batches_hold_every_row_once_and_padding_after_it() -> None:
    cut = list(micro_batches(5, size=3))
    assert cut == [([0, 1, 2], 3), ([3, 4, 4], 2)]
    assert list(micro_batches(2, size=4)) == [([0, 1, 1, 1], 2)]
    assert list(micro_batches(0, size=4)) == []


def test_a_painter_without_prompts_is_refused(backbone: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="0 prompts"):
        twin_painter(backbone, (), sampler=SamplerSettings("ddim", 2), micro_batch=2, seed=0)
