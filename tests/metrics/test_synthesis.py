"""Set metrics against the naivest loops, and against what they must say of sets whose answer is known."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from anosynth.metrics.synthesis import inception_score, kid_lite, manifolds, polynomial_mmd


def rows(seed: int, count: int, dims: int, *, shift: float = 0.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(size=(count, dims)) + shift).astype(np.float32)


def naive_mmd(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    def kernel(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
        return float((np.dot(a.astype(float), b.astype(float)) / len(a) + 1) ** 3)

    xx = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    return float(xx + yy - 2 * np.mean([kernel(a, b) for a in x for b in y]))


def naive_manifolds(real: NDArray[np.float32], made: NDArray[np.float32], k: int) -> tuple[float, float, float, float]:
    def distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
        return math.dist(a.tolist(), b.tolist())

    def radius(point: int, points: NDArray[np.float32]) -> float:
        return sorted(distance(points[point], other) for at, other in enumerate(points) if at != point)[k - 1]

    reach = [radius(i, real) for i in range(len(real))]
    reach_made = [radius(j, made) for j in range(len(made))]
    inside = [[distance(r, g) <= reach[i] for g in made] for i, r in enumerate(real)]
    precision = np.mean([any(inside[i][j] for i in range(len(real))) for j in range(len(made))])
    density = np.mean([sum(inside[i][j] for i in range(len(real))) / k for j in range(len(made))])
    coverage = np.mean([any(line) for line in inside])
    recall = np.mean([any(distance(r, g) <= reach_made[j] for j, g in enumerate(made)) for r in real])
    return float(precision), float(recall), float(density), float(coverage)


def test_polynomial_mmd_agrees_with_a_loop() -> None:
    x, y = rows(1, 5, 4), rows(2, 6, 4, shift=1.0)
    assert polynomial_mmd(x, y) == pytest.approx(naive_mmd(x, y), rel=1e-9)
    assert math.isnan(polynomial_mmd(x[:1], y))


def test_kid_lite_tells_near_from_far() -> None:
    rng = np.random.default_rng(3)
    real, same, other = rows(4, 60, 8), rows(5, 60, 8), rows(6, 60, 8, shift=1.0)
    near, far = kid_lite(same, real, rng=rng), kid_lite(other, real, rng=rng)
    assert near.value == pytest.approx(polynomial_mmd(same, real), rel=1e-12)
    assert abs(near.value) < 3 * near.sd + 0.05
    assert far.value > 10 * abs(near.value)
    assert near.sd > 0


def test_the_spread_of_kid_lite_is_that_of_subsets_measured_one_by_one() -> None:
    x, y = rows(1, 10, 4), rows(2, 7, 4, shift=0.5)
    rng = np.random.default_rng(8)
    draws = [polynomial_mmd(x[rng.permutation(10)[:8]], y[rng.permutation(7)[:5]]) for _ in range(6)]
    assert kid_lite(x, y, rng=np.random.default_rng(8), subsets=6).sd == pytest.approx(np.std(draws), rel=1e-9)


def test_twice_the_spread_of_kid_lite_is_the_standard_error() -> None:
    found = [
        kid_lite(rows(2 * at, 50, 8), rows(2 * at + 1, 50, 8, shift=0.5), rng=np.random.default_rng(at))
        for at in range(200)
    ]
    standard_error = np.std([one.value for one in found])
    assert 2 * np.mean([one.sd for one in found]) == pytest.approx(standard_error, rel=0.2)


def test_kid_lite_of_two_images_has_a_value_and_no_spread_and_of_one_neither() -> None:
    rng = np.random.default_rng(0)
    two = kid_lite(rows(1, 2, 4), rows(2, 9, 4), rng=rng)
    assert math.isfinite(two.value)
    assert math.isnan(two.sd)
    assert math.isnan(kid_lite(rows(1, 1, 4), rows(2, 9, 4), rng=rng).value)


@pytest.mark.parametrize("k", [1, 3])
def test_manifolds_agree_with_a_loop(k: int) -> None:
    real, made = rows(1, 12, 3), rows(2, 9, 3, shift=0.7)
    found = manifolds(real, made, neighbours=k)
    wanted = naive_manifolds(real, made, k)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(wanted)
    assert 0.0 < found.precision < 1.0
    assert 0.0 < found.recall < 1.0


def test_a_set_covers_itself_and_a_far_one_covers_nothing() -> None:
    real = rows(1, 12, 3)
    same, far = manifolds(real, real, neighbours=3), manifolds(real, real + 100.0, neighbours=3)
    assert (same.precision, same.recall, same.coverage) == (1.0, 1.0, 1.0)
    assert (far.precision, far.recall, far.density, far.coverage) == (0.0, 0.0, 0.0, 0.0)


def test_copies_of_one_image_are_precise_and_recall_little() -> None:
    real = rows(1, 40, 3)
    copies = np.repeat(real[:1], 20, axis=0) + rows(2, 20, 3) * np.float32(1e-3)
    found = manifolds(real, copies, neighbours=3)
    assert found.precision == 1.0
    assert found.recall <= 0.1
    assert found.coverage <= 0.3


def test_manifolds_of_too_few_images_are_undefined() -> None:
    found = manifolds(rows(1, 3, 2), rows(2, 9, 2), neighbours=3)
    assert math.isnan(found.precision)
    assert math.isnan(found.density)
    assert math.isnan(found.coverage)
    assert math.isfinite(found.recall)
    assert math.isnan(manifolds(rows(1, 9, 2), rows(2, 9, 2)[:0], neighbours=3).precision)
    with pytest.raises(ValueError, match="neighbours is 0"):
        manifolds(rows(1, 9, 2), rows(2, 9, 2), neighbours=0)


def test_the_inception_score_is_the_mean_over_parts_of_the_exponent_of_the_mean_divergence() -> None:
    raw = np.random.default_rng(3).exponential(1.0, (23, 5))
    probabilities = raw / raw.sum(axis=1, keepdims=True)
    scores = []
    for part in range(10):
        rows = probabilities[part * 23 // 10 : (part + 1) * 23 // 10]
        marginal = [sum(row[y] for row in rows) / len(rows) for y in range(5)]
        kl = [sum(row[y] * math.log(row[y] / marginal[y]) for y in range(5)) for row in rows]
        scores.append(math.exp(sum(kl) / len(kl)))
    found = inception_score(probabilities)
    assert found.value == pytest.approx(sum(scores) / 10)
    assert found.sd == pytest.approx(math.sqrt(sum((one - found.value) ** 2 for one in scores) / 10))


def test_sure_and_different_images_score_their_number_and_equal_ones_score_one() -> None:
    assert inception_score(np.eye(6), splits=2).value == pytest.approx(3.0)
    assert inception_score(np.full((12, 4), 0.25)).value == pytest.approx(1.0)
    assert math.isnan(inception_score(np.full((9, 4), 0.25)).value)
