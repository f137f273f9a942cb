import numpy as np
import pytest

from anosynth.features import patch_distances
from anosynth.features.patch_distances import nearest, nearest_weighted


def naive_nearest(queries: np.ndarray, bank: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    distances = np.linalg.norm(queries[:, None].astype(np.float64) - bank[None].astype(np.float64), axis=2)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


@pytest.mark.parametrize("k", [1, 5, 60])
@pytest.mark.parametrize("block_entries", [1, 1000, 1 << 24])
def test_neighbours_equal_the_naive_form(k: int, block_entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_distances, "BLOCK_ENTRIES", block_entries)
    rng = np.random.default_rng(k)
    queries = (rng.normal(size=(50, 24)) + 3).astype(np.float32)
    bank = (rng.normal(size=(60, 24)) + 3).astype(np.float32)
    distances, indices = nearest(queries, bank, k=k)
    expected_distances, expected_indices = naive_nearest(queries, bank, k)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-5)
    assert (distances.dtype, indices.dtype) == (np.float32, np.int64)


def test_a_query_from_the_bank_has_distance_zero_even_far_from_the_origin() -> None:
    bank = (np.random.default_rng(3).normal(size=(40, 16)) + 1000).astype(np.float32)
    distances, indices = nearest(bank, bank)
    np.testing.assert_array_equal(distances, np.zeros((40, 1), dtype=np.float32))
    np.testing.assert_array_equal(indices[:, 0], np.arange(40))


def test_impossible_arguments_are_refused() -> None:
    points = np.zeros((4, 3), dtype=np.float32)
    for k in (0, 5):
        with pytest.raises(ValueError, match="the size of the bank"):
            nearest(points, points, k=k)
    with pytest.raises(ValueError, match="must be"):
        nearest(points, np.zeros((4, 2), dtype=np.float32))


def test_what_weighs_less_must_lie_nearer() -> None:
    rng = np.random.default_rng(2)
    queries, bank = (rng.standard_normal((count, 6)).astype(np.float32) for count in (40, 30))
    weights = np.where(rng.random(30) < 0.5, 1.0, 0.5).astype(np.float32)
    distances, indices = nearest_weighted(queries, bank, weights)
    quotients = np.linalg.norm(queries[:, None] - bank[None], axis=2) / weights
    np.testing.assert_array_equal(indices, quotients.argmin(axis=1))
    np.testing.assert_allclose(distances, quotients.min(axis=1), rtol=1e-5)
    plain = nearest_weighted(queries, bank, np.ones(30, np.float32))
    np.testing.assert_array_equal(plain[0], nearest(queries, bank)[0][:, 0])
    with pytest.raises(ValueError, match="29 weights for a bank of 30"):
        nearest_weighted(queries, bank, weights[1:])
