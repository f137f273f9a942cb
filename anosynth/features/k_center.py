"""Greedy k-centre selection: the coreset of PatchCore and the choice of diverse shots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# |x|^2 - 2 x.c + |c|^2 is wrong by at most this share of the largest squared norm (float32, thousands of dimensions).
NOISE_RATIO = 4e-6
# Size of the shortlist: it doubles while most of it gets chosen, and halves while little of it does.
MIN_SHORTLIST = 32
MAX_SHORTLIST = 1024
# Rows of one block of pairwise distances, so that a block stays in the processor's cache.
BLOCK_ROWS = 2048


def greedy_k_center(points: NDArray[np.float32], *, k: int, first: int) -> NDArray[np.int64]:
    """Choose k points, each the farthest from those already chosen (Gonzalez 1985; Roth et al. 2022, Algorithm 1).

        c_1 = first;    c_{j+1} = argmax_i min_{c in chosen} |x_i - c|^2

    The usual form passes over all points for each choice. Here many choices share a pass, with the same result:

    1. The shortlist is the points whose distance d_i to the chosen exceeds a threshold tau.
    2. Distances only shrink, so while the farthest point of the shortlist is farther than tau, it is the farthest of
       all. The shortlist alone is therefore searched, choice after choice, until none of it exceeds tau.
    3. One matrix product then brings the distances of all points up to date with the block of new choices.

    Distances inside the shortlist are computed by subtraction, those of step 3 from norms and a product; tau keeps a
    margin of the latter's rounding, so that the order is the one of the exact distances.

    Args:
        points: float32 [N, D], finite.
        k: how many to choose, 1 <= k <= N.
        first: index of the first point, 0 <= first < N.

    Returns:
        int64 [k] distinct indices in the order of choice, so the choice of k is a prefix of the choice of any larger
        k. Ties go to the lowest index. When only copies of chosen points are left, the lowest indices follow.

    Raises:
        ValueError: if shapes or arguments are not as described.
    """
    if points.ndim != 2 or points.dtype != np.float32:
        raise ValueError(f"points must be float32 [N, D], got {points.dtype} {list(points.shape)}")
    num_points = points.shape[0]
    if not 1 <= k <= num_points:
        raise ValueError(f"k is {k}; it must lie in [1, {num_points}], the number of points")
    if not 0 <= first < num_points:
        raise ValueError(f"first is {first}; it must lie in [0, {num_points})")
    cover = _Cover(points)
    cover.add(np.array([first]))
    chosen = [first]
    size = 2 * MIN_SHORTLIST
    while len(chosen) < k:
        shortlist, tau = cover.shortlist(size)
        block = _choose_from(points[shortlist], cover.exact(shortlist), tau=tau, most=k - len(chosen))
        if not block:
            break
        cover.add(shortlist[block])
        chosen.extend(shortlist[block].tolist())
        if 2 * len(block) > shortlist.size:
            size = min(2 * size, MAX_SHORTLIST)
        elif 8 * len(block) < shortlist.size:
            size = max(size // 2, MIN_SHORTLIST)
    if len(chosen) < k:
        chosen.extend(np.setdiff1d(np.arange(num_points), chosen)[: k - len(chosen)].tolist())
    return np.array(chosen, dtype=np.int64)


def _choose_from(x: NDArray[np.float32], distance: NDArray[np.float32], *, tau: float, most: int) -> list[int]:
    """Plain greedy choice inside a shortlist while the farthest point is farther than tau, and not a copy."""
    block: list[int] = []
    while len(block) < most:
        farthest = int(np.argmax(distance))
        if distance[farthest] <= max(tau, 0.0):
            break
        block.append(farthest)
        np.minimum(distance, _squared_lengths(x - x[farthest]), out=distance)
        distance[farthest] = -np.inf
    return block


def _squared_lengths(x: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.einsum("nd,nd->n", x, x)
    return lengths


class _Cover:
    """The points, the chosen ones among them, and for every point its nearest chosen one."""

    def __init__(self, points: NDArray[np.float32]) -> None:
        self._points = points
        # Centred coordinates change no distance and save digits in |x|^2 - 2 x.c + |c|^2.
        self._x = points - points.mean(axis=0)
        self._norms = _squared_lengths(self._x)
        self._noise = NOISE_RATIO * float(self._norms.max())
        self._nearest = np.zeros(points.shape[0], dtype=np.int64)
        self._squared = np.full(points.shape[0], np.inf, dtype=np.float32)
        self._is_chosen = np.zeros(points.shape[0], dtype=bool)

    def add(self, chosen: NDArray[np.int64]) -> None:
        """Bring every point's nearest chosen one up to date."""
        centers, norms = -2.0 * self._x[chosen], self._norms[chosen, None]
        for start in range(0, len(self._squared), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            to_centers = centers @ self._x[rows].T
            to_centers += norms
            squared = np.maximum(to_centers.min(axis=0) + self._norms[rows], 0.0)
            closer = np.flatnonzero(squared < self._squared[rows])
            self._squared[rows][closer] = squared[closer]
            self._nearest[rows][closer] = chosen[to_centers[:, closer].argmin(axis=0)]
        self._is_chosen[chosen] = True
        self._squared[chosen] = -np.inf

    def shortlist(self, size: int) -> tuple[NDArray[np.int64], float]:
        """Return ascending indices of about `size` farthest points, and tau, which bounds the distance of all others.

        The size is met on every n-th point only; any tau below the largest distance would be correct.
        """
        step = max(1, len(self._squared) // (4 * MAX_SHORTLIST))
        some = self._squared[::step]
        rank = max(0, len(some) - 1 - max(1, size // step))
        floor = min(float(np.partition(some, rank)[rank]), float(self._squared.max()) - 3.0 * self._noise)
        if floor <= self._noise:
            return np.flatnonzero(~self._is_chosen), -np.inf
        return np.flatnonzero(self._squared > floor), floor + self._noise

    def exact(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Squared distances of some points to their nearest chosen ones, by subtraction."""
        return _squared_lengths(self._points[indices] - self._points[self._nearest[indices]])
