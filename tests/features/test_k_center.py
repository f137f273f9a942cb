import numpy as np
import pytest

from anosynth.features.k_center import greedy_k_center


def naive_k_center(points: np.ndarray, k: int, first: int) -> list[int]:
    chosen = [first]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < k:
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
        nearest[chosen] = -1.0
        chosen.append(int(np.argmax(nearest)))
    return chosen


@pytest.mark.parametrize(
    ("num_points", "dims", "offset"), [(200, 3, 0.0), (300, 40, 0.0), (300, 40, 50.0), (64, 1, 0.0)]
)
def test_indices_equal_the_naive_form(num_points: int, dims: int, offset: float) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        points = (rng.normal(size=(num_points, dims)) + offset).astype(np.float32)
        chosen = greedy_k_center(points, k=40, first=seed)
        assert chosen.dtype == np.int64
        assert chosen.tolist() == naive_k_center(points.astype(np.float64), 40, seed)


def test_many_choices_in_one_pass_equal_one_choice_a_pass() -> None:
    rng = np.random.default_rng(4)
    groups = rng.normal(size=(20, 12)) * 5
    points = (groups[rng.integers(20, size=3000)] + rng.normal(size=(3000, 12))).astype(np.float32)
    points[17] *= 1000  # one far outlier must not drown the order of the rest in rounding
    assert greedy_k_center(points, k=300, first=0).tolist() == naive_k_center(points.astype(np.float64), 300, 0)


def test_a_lattice_full_of_ties_is_chosen_in_the_naive_order() -> None:
    side = np.arange(16, dtype=np.float32)
    lattice = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    assert greedy_k_center(lattice, k=256, first=100).tolist() == naive_k_center(lattice, 256, 100)


def test_ties_go_to_the_lowest_index() -> None:
    square = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [-1, -1]], dtype=np.float32)
    assert greedy_k_center(square, k=5, first=0).tolist() == [0, 3, 4, 1, 2]


def test_copies_follow_in_order_when_nothing_else_is_left() -> None:
    points = np.repeat(np.random.default_rng(0).normal(size=(3, 20)), 4, axis=0).astype(np.float32)
    chosen = greedy_k_center(points, k=8, first=5).tolist()
    assert {index // 4 for index in chosen[:3]} == {0, 1, 2}
    assert chosen[3:] == sorted(set(range(12)) - set(chosen[:3]))[:5]


def test_a_small_choice_is_a_prefix_of_a_large_one() -> None:
    points = np.random.default_rng(1).normal(size=(100, 8)).astype(np.float32)
    assert greedy_k_center(points, k=10, first=7).tolist() == greedy_k_center(points, k=50, first=7)[:10].tolist()


def test_points_may_be_read_only_and_stay_as_they_are() -> None:
    points = np.random.default_rng(2).normal(size=(30, 4)).astype(np.float32)
    before = points.copy()
    points.setflags(write=False)
    greedy_k_center(points, k=30, first=0)
    np.testing.assert_array_equal(points, before)


@pytest.mark.parametrize(("k", "first"), [(0, 0), (11, 0), (3, -1), (3, 10)])
def test_impossible_arguments_are_refused(k: int, first: int) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        greedy_k_center(np.zeros((10, 2), dtype=np.float32), k=k, first=first)
