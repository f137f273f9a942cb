"""Samplers on the toy backbone: one generator per picture, nothing else that is random."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from anosynth.diffusion import toy
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.sample import denoise, draw_noise, image_to_image, inpaint, text_to_image
from anosynth.diffusion.solver import SamplerSettings
from anosynth.seeding import torch_generators

SIDE = 64
FAST = SamplerSettings("dpm_solver", 4)
SHAPE = (4, 8, 8)
SEEDS = (11, 12, 13, 14)


def picture(seed: int) -> np.ndarray:
    """A smooth colour field."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, SIDE // 4, axis=0), SIDE // 4, axis=1)


@contextmanager
def batches_seen(module: torch.nn.Module) -> Iterator[list[int]]:
    """Batch size of every call of a network."""
    seen: list[int] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    try:
        yield seen
    finally:
        handle.remove()


def far(left: np.ndarray, right: np.ndarray) -> int:
    return int(np.abs(left.astype(int) - right.astype(int)).max())


def test_noise_is_exactly_the_same_however_the_batch_is_cut() -> None:
    whole = draw_noise(SHAPE, generators=torch_generators(SEEDS))
    parts = [draw_noise(SHAPE, generators=torch_generators(cut)) for cut in (SEEDS[:1], SEEDS[1:3], SEEDS[3:])]
    assert torch.equal(whole, torch.cat(parts))
    assert whole.dtype == torch.float32


Sampler = Callable[[LatentDiffusion, tuple[int, ...]], np.ndarray]


def from_text(backbone: LatentDiffusion, seeds: tuple[int, ...]) -> np.ndarray:
    return text_to_image(
        backbone,
        backbone.embed(["a photo of normal tile"]),
        size_px=SIDE,
        settings=FAST,
        generators=torch_generators(seeds),
    )


def from_picture(backbone: LatentDiffusion, seeds: tuple[int, ...]) -> np.ndarray:
    return image_to_image(
        backbone,
        [picture(seed) for seed in seeds],
        backbone.embed(["a photo of normal tile"]),
        strengths=[(seed - 10) / 5 for seed in seeds],
        settings=FAST,
        generators=torch_generators(seeds),
    )


def into_hole(backbone: LatentDiffusion, seeds: tuple[int, ...]) -> np.ndarray:
    return inpaint(
        backbone,
        [picture(seed) for seed in seeds],
        [hole() for _ in seeds],
        backbone.embed(["a photo of normal tile"]),
        strengths=[1.0] * len(seeds),
        settings=FAST,
        generators=torch_generators(seeds),
    )


def hole() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[20:40, 20:41] = 255
    return mask


EACH = pytest.mark.parametrize("sampler", [from_text, from_picture, into_hole])


@EACH
def test_a_picture_does_not_depend_on_its_companions(sampler: Sampler, backbone: LatentDiffusion) -> None:
    together = sampler(backbone, SEEDS)
    assert together.shape == (4, SIDE, SIDE, 3)
    assert together.dtype == np.uint8
    for cut in (SEEDS[:1], SEEDS[1:]):
        apart = sampler(backbone, cut)
        start = SEEDS.index(cut[0])
        assert far(apart, together[start : start + len(cut)]) <= 1
    assert far(together[0], together[1]) > 20


@EACH
def test_nothing_is_drawn_without_a_generator(sampler: Sampler, backbone: LatentDiffusion) -> None:
    """The global generator's state changes no bit; a change of it would fail the test as well."""
    first = sampler(backbone, SEEDS[:2])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(99)
        second = sampler(backbone, SEEDS[:2])
    assert np.array_equal(first, second)
    assert not np.array_equal(first, sampler(backbone, SEEDS[2:]))


def test_at_strength_zero_a_picture_is_its_vae_round_trip_and_the_unet_is_not_asked(backbone: LatentDiffusion) -> None:
    images = [picture(1), picture(2)]
    with batches_seen(backbone.unet) as seen:
        drawn = image_to_image(
            backbone,
            images,
            backbone.embed(["cat"]),
            strengths=[0.0, 0.0],
            settings=FAST,
            generators=torch_generators((1, 2)),
        )
    assert seen == []
    assert np.array_equal(drawn, backbone.decode(backbone.encode(images)))


def test_guidance_one_asks_once_per_step_and_guidance_asks_for_both_in_one_call(backbone: LatentDiffusion) -> None:
    text, blank = backbone.embed(["cat"]), backbone.embed([""])
    noisy = draw_noise(SHAPE, generators=torch_generators((1, 2)))
    seen: dict[float, list[int]] = {}
    for guidance in (1.0, 3.0):
        settings = SamplerSettings("ddim", 3, guidance)
        with batches_seen(backbone.unet) as batches:
            denoise(backbone, noisy, levels=[1000, 1000], text=text, settings=settings, blank=blank)
        seen[guidance] = batches
    assert seen == {1.0: [2, 2, 2], 3.0: [4, 4, 4]}
    with pytest.raises(ValueError, match=r"guidance 3\.0 needs the embedding of the empty prompt"):
        denoise(backbone, noisy, levels=[1000, 1000], text=text, settings=SamplerSettings("ddim", 3, 3.0))


def test_guidance_follows_its_formula(backbone: LatentDiffusion) -> None:
    """One DDIM step to clean: z_0 = (z - sigma (u + g (c - u))) / alpha."""
    text, blank, scale = backbone.embed(["cat"]), backbone.embed([""]), 2.5
    noisy = draw_noise(SHAPE, generators=torch_generators((1,)))
    ours = denoise(backbone, noisy, levels=[500], text=text, settings=SamplerSettings("ddim", 1, scale), blank=blank)
    with torch.no_grad():
        given, free = (backbone.predict(noisy, torch.tensor([499]), one) for one in (text, blank))
    abar = float(backbone.schedule.abar[499])
    wanted = (noisy - (1.0 - abar) ** 0.5 * (free + scale * (given - free))) / abar**0.5
    assert torch.allclose(ours, wanted, atol=1e-4)


def test_each_picture_follows_its_own_prompt(backbone: LatentDiffusion) -> None:
    text = backbone.embed(["a photo of normal tile", "cat"])
    noisy = draw_noise(SHAPE, generators=torch_generators((5, 5)))

    def drawn(rows: list[int]) -> Tensor:
        return denoise(backbone, noisy, levels=[1000, 600], text=text.rows(rows), settings=FAST)

    straight, swapped = drawn([0, 1]), drawn([1, 0])
    assert not torch.allclose(straight[0], swapped[0], atol=1e-2)
    assert torch.allclose(drawn([0, 0])[0], straight[0], atol=1e-4)
    assert torch.allclose(drawn([1, 1])[1], straight[1], atol=1e-4)
    with pytest.raises(ValueError, match="2 latents, 2 levels and 3 prompts do not fit together"):
        drawn([0, 1, 1])


def test_inpainting_redraws_the_cells_that_the_mask_touches_and_no_others(backbone: LatentDiffusion) -> None:
    decoded: list[Tensor] = []
    handle = backbone.vae.decoder.register_forward_pre_hook(lambda _, inputs: decoded.append(inputs[0]))
    quant = backbone.vae.post_quant_conv
    try:
        into_hole(backbone, SEEDS[:1])
        latents = backbone.encode([picture(SEEDS[0])])
        with torch.no_grad():
            kept = quant(latents / toy.VAE["scaling_factor"])
    finally:
        handle.remove()
    changed = (decoded[0] - kept).abs().amax(dim=(0, 1)) > 1e-4
    wanted = torch.zeros(8, 8, dtype=torch.bool)
    wanted[2:5, 2:6] = True  # rows 20..39 touch cells 2..4, columns 20..40 touch cells 2..5
    assert torch.equal(changed, wanted)


def test_a_mask_of_another_size_is_refused(backbone: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match=r"mask \[32, 32\] does not fit image \[64, 64\]"):
        inpaint(
            backbone,
            [picture(1)],
            [hole()[:32, :32]],
            backbone.embed(["cat"]),
            strengths=[1.0],
            settings=FAST,
            generators=torch_generators((1,)),
        )
