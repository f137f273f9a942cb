"""The Frechet distance between two sets of feature rows, as in FID, without a matrix square root.

    F = |m_x - m_y|^2 + tr S_x + tr S_y - 2 tr (S_x S_y)^(1/2)        (Heusel et al. 2017, FID)

The last trace needs no square root of a matrix. With S_x = A A^T the eigenvalues of S_x S_y are those of the symmetric
A^T S_y A, and for two factors S_x = A A^T and S_y = B B^T the trace is the sum of the singular values of A^T B. Centred
rows over sqrt(n - 1) are such a factor, so few images cost a matrix of images by images, not of features by features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import LinAlgError, cholesky, eigh, eigvalsh, svdvals

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean float64 [d] and covariance float64 [d, d] (divided by n - 1) of `num_rows` rows."""

    num_rows: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


class MomentSums:
    """Mean and covariance of any number of rows in the memory of one [d, d] matrix, mergeable over shards.

    Sums are kept about the first row seen, so that a large common offset costs no digits.
    """

    def __init__(self, num_dims: int) -> None:
        """Start empty, for rows of `num_dims` features."""
        self.num_rows = 0
        self._origin = np.zeros(num_dims)
        self._sum = np.zeros(num_dims)
        self._products = np.zeros((num_dims, num_dims))

    def update(self, rows: NDArray[np.float32]) -> None:
        """Add rows [N, d].

        Raises:
            ValueError: if they are of another width or not finite.
        """
        if rows.ndim != 2 or rows.shape[1] != self._sum.size or not np.isfinite(rows).all():
            raise ValueError(f"rows must be finite and [N, {self._sum.size}], got {list(rows.shape)}")
        if not len(rows):
            return
        if self.num_rows == 0:
            self._origin = rows[0].astype(np.float64)
        moved = rows.astype(np.float64) - self._origin
        self.num_rows += len(rows)
        self._sum += moved.sum(axis=0)
        self._products += moved.T @ moved

    def merge(self, other: MomentSums) -> None:
        """Add everything another one has seen; `other` stays as it is."""
        if other.num_rows == 0:
            return
        if self.num_rows == 0:
            self._origin = other._origin
        shift = other._origin - self._origin
        crossed = np.outer(other._sum, shift)
        self._products += other._products + crossed + crossed.T + other.num_rows * np.outer(shift, shift)
        self._sum += other._sum + other.num_rows * shift
        self.num_rows += other.num_rows

    def result(self) -> Moments:
        """Mean and covariance of everything seen.

        Raises:
            ValueError: below two rows.
        """
        if self.num_rows < 2:
            raise ValueError(f"a covariance needs at least 2 rows, got {self.num_rows}")
        offset = self._sum / self.num_rows
        covariance = (self._products - self.num_rows * np.outer(offset, offset)) / (self.num_rows - 1)
        return Moments(self.num_rows, self._origin + offset, covariance)


def moments(rows: NDArray[np.float32]) -> Moments:
    """Mean and covariance of rows [N, d], N >= 2."""
    sums = MomentSums(rows.shape[1])
    sums.update(rows)
    return sums.result()


def frechet_distance(x: Moments, y: Moments) -> float:
    """The Frechet distance between two normal distributions, >= 0 up to rounding.

    One Cholesky factor, two products and the eigenvalues of a symmetric matrix; where S_x has no Cholesky factor (fewer
    rows than features, or dependent features) its eigenvectors are taken in its place.
    """
    try:
        factor = cholesky(x.covariance, lower=True, check_finite=False)
    except LinAlgError:
        values, vectors = eigh(x.covariance, check_finite=False)
        kept = values > values[-1] * np.finfo(np.float64).eps * len(values)
        factor = vectors[:, kept] * np.sqrt(values[kept])
    product = factor.T @ y.covariance @ factor
    roots = np.sqrt(np.maximum(eigvalsh(product, check_finite=False), 0.0)) if product.size else np.zeros(0)
    apart = np.square(x.mean - y.mean).sum()
    return float(apart + np.trace(x.covariance) + np.trace(y.covariance) - 2.0 * roots.sum())


def frechet_of_rows(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """The Frechet distance between the normal distributions fitted to two sets of rows, [M, d] and [N, d].

    With fewer rows than features on both sides no [d, d] matrix is ever formed.

    Raises:
        ValueError: below two rows on either side.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a covariance needs at least 2 rows, got {len(x)} and {len(y)}")
    if max(len(x), len(y)) >= x.shape[1]:
        return frechet_distance(moments(x), moments(y))
    a, b = x.astype(np.float64), y.astype(np.float64)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    a, b = (a - mean_a) / np.sqrt(len(a) - 1), (b - mean_b) / np.sqrt(len(b) - 1)
    apart = np.square(mean_a - mean_b).sum()
    shared = svdvals(a @ b.T, check_finite=False).sum()
    return float(apart + np.square(a).sum() + np.square(b).sum() - 2.0 * shared)
