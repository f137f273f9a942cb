"""The Frechet distance against scipy's matrix square root and against closed forms."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from anosynth.metrics.frechet import Moments, MomentSums, frechet_distance, frechet_of_rows, moments


def rows(seed: int, count: int, dims: int, *, shift: float = 0.0, scale: float = 1.0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=(count, dims)) @ rng.normal(size=(dims, dims)) + shift).astype(np.float32)


def reference(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    a, b = x.astype(np.float64), y.astype(np.float64)
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(s @ t).real
    return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s) + np.trace(t) - 2 * np.trace(root))


@pytest.mark.parametrize(("m", "n"), [(80, 60), (80, 7), (7, 80)])
def test_the_distance_is_that_of_scipys_matrix_square_root(m: int, n: int) -> None:
    x, y = rows(1, m, 12), rows(2, n, 12, shift=0.5, scale=1.5)
    assert frechet_of_rows(x, y) == pytest.approx(reference(x, y), rel=1e-6)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(reference(x, y), rel=1e-6)


def test_fewer_images_than_features_give_the_same_by_singular_values() -> None:
    x, y = rows(1, 9, 40), rows(2, 7, 40, shift=0.5)
    thin = frechet_of_rows(x, y)
    assert thin == pytest.approx(frechet_distance(moments(x), moments(y)), rel=1e-6)
    assert thin == pytest.approx(reference(x, y), rel=1e-4)  # sqrtm of a singular product loses digits


def test_two_normal_distributions_on_one_axis_have_the_closed_form() -> None:
    x = Moments(10, np.array([1.0]), np.array([[4.0]]))
    y = Moments(10, np.array([3.0]), np.array([[9.0]]))
    assert frechet_distance(x, y) == pytest.approx((1 - 3) ** 2 + (2 - 3) ** 2)


def test_a_set_is_at_distance_zero_from_itself_and_the_distance_is_symmetric() -> None:
    x, y = rows(1, 50, 6), rows(2, 50, 6, shift=1.0)
    assert frechet_of_rows(x, x) == pytest.approx(0.0, abs=1e-9 * np.trace(np.cov(x, rowvar=False)))
    assert frechet_of_rows(x, y) == pytest.approx(frechet_of_rows(y, x), rel=1e-9)


def test_a_constant_set_has_no_spread_to_share() -> None:
    still = np.full((5, 3), 2.0, np.float32)
    x = rows(1, 50, 3)
    assert frechet_of_rows(still, x) == pytest.approx(reference_to_point(x, 2.0), rel=1e-9)
    assert frechet_of_rows(x, still) == pytest.approx(reference_to_point(x, 2.0), rel=1e-9)


def reference_to_point(x: NDArray[np.float32], at: float) -> float:
    a = x.astype(np.float64)
    return float(np.sum((a.mean(0) - at) ** 2) + np.trace(np.cov(a, rowvar=False)))


def test_sums_over_any_cut_and_order_give_the_covariance_of_all_rows() -> None:
    x = rows(1, 57, 5, shift=1000.0)
    parts = [MomentSums(5) for _ in range(3)]
    for at, (start, stop) in enumerate([(0, 20), (20, 20), (20, 57)]):
        parts[at].update(x[start:stop])
    merged = MomentSums(5)
    for part in reversed(parts):
        merged.merge(part)
    found = merged.result()
    assert found.num_rows == 57
    np.testing.assert_allclose(found.mean, x.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-9)


def test_one_row_has_no_covariance_and_wrong_rows_are_refused() -> None:
    sums = MomentSums(2)
    sums.update(np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        sums.result()
    with pytest.raises(ValueError, match=r"\[N, 2\], got \[1, 3\]"):
        sums.update(np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="at least 2 rows"):
        frechet_of_rows(np.zeros((1, 2), np.float32), np.zeros((9, 2), np.float32))
