"""Planted defects: by the seed alone, of a size that follows the picture's, and a small part of it."""

import numpy as np
import pytest

from anosynth.diffusion.personalize import ALGORITHM
from anosynth.diffusion.planting import planted

SEEDS = range(60)


def ground(side_px: int) -> np.ndarray:
    """A soft gradient, on which everything planted shows."""
    ramp = np.linspace(90.0, 160.0, side_px)
    return np.repeat(np.add.outer(ramp, ramp)[..., None] / 2.0, 3, axis=2).astype(np.uint8)


def changed(image: np.ndarray, seed: int) -> np.ndarray:
    """Where a picture differs by more than five grey levels, [H, W]."""
    found = planted(image, seed=seed)
    assert (found.dtype, found.shape) == (np.uint8, image.shape)
    return np.abs(found.astype(int) - image.astype(int)).max(axis=2) > 5


def test_a_seed_decides_and_the_picture_is_left_alone() -> None:
    image = ground(64)
    before = image.copy()
    first = planted(image, seed=1)
    assert np.array_equal(first, planted(image, seed=1))
    assert not np.array_equal(first, planted(image, seed=2))
    assert np.array_equal(image, before)


def test_nearly_every_picture_shows_its_defects_and_most_of_it_stays() -> None:
    shares = np.array([changed(ground(128), seed).mean() for seed in SEEDS])
    assert len(shares) == 60
    assert (shares > 0.001).mean() > 0.9  # a few lie beyond the border, or are of the ground's own tone
    assert 0.01 < np.median(shares) < 0.15
    assert shares.max() < 0.5


def test_strokes_are_lighter_darker_or_both() -> None:
    differences = [planted(ground(128), seed=seed).astype(int) - ground(128) for seed in SEEDS]
    lighter, darker = (np.array([(sign * one > 12).mean() > 0.001 for one in differences]) for sign in (1, -1))
    assert (lighter & ~darker).sum() >= 5
    assert (darker & ~lighter).sum() >= 5
    assert (lighter & darker).sum() >= 5


@pytest.mark.parametrize("side_px", [64, 256])
def test_defects_grow_with_the_picture(side_px: int) -> None:
    share, usual = (np.mean([changed(ground(side), seed).mean() for seed in SEEDS]) for side in (side_px, 128))
    assert 0.6 * usual < share < 1.6 * usual


def test_pictures_need_not_be_square() -> None:
    image = ground(96)[:48]
    assert changed(image, 3).shape == (48, 96)


def test_results_change_only_with_the_algorithm_number() -> None:
    """Recorded by this test."""
    assert ALGORITHM == 2
    found = [planted(ground(64), seed=seed).astype(float) - ground(64) for seed in (1, 2, 3)]
    assert [float(np.abs(one).mean()) for one in found] == pytest.approx([0.3045, 0.627, 0.7424], abs=2e-3)
