"""Greedy k-centre on 20,000 x 384 points: ours against its usual form, the same indices from both.

The usual form subtracts the newest centre from all points, takes norms and keeps the minimum, every turn (as the
published PatchCore implementations do). Run: python -m benchmarks.coreset
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from numpy.typing import NDArray

from anosynth.features.k_center import greedy_k_center
from benchmarks.measure import compare, finish

NUM_POINTS = 20_000
NUM_DIMS = 384
NUM_TURNS = 40
ASK = 2.5


def usual_form(points: NDArray[np.float32], *, k: int, first: int) -> NDArray[np.int64]:
    with torch.inference_mode():
        x = torch.from_numpy(points)
        chosen = [first]
        nearest = torch.full((x.shape[0],), torch.inf)
        while len(chosen) < k:
            distance = torch.linalg.vector_norm(x - x[chosen[-1]], dim=1)
            nearest = torch.minimum(nearest, distance)
            nearest[chosen[-1]] = 0.0
            chosen.append(int(torch.argmax(nearest)))
    return np.array(chosen, dtype=np.int64)


def main() -> int:
    points = np.random.default_rng(0).normal(size=(NUM_POINTS, NUM_DIMS)).astype(np.float32)
    usual, ours = (function(points, k=NUM_TURNS, first=0) for function in (usual_form, greedy_k_center))
    if not np.array_equal(usual, ours):
        print("coreset: the two forms chose different points", file=sys.stderr)
        return 1
    bar = compare(
        "coreset.k_center",
        ask=ASK,
        baseline=lambda: usual_form(points, k=NUM_TURNS, first=0),
        ours=lambda: greedy_k_center(points, k=NUM_TURNS, first=0),
    )
    return finish([bar])


if __name__ == "__main__":
    raise SystemExit(main())
