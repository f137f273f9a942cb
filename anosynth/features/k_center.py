"""Greedy k-centre selection: the coreset of PatchCore and the choice of diverse shots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Squared distances below this share of the largest squared norm are rounding noise of float32: the points are equal.
EQUAL_RATIO = 1e-6


def greedy_k_center(points: NDArray[np.float32], *, k: int, first: int) -> NDArray[np.int64]:
    """Choose k points, each the farthest from those already chosen (Gonzalez 1985; Roth et al. 2022, Algorithm 1).

        c_1 = first;    c_{j+1} = argmax_i min_{c in chosen} |x_i - c|^2

    Squared distances order like distances, and |x - c|^2 = |x|^2 - 2 x.c + |c|^2 needs one matrix-vector product a
    turn when the norms are known. The points are centred first, which changes no distance and saves digits.

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
    with torch.inference_mode():
        x = torch.from_numpy(points - points.mean(axis=0))
        norms = (x * x).sum(dim=1)
        noise = EQUAL_RATIO * float(norms.max())
        chosen = [first]
        nearest = torch.full((num_points,), torch.inf)
        squared = torch.empty(num_points)
        while len(chosen) < k:
            center = chosen[-1]
            torch.addmv(norms, x, x[center], alpha=-2.0, out=squared)
            torch.minimum(nearest, squared.add_(norms[center]), out=nearest)
            nearest[center] = -torch.inf
            farthest = int(nearest.argmax())
            if float(nearest[farthest]) <= noise:
                break
            chosen.append(farthest)
    rest = np.setdiff1d(np.arange(num_points), chosen)[: k - len(chosen)]
    return np.concatenate([np.array(chosen, dtype=np.int64), rest.astype(np.int64)])
