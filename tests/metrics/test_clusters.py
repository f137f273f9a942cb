"""The intra-cluster distance against a loop over all pairs, and how often it asks the network."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from anosynth.features.lite import LiteFeatures
from anosynth.metrics.clusters import intra_cluster_distance

Image = NDArray[np.uint8]


class Counted:
    """Colours as descriptions; counts what was asked."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, images: Sequence[Image]) -> NDArray[np.float32]:
        self.passes += len(images)
        return np.stack([image.mean(axis=(0, 1)) for image in images]).astype(np.float32)


def flat(level: float) -> Image:
    return np.full((4, 4, 3), level, np.uint8)


def pictures(seed: int, count: int, level: int) -> list[Image]:
    rng = np.random.default_rng(seed)
    return [np.clip(rng.normal(level, 6, (4, 4, 3)), 0, 255).astype(np.uint8) for _ in range(count)]


def naive(images: list[Image], references: list[Image], describe: Counted) -> float:
    clusters: dict[int, list[Image]] = {}

    def distance(a: Image, b: Image) -> float:
        return float(np.sum((describe([a])[0].astype(float) - describe([b])[0]) ** 2))

    for image in images:
        nearest = min(range(len(references)), key=lambda at: distance(image, references[at]))
        clusters.setdefault(nearest, []).append(image)
    means = [np.mean([distance(a, b) for a, b in combinations(one, 2)]) for one in clusters.values() if len(one) > 1]
    return float(np.mean(means))


def test_the_value_is_the_mean_over_clusters_of_the_mean_over_pairs() -> None:
    references = [flat(40), flat(120), flat(220)]
    images = pictures(1, 7, 42) + pictures(2, 4, 118) + pictures(3, 1, 215)
    describe = Counted()
    found = intra_cluster_distance(images, references, describe=describe, rng=np.random.default_rng(0))
    assert found.sizes == (7, 4, 1)
    assert found.value == pytest.approx(naive(images, references, Counted()), rel=1e-5)
    assert found.sd > 0


def test_a_crowded_cluster_is_capped_and_the_network_is_asked_no_more_than_promised() -> None:
    references = [flat(40), flat(220)]
    images = pictures(1, 90, 42) + pictures(2, 20, 215)
    describe = Counted()
    found = intra_cluster_distance(images, references, describe=describe, rng=np.random.default_rng(0), cap=50)
    assert found.num_described == describe.passes == len(images) + len(references) + 50 + 20
    assert describe.passes <= len(images) + len(references) + len(references) * 50
    pairs = Counted()
    naive(images, references, pairs)
    assert pairs.passes > 20 * describe.passes


def test_held_descriptions_are_not_asked_for_again_and_change_nothing() -> None:
    references = [flat(40), flat(220)]
    images = pictures(1, 60, 42) + pictures(2, 20, 215)
    row_bytes = 3 * 4
    passes, values = {}, set()
    for held in (0, 30, 70, 80):
        describe, rng = Counted(), np.random.default_rng(0)
        found = intra_cluster_distance(images, references, describe=describe, rng=rng, held_bytes=held * row_bytes)
        assert found.num_described == describe.passes
        passes[held] = describe.passes
        values.add((found.value, found.sd, found.sizes))
    assert len(values) == 1
    assert passes[0] == len(images) + len(references) + 50 + 20
    assert passes[80] == len(images) + len(references)
    assert passes[80] < passes[70] < passes[30] < passes[0]


def test_copies_have_distance_zero_and_single_members_none() -> None:
    references = [flat(40), flat(220)]
    copies = intra_cluster_distance([flat(42)] * 5, references, describe=Counted(), rng=np.random.default_rng(0))
    assert (copies.value, copies.sizes) == (0.0, (5, 0))
    assert math.isnan(copies.sd)
    lone = intra_cluster_distance([flat(42), flat(210)], references, describe=Counted(), rng=np.random.default_rng(0))
    assert math.isnan(lone.value)
    assert lone.sizes == (1, 1)


def test_no_reference_or_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="0 references"):
        intra_cluster_distance([flat(1)], [], describe=Counted(), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="cap of 1"):
        intra_cluster_distance([flat(1)], [flat(1)], describe=Counted(), rng=np.random.default_rng(0), cap=1)


def test_lite_distances_grow_with_what_was_done_to_a_picture() -> None:
    lite = LiteFeatures("lite2", size_px=64, levels=(1, 2, 3, 4))
    rng = np.random.default_rng(5)
    base = np.kron(rng.integers(60, 190, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    noise = rng.normal(0, 1, base.shape)
    noisy = [np.clip(base + sigma * noise, 0, 255).astype(np.uint8) for sigma in (0, 5, 40)]
    described = lite.perceptual([base, *noisy])
    distances = np.square(described[1:] - described[0]).sum(axis=1)
    assert distances[0] == 0.0
    assert (np.diff(distances) > 0).all()
    assert distances[-1] <= 4 * 4
