from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from anosynth.selection.residuals import TURNS, Fine, coarse_correlations, grey_square, multiple_correlation, turned
from tests.selection.pictures import washer

SIDE = 96


def squares(count: int, *, start: int = 0) -> np.ndarray:
    return np.stack([grey_square(washer(start + at), side=SIDE) for at in range(count)])


def test_multiple_correlation_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    model = rng.normal(size=(3, 200)).astype(np.float32)
    model -= model.mean(axis=1, keepdims=True)
    checked = 0
    for share in (0.0, 0.3, 1.0):
        target = (0.5 * model[0] - share * model[1] + rng.normal(size=200)).astype(np.float32)
        target -= target.mean()
        coefficients, *_ = np.linalg.lstsq(model.T, target, rcond=None)
        left = target - coefficients @ model
        expected = np.sqrt(1 - float(left @ left) / float(target @ target))
        assert multiple_correlation(target, model) == pytest.approx(expected, abs=1e-4)
        checked += 1
    assert checked == 3
    assert multiple_correlation(model[0], model) == pytest.approx(1.0, abs=1e-5)
    assert multiple_correlation(-model[0], model) == 0.0


def test_registration_finds_the_shift() -> None:
    """Of noise cut twice from a larger sheet, so that there is nothing to go by but the content."""
    sheet = (ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(140, 140)), 1.5) * 90 + 128).astype(np.uint8)
    fine = Fine(np.zeros((1, SIDE, SIDE), dtype=np.uint8))
    checked = 0
    for rows, columns in ((0, 0), (5, -3), (-11, 7), (20, 20)):
        one = fine.band(sheet[20 : 20 + SIDE, 20 : 20 + SIDE])
        two = fine.band(sheet[20 - rows : 20 - rows + SIDE, 20 - columns : 20 - columns + SIDE])
        correlation, shift = fine.correlation(one, two)
        assert shift == (rows, columns)
        assert correlation > 0.98
        checked += 1
    assert checked == 4


def test_half_a_pixel_does_not_hide_a_copy() -> None:
    many = squares(12)
    fine = Fine(many)
    moved = ndimage.shift(many[0].astype(float), (2.5, -1.5), order=3, mode="nearest").clip(0, 255).astype(np.uint8)
    assert fine.correlation(fine.band(many[0]), fine.band(moved))[0] > 0.95
    assert fine.correlation(fine.band(many[1]), fine.band(moved))[0] < 0.3


def test_the_eight_orientations_are_all_different_and_told_apart() -> None:
    many = squares(10)
    every = np.stack([turned(many[0], turn) for turn in range(len(TURNS))])
    assert len({one.tobytes() for one in every}) == len(TURNS) == 8
    undone = [0, 3, 2, 1, 4, 5, 6, 7]
    found = coarse_correlations(many, every)[:, 0]
    assert [int(np.argmax(found[:, turn])) for turn in range(8)] == undone


def test_what_all_parts_share_is_taken_out() -> None:
    """Naive high-pass residuals of independent parts in one pose correlate by more than 0.9; ours do not."""
    many = squares(16)
    grey = many.astype(float)
    naive = grey - ndimage.gaussian_filter(grey, (0, 4, 4))
    fine = Fine(many)
    bands = [fine.band(one) for one in many]
    raw, ours = [], []
    for one in range(8):
        for two in range(8, 16):
            raw.append(float(np.corrcoef(naive[one].ravel(), naive[two].ravel())[0, 1]))
            ours.append(fine.correlation(bands[one], bands[two])[0])
    assert min(raw) > 0.9
    assert max(ours) < 0.4
    assert len(ours) == 64
