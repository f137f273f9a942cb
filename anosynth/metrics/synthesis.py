"""How a set of synthetic images compares with a set of real ones, given one row of features per image.

What the rows are is the caller's business. With Lite features these are KID-Lite and the like, never the published
figures, which need Inception and have names of their own. A value that its input does not define (too few images) is
NaN, as in `detection`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import rel_entr

if TYPE_CHECKING:
    from numpy.typing import NDArray

KID_SUBSETS = 50
KID_SUBSET_RATIO = 0.8
SCORE_SPLITS = 10


@dataclass(frozen=True)
class Measured:
    """A number and the spread of its estimates over parts of the images; NaN where there are too few images."""

    value: float
    sd: float


@dataclass(frozen=True)
class Manifolds:
    """What two sets cover of each other; precision, recall and coverage in [0, 1], density in [0, inf), or NaN.

    Attributes:
        precision: share of the generated images inside a ball around a real one: how many look real.
        recall: share of the real images inside a ball around a generated one: how much of the real is reached.
        density: real balls around a generated image, over k: like precision, but an outlier's wide ball counts once.
        coverage: share of the real balls that hold a generated image.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def polynomial_mmd(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """Unbiased squared MMD with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018, KID).

    Args:
        x: one row per image, [M, d].
        y: one row per image, [N, d].

    Returns:
        The estimate, which may be negative; NaN below two rows on either side.
    """
    if min(len(x), len(y)) < 2:
        return float("nan")
    return _mmd(*_kernels(x, y))


def kid_lite(
    x: NDArray[np.float32], y: NDArray[np.float32], *, rng: np.random.Generator, subsets: int = KID_SUBSETS
) -> Measured:
    """`polynomial_mmd` of Lite features; sd over subsets of 80 % drawn without replacement from each side.

    The sd is no bootstrap's: subsets share most images, so it is about half of the standard error, which is
    sqrt(m / (n - m)) = 2 times it (the delete-d jackknife, Shao and Wu 1989, m of n images kept).

    The kernels are computed once; a subset takes its rows and columns of them.

    Args:
        x: float32 [M, d].
        y: float32 [N, d].
        rng: draws the subsets.
        subsets: how many.
    """
    if min(len(x), len(y)) < 2:
        return Measured(float("nan"), float("nan"))
    kxx, kyy, kxy = _kernels(x, y)
    m, n = int(KID_SUBSET_RATIO * len(x)), int(KID_SUBSET_RATIO * len(y))
    value = _mmd(kxx, kyy, kxy)
    if min(m, n) < 2:
        return Measured(value, float("nan"))
    draws = []
    for _ in range(subsets):
        rows, columns = rng.permutation(len(x))[:m], rng.permutation(len(y))[:n]
        draws.append(_mmd(kxx[np.ix_(rows, rows)], kyy[np.ix_(columns, columns)], kxy[np.ix_(rows, columns)]))
    return Measured(value, float(np.std(draws)))


def manifolds(real: NDArray[np.float32], generated: NDArray[np.float32], *, neighbours: int) -> Manifolds:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    The manifold of a set is the union of balls around its rows, each reaching to the k-th nearest other row.

    Args:
        real: [M, d].
        generated: [N, d].
        neighbours: k >= 1; 3 in the first paper, 5 in the second.

    Returns:
        What is defined: precision, density and coverage need M > k, recall needs N > k, all need both sides.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours is {neighbours}; it must be at least 1")
    nan = float("nan")
    if not len(real) or not len(generated):
        return Manifolds(nan, nan, nan, nan)
    between = _squared_distances(real, generated)
    precision, recall, density, coverage = nan, nan, nan, nan
    if len(real) > neighbours:
        inside = between <= _squared_radii(real, neighbours)[:, None]
        precision, density = float(inside.any(axis=0).mean()), float(inside.sum(axis=0).mean() / neighbours)
        coverage = float(inside.any(axis=1).mean())
    if len(generated) > neighbours:
        recall = float((between <= _squared_radii(generated, neighbours)).any(axis=1).mean())
    return Manifolds(precision, recall, density, coverage)


def inception_score(probabilities: NDArray[np.float64], *, splits: int = SCORE_SPLITS) -> Measured:
    """Mean and standard deviation of the Inception score over equal parts (Salimans et al. 2016).

        exp(mean over x of KL(p(y | x) || p(y))),    p(y) the mean of p(y | x) over the part

    It knows no real image, and no part of n images can score above n: with few images it says little.

    Args:
        probabilities: p(y | x) of the Inception network, one row per generated image, [N, C].
        splits: parts of consecutive rows; 10 in the paper.

    Returns:
        Mean and population standard deviation over the parts; NaN below one image per part.
    """
    count = len(probabilities)
    if count < splits:
        return Measured(float("nan"), float("nan"))
    parts = [probabilities[part * count // splits : (part + 1) * count // splits] for part in range(splits)]
    scores = [np.exp(rel_entr(part, part.mean(axis=0)).sum(axis=1).mean()) for part in parts]
    return Measured(float(np.mean(scores)), float(np.std(scores)))


def _kernels(
    x: NDArray[np.float32], y: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    a, b, d = x.astype(np.float64), y.astype(np.float64), x.shape[1]
    return (a @ a.T / d + 1) ** 3, (b @ b.T / d + 1) ** 3, (a @ b.T / d + 1) ** 3


def _mmd(kxx: NDArray[np.float64], kyy: NDArray[np.float64], kxy: NDArray[np.float64]) -> float:
    m, n = len(kxx), len(kyy)
    within_x = (kxx.sum() - np.trace(kxx)) / (m * (m - 1))
    within_y = (kyy.sum() - np.trace(kyy)) / (n * (n - 1))
    return float(within_x + within_y - 2 * kxy.mean())


def _squared_distances(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
    """|x_i - y_j|^2, [M, N], by subtraction: a product would cancel, and equal rows have distance 0."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    return np.stack([np.square(b - row).sum(axis=1) for row in a])


def _squared_radii(rows: NDArray[np.float32], neighbours: int) -> NDArray[np.float64]:
    distances = _squared_distances(rows, rows)
    np.fill_diagonal(distances, np.inf)
    return np.partition(distances, neighbours - 1, axis=1)[:, neighbours - 1]
