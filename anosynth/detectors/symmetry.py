"""How the references are alike: which mirror images are normal too, and whether they agree on what lies where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from anosynth.detectors.triplet import Bank, branch_map, nearest_normal

if TYPE_CHECKING:
    from numpy.typing import NDArray

Mirror = Literal["left_right", "top_bottom", "half_turn"]
MIRRORS: tuple[Mirror, ...] = get_args(Mirror)
NEARBY = 40.0
"""Place weight that keeps the nearest patch within about two cells of a grid of 28."""
Levels = Sequence["NDArray[np.float32]"]


def mirrored(image: NDArray[np.uint8], mirror: Mirror) -> NDArray[np.uint8]:
    """Mirror a picture [H, W, 3] along one axis or both."""
    down = -1 if mirror in ("top_bottom", "half_turn") else 1
    right = -1 if mirror in ("left_right", "half_turn") else 1
    return np.ascontiguousarray(image[::down, ::right])


def normal_mirrors(
    images: Sequence[NDArray[np.uint8]],
    describe: Callable[[Sequence[NDArray[np.uint8]]], Levels],
    *,
    tolerance: float,
) -> dict[Mirror, float]:
    """Choose the mirror images that references resemble about as much as they resemble each other.

    Of every reference a, S_N's mean map against the mirror images of the others, over that against the others as they
    are; both summed over a. Around 1 a mirror image is one normal part more; a thread of the other hand is farther.

    Args:
        images: the references, uint8 RGB [H, W, 3]; with a single one nothing can be told, and none is chosen.
        describe: gives patches of images, per level float32 [B, gh, gw, D_l], rows of length 1.
        tolerance: greatest quotient of a chosen mirror; 0 asks nothing and chooses none.

    Returns:
        The chosen ones with their quotients.
    """
    if tolerance == 0.0 or len(images) < 2:
        return {}
    own = describe(images)
    usual = _distance(own, own)
    found: dict[Mirror, float] = {}
    for mirror in MIRRORS:
        quotient = _distance(own, describe([mirrored(image, mirror) for image in images])) / usual if usual else np.inf
        if quotient <= tolerance:
            found[mirror] = float(quotient)
    return found


def _distance(own: Levels, others: Levels, *, place_weight: float = 0.0) -> float:
    """Sum over images of the mean distance to the nearest patch of the others, the one of the same index left out."""
    total = 0.0
    for at in range(len(own[0])):
        banks = [
            Bank(np.delete(level, at, axis=0).reshape(-1, level.shape[-1]), level[:0].reshape(0, level.shape[-1]), 1.0)
            for level in others
        ]
        apart = nearest_normal([level[at] for level in own], banks, place_weight=place_weight)
        total += float(branch_map(apart).mean())
    return total


def misalignment(levels: Levels) -> float:
    """Tell whether references agree on what lies where.

    Distance of every patch to the patches near its place in the other references, over that to those near a place half
    a side away, down, right or both. Far below 1: parts lie alike; about 1: a texture, or parts that lie anyhow.

    Args:
        levels: patches of at least two references, per level float32 [R, gh, gw, D_l], rows of length 1.
    """
    rows, columns = levels[0].shape[1] // 2, levels[0].shape[2] // 2
    here = _distance(levels, levels, place_weight=NEARBY)
    shifts = ((rows, 0), (0, columns), (rows, columns))
    away = [
        _distance(levels, [np.roll(level, shift, axis=(1, 2)) for level in levels], place_weight=NEARBY)
        for shift in shifts
    ]
    return here / max(sum(away) / len(away), 1e-12)
