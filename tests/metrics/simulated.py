"""Simulated test sets: groups with random effects, two detectors, several seeds; and vectorized metrics of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 160
EDGES = np.linspace(-5.0, 9.0, BINS - 1)
MOST = 12


def shifts(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Effects of groups: gamma of shape 4, mean 0, deviation 1, skewness 1."""
    return (rng.gamma(4.0, 1.0, shape) - 4.0) / 2.0


def draw(
    rng: np.random.Generator, *, sets: int, groups: int, seeds: int, seed_sd: float, gain: float
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Draw test sets.

    A group has 1 to 12 images of each kind (Poisson, mean 6). A score is the group's shift + the image's own part +
    the arm's response to the group + noise, and for an anomalous image the arm's strength + the group's difficulty +
    the seed's luck. The second arm is stronger by `gain`.

    Returns:
        Anomalous and normal images by bin of the score, highest bin first: [2 arms, sets, seeds, groups, bins].
    """
    sizes = np.minimum(1 + rng.poisson(5.0, (2, sets, groups)), MOST)
    there = np.arange(MOST) < sizes[..., None]
    own, difficulty = 0.7 * shifts(rng, (sets, groups, 1)), 0.7 * shifts(rng, (sets, groups, 1))
    image = 0.6 * rng.normal(size=(2, sets, groups, MOST))
    counts = np.zeros((2, 2, sets, seeds, groups, BINS), np.int32)
    for arm in range(2):
        response = 0.35 * shifts(rng, (sets, groups, 1))
        luck = seed_sd * rng.normal(size=(sets, seeds))
        for seed in range(seeds):
            for kind in range(2):
                score = own + response + image[kind] + 0.3 * rng.normal(size=image[kind].shape)
                if kind == 0:
                    score = score + 1.6 + gain * arm + difficulty + luck[:, seed, None, None]
                at_set, at_group, at_image = np.nonzero(there[kind])
                bins = BINS - 1 - np.searchsorted(EDGES, score[at_set, at_group, at_image])
                np.add.at(counts, (kind, arm, at_set, seed, at_group, bins), 1)
    return counts[0], counts[1]


def auroc(positives: NDArray[np.int32], negatives: NDArray[np.int32]) -> NDArray[np.float64]:
    """Area under ROC over the last axis, bins from the highest score down."""
    p, n = positives.astype(float), negatives.astype(float)
    return np.asarray((n * (p.cumsum(-1) - 0.5 * p)).sum(-1) / (p.sum(-1) * n.sum(-1)))


def ap(positives: NDArray[np.int32], negatives: NDArray[np.int32]) -> NDArray[np.float64]:
    """Average precision over the last axis, bins from the highest score down."""
    tp, fp = positives.cumsum(-1).astype(float), negatives.cumsum(-1).astype(float)
    precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)
    return np.asarray((positives * precision).sum(-1) / tp[..., -1])


METRICS = {"auroc": auroc, "ap": ap}
