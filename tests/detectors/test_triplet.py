"""Each of the three comparisons against ten lines of loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from anosynth.detectors.triplet import (
    Bank,
    branch_map,
    branch_score,
    full_size,
    nearest_normal,
    same_position,
    text_probability,
)
from tests.detectors.tiny_aligned import TinyAligned

SIZES = (5, 7)


def unit(*shape: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def grids(*lead: int, seed: int) -> list[np.ndarray]:
    return [unit(*lead, 3, 4, width, seed=seed + width) for width in SIZES]


@pytest.mark.parametrize("tolerance", [0, 1])
@pytest.mark.parametrize("count", [1, 3])
def test_the_same_position_map_is_a_loop_over_places(tolerance: int, count: int) -> None:
    query, twins = grids(seed=1), grids(count, seed=2)
    found = same_position(query, twins, tolerance=tolerance)
    compared = 0
    for level in range(2):
        for i in range(3):
            for j in range(4):
                distances = [
                    1.0 - float(query[level][i, j].astype(np.float64) @ twins[level][c, a, b].astype(np.float64))
                    for c in range(count)
                    for a in range(max(0, i - tolerance), min(3, i + tolerance + 1))
                    for b in range(max(0, j - tolerance), min(4, j + tolerance + 1))
                ]
                assert found[level, i, j] == pytest.approx(min(distances), abs=1e-5)
                compared += 1
    assert compared == 24


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_nearest_normal_map_is_a_loop_over_the_bank(weight: float) -> None:
    query = grids(seed=1)
    banks = [Bank(unit(6, width, seed=9), unit(5, width, seed=10), weight) for width in SIZES]
    found = nearest_normal(query, banks)
    compared = 0
    for level, bank in enumerate(banks):
        for i in range(3):
            for j in range(4):
                patch = query[level][i, j].astype(np.float64)
                real = min(1.0 - float(patch @ m.astype(np.float64)) for m in bank.real)
                made = min((1.0 - float(patch @ m.astype(np.float64))) / weight for m in bank.synthetic)
                assert found[level, i, j] == pytest.approx(min(real, made), abs=1e-5)
                compared += 1
    assert compared == 24


@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("place_weight", [0.3, 30.0])
def test_with_a_place_weight_a_patch_elsewhere_counts_as_farther_away(place_weight: float, weight: float) -> None:
    query = grids(seed=1)
    real, made = ([unit(count, 3, 4, width, seed=seed) for width in SIZES] for count, seed in ((2, 9), (1, 10)))
    banks = [
        Bank(own.reshape(-1, own.shape[-1]), drawn.reshape(-1, drawn.shape[-1]), weight)
        for own, drawn in zip(real, made, strict=True)
    ]
    found = nearest_normal(query, banks, place_weight=place_weight)
    compared, elsewhere = 0, 0
    for level in range(2):
        images = [*((image, 1.0) for image in real[level]), *((image, weight) for image in made[level])]
        for i in range(3):
            for j in range(4):
                patch = query[level][i, j].astype(np.float64)
                distances = {
                    (at, a, b): (1.0 - float(patch @ image[a, b].astype(np.float64))) / share
                    + place_weight * (((a - i) / 3) ** 2 + ((b - j) / 4) ** 2)
                    for at, (image, share) in enumerate(images)
                    for a in range(3)
                    for b in range(4)
                }
                nearest = min(distances, key=lambda key: distances[key])
                assert found[level, i, j] == pytest.approx(distances[nearest], abs=1e-5)
                elsewhere += nearest[1:] != (i, j)
                compared += 1
    assert compared == 24
    assert (elsewhere > 12) if place_weight < 1.0 else (elsewhere == 0)


def test_the_text_map_is_a_softmax_over_two_prototypes() -> None:
    space, prototypes = TinyAligned(), unit(2, 3, seed=4)
    query = [np.abs(unit(3, 4, width, seed=width)) for width in (4, 5)]
    found = text_probability(query, prototypes, space)
    compared = 0
    for level in range(2):
        for i in range(3):
            for j in range(4):
                projected = space.project(level, query[level][i, j]).astype(np.float64)
                normal, abnormal = (math.exp(space.temperature * float(projected @ row)) for row in prototypes)
                assert found[level, i, j] == pytest.approx(abnormal / (normal + abnormal), abs=1e-5)
                compared += 1
    assert compared == 24


def test_a_score_is_the_mean_over_levels_of_the_greatest_patch_and_a_map_the_mean() -> None:
    maps = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    assert branch_score(maps) == pytest.approx(np.mean([level.max() for level in maps]))
    few = [np.sort(level.ravel())[-5:].mean() for level in maps]
    assert branch_score(maps, top_ratio=0.25) == pytest.approx(np.mean(few))
    assert branch_score(maps, top_ratio=1.0) == pytest.approx(maps.mean())
    assert branch_map(maps)[1, 2] == pytest.approx(np.mean(maps[:, 1, 2]))


def test_equal_patches_are_at_distance_0_exactly() -> None:
    query = grids(seed=1)
    assert not same_position(query, [level[None] for level in query]).any()
    banks = [Bank(level.reshape(-1, level.shape[-1]), level.reshape(-1, level.shape[-1])[:0], 1.0) for level in query]
    assert not nearest_normal(query, banks).any()
    assert not nearest_normal(query, banks, place_weight=1.0).any()


def test_a_generated_patch_of_lower_weight_counts_as_farther_away() -> None:
    query, near, far = grids(seed=1)[:1], unit(4, 5, seed=2), unit(4, 5, seed=3)
    alike = nearest_normal(query, [Bank(far, near, 1.0)])
    below = nearest_normal(query, [Bank(far, near, 0.5)])
    only = nearest_normal(query, [Bank(far, near[:0], 1.0)])
    assert (alike <= below).all()
    assert (below <= only).all()
    assert (alike < below).any()


def test_a_map_at_full_size_peaks_where_the_grid_does() -> None:
    grid = np.zeros((8, 8), np.float32)
    grid[2, 5] = 1.0
    raised = full_size(grid, size_px=(80, 120))
    assert raised.shape == (80, 120)
    peak = np.unravel_index(np.argmax(raised), raised.shape)
    assert (peak[0] // 10, peak[1] // 15) == (2, 5)
