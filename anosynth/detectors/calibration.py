"""What is usual on the references: statistics of few numbers, pulled towards what is known of more of them.

Nothing here sees a test image: everything comes from the references themselves, each judged without itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.seeding import numpy_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRIOR_COUNT = 4.0
"""How many observations the prior weighs."""
PRIOR_RATIO = 0.15
"""Spread of an image score as a share of its mean, before any is seen; at least LEAST_PRIOR."""
LEAST_PRIOR = 0.01
MIN_SPREAD = 1e-6
SHIFT_RATIO = 0.05
PATCH_RATIO = (0.1, 0.25)


@dataclass(frozen=True, eq=False)
class Usual:
    """Location and spread of what normal images give; arrays of one shape, or of none for a single score.

    Attributes:
        mean: float32 or float64.
        spread: positive.
    """

    mean: NDArray[np.floating]
    spread: NDArray[np.floating]

    def standardized(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """(values - mean) / spread."""
        standard: NDArray[np.floating] = (values - self.mean) / self.spread
        return standard


def usual_score(scores: Sequence[float], *, prior_spread: float | None = None) -> Usual:
    """Mean and spread of an image score from k references.

    spread^2 = (sum (s - mean)^2 + n_0 p^2) / (k - 1 + n_0), with the prior spread p counted as n_0 = 4 observations.
    With one reference it is the prior alone.

    Args:
        scores: of the references, each judged without itself; at least one.
        prior_spread: p; None is 15 % of the mean, at least 0.01.
    """
    values = np.asarray(scores, dtype=np.float64)
    mean = float(values.mean())
    prior = max(LEAST_PRIOR, PRIOR_RATIO * abs(mean)) if prior_spread is None else prior_spread
    squares = float(((values - mean) ** 2).sum()) + PRIOR_COUNT * prior**2
    spread = max(MIN_SPREAD, (squares / (len(values) - 1 + PRIOR_COUNT)) ** 0.5)
    return Usual(np.array(mean), np.array(spread))


def usual_map(maps: NDArray[np.float32]) -> Usual:
    """Mean and spread of S_P at every place and level, from the twins of k references.

    A place is pulled towards its level: mean_lg = (sum_i x_ilg + n_0 mean_l) / (k + n_0), and the variance likewise. So
    a place whose detail the generator never draws well (small print) is forgiven, and few references decide little.

    Args:
        maps: float32 [k, n, gh, gw], k at least 1.

    Returns:
        Float32 [n, gh, gw] each.
    """
    values = maps.astype(np.float64)
    count = len(values)
    level_mean = values.mean(axis=(0, 2, 3), keepdims=True)[0]
    level_variance = values.var(axis=(0, 2, 3), keepdims=True)[0]
    mean = (values.sum(axis=0) + PRIOR_COUNT * level_mean) / (count + PRIOR_COUNT)
    squares = ((values - mean) ** 2).sum(axis=0)
    variance = (squares + PRIOR_COUNT * level_variance) / (count + PRIOR_COUNT)
    return Usual(mean.astype(np.float32), np.maximum(np.sqrt(variance), MIN_SPREAD).astype(np.float32))


def held_out_views(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Four shifted views of a single reference, which stand in for the references that are not there.

    Args:
        image: uint8 RGB [H, W, 3].

    Returns:
        Shifted by 5 % of the sides along both diagonals, the border mirrored.
    """
    height, width = image.shape[:2]
    down, right = max(1, round(SHIFT_RATIO * height)), max(1, round(SHIFT_RATIO * width))
    padded = np.pad(image, ((down, down), (right, right), (0, 0)), mode="symmetric")
    corners = [(0, 0), (0, 2 * right), (2 * down, 0), (2 * down, 2 * right)]
    return [np.ascontiguousarray(padded[top : top + height, left : left + width]) for top, left in corners]


def planted_defect(image: NDArray[np.uint8], *, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Paste a piece of a picture elsewhere into it, turned by half, lighter or darker (after CutPaste, Li et al. 2021).

    Args:
        image: uint8 RGB [H, W, 3], at least 16 x 16.
        seed: of sizes, places and brightness.

    Returns:
        The picture with the patch, and where it is, bool [H, W].
    """
    rng = numpy_rng(seed, "planted")
    height, width = image.shape[:2]
    rows, columns = (max(2, round(rng.uniform(*PATCH_RATIO) * side)) for side in (height, width))
    top, left, to_top, to_left = (
        int(rng.integers(side - size)) for side, size in ((height, rows), (width, columns)) * 2
    )
    piece = image[top : top + rows, left : left + columns][::-1, ::-1].astype(np.float64)
    lighter = rng.uniform(30.0, 70.0) * (1.0 if rng.random() < 0.5 else -1.0)
    pasted, where = image.copy(), np.zeros((height, width), dtype=bool)
    inside = (slice(to_top, to_top + rows), slice(to_left, to_left + columns))
    pasted[inside] = np.clip(piece + lighter, 0.0, 255.0).astype(np.uint8)
    where[inside] = True
    return pasted, where


def separation(values: NDArray[np.floating], where: NDArray[np.bool_]) -> float:
    """Share of (inside, outside) pairs in which the inside value is the greater one, ties half: AUROC.

    Args:
        values: any shape.
        where: same shape, both kinds present.
    """
    inside, outside = values[where], np.sort(values[~where])
    below = np.searchsorted(outside, inside, side="left") + np.searchsorted(outside, inside, side="right")
    return float(below.mean() / 2.0 / len(outside))
