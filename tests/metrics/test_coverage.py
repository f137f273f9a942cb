"""The intervals cover what they promise; the long proof runs with `make faults` and its result is in docs/proofs.md."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from anosynth.metrics.intervals import difference_bounds, level_bounds
from tests.metrics import simulated

GAIN = 0.5
SEED_SD = 0.15
POPULATION = 12_000


@cache
def truth(num_seeds: int) -> dict[str, NDArray[np.float64]]:
    """Metrics of both arms on 12,000 groups; with several seeds averaged over 48 runs, else of the run without luck."""
    rng = np.random.default_rng(7)
    runs, seed_sd = (48, SEED_SD) if num_seeds > 1 else (1, 0.0)
    drawn = simulated.draw(rng, sets=1, groups=POPULATION, seeds=runs, seed_sd=seed_sd, gain=GAIN)
    pooled = [counts.sum(3)[:, 0] for counts in drawn]
    return {name: metric(*pooled).mean(-1) for name, metric in simulated.METRICS.items()}


def coverage(groups: int, seeds: int, *, sets: int) -> dict[str, float]:
    """Share of simulated test sets whose interval holds the truth, for levels and paired differences."""
    rng = np.random.default_rng([groups, seeds])
    seed_sd = SEED_SD if seeds > 1 else 0.0
    inside: dict[str, list[NDArray[np.bool_]]] = {}
    for _ in range(0, sets, 100):
        positives, negatives = simulated.draw(rng, sets=100, groups=groups, seeds=seeds, seed_sd=seed_sd, gain=GAIN)
        for name, metric in simulated.METRICS.items():
            full = metric(positives.sum(3), negatives.sum(3))
            left = metric(positives.sum(3, keepdims=True) - positives, negatives.sum(3, keepdims=True) - negatives)
            real, better = truth(seeds)[name]
            level = level_bounds(full[0], left[0], confidence=0.95)
            gain = difference_bounds((full[1], full[0]), (left[1], left[0]), confidence=0.95)
            inside.setdefault(name, []).append((level.low <= real) & (real <= level.high))
            inside.setdefault(f"{name} gain", []).append((gain.low <= better - real) & (better - real <= gain.high))
    return {name: float(np.concatenate(found).mean()) for name, found in inside.items()}


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("groups", [7, 20, 50])
@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_of_95_percent_cover_93_to_97_in_2000_simulations(groups: int, seeds: int) -> None:
    found = coverage(groups, seeds, sets=2000)
    print(f"\n{groups} groups, {seeds} seeds: " + ", ".join(f"{name} {share:.3f}" for name, share in found.items()))
    assert len(found) == 4
    assert all(0.93 <= share <= 0.97 for share in found.values()), found


def test_intervals_cover_about_what_they_promise_in_few_simulations() -> None:
    found = coverage(7, 1, sets=300)
    assert len(found) == 4
    assert all(0.90 <= share <= 0.99 for share in found.values()), found
