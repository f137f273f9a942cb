"""Exact nearest neighbours between two sets of feature vectors, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Largest block of pairwise distances held at once: 2**24 float32 are 64 MB.
BLOCK_ENTRIES = 1 << 24


def nearest(
    queries: NDArray[np.float32], bank: NDArray[np.float32], *, k: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k nearest bank vectors of every query, by Euclidean distance.

    Candidates come from |q - b|^2 = |q|^2 - 2 q.b + |b|^2, one matrix product per block of queries. Their distances are
    then computed again by subtraction, because the formula cancels: a query that stands in the bank has distance 0.

    Args:
        queries: float32 [Q, D], finite.
        bank: float32 [M, D], finite.
        k: neighbours per query, 1 <= k <= M.

    Returns:
        Distances float32 [Q, k], ascending, and indices into the bank int64 [Q, k]. Ties go to the lower index among
        the candidates found.

    Raises:
        ValueError: if shapes or k are not as described.
    """
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise ValueError(f"queries {list(queries.shape)} and bank {list(bank.shape)} must be [Q, D] and [M, D]")
    if not 1 <= k <= bank.shape[0]:
        raise ValueError(f"k is {k}; it must lie in [1, {bank.shape[0]}], the size of the bank")
    with torch.inference_mode():
        center = bank.mean(axis=0)
        b = torch.from_numpy(bank - center)
        q = torch.from_numpy(queries - center)
        half_norms = 0.5 * (b * b).sum(dim=1)
        rows = max(1, BLOCK_ENTRIES // b.shape[0])
        distances, indices = [], []
        for block in q.split(rows):
            # |q|^2 is the same for every b, and a factor of 2 changes no order: x = |b|^2 / 2 - q.b ranks the bank
            ranked = torch.addmm(half_norms, block, b.T, alpha=-1.0)
            candidates = ranked.topk(k, dim=1, largest=False).indices.sort(dim=1).values
            exact = torch.stack([(block - b[candidates[:, j]]).square().sum(dim=1) for j in range(k)], dim=1)
            order = exact.argsort(dim=1, stable=True)
            distances.append(exact.gather(1, order).sqrt())
            indices.append(candidates.gather(1, order))
    return torch.cat(distances).numpy(), torch.cat(indices).numpy()


def nearest_weighted(
    queries: NDArray[np.float32], bank: NDArray[np.float32], weights: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the bank vector of least |q - b| / w_b for every query: what weighs less must lie nearer to count.

    Args:
        queries: float32 [Q, D], finite.
        bank: float32 [M, D], finite, M at least 1.
        weights: float32 [M], above 0, of few distinct values: each value is one search.

    Returns:
        The quotients float32 [Q] and indices into the bank int64 [Q]. Between equal quotients the greater weight wins.

    Raises:
        ValueError: if shapes are not as described.
    """
    if len(weights) != len(bank):
        raise ValueError(f"there are {len(weights)} weights for a bank of {len(bank)}")
    distances = np.full(len(queries), np.inf, np.float32)
    indices = np.zeros(len(queries), np.int64)
    for weight in np.unique(weights)[::-1]:
        members = np.flatnonzero(weights == weight)
        near, at = nearest(queries, bank if len(members) == len(bank) else bank[members])
        quotient = near[:, 0] / weight
        closer = quotient < distances
        distances[closer] = quotient[closer]
        indices[closer] = members[at[closer, 0]]
    return distances, indices
