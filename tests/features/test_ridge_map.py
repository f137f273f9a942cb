import numpy as np
import pytest

from anosynth.features.ridge_map import STRENGTHS, fit_ridge_map, normalize_rows


def planted(noise: float, classes: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Rows and embeddings of classes that share 12 hidden properties."""
    rng = np.random.default_rng(5)
    hidden = rng.normal(size=(classes, 12))
    rows = hidden @ rng.normal(size=(12, 64)) + noise * rng.normal(size=(classes, 64)) + 3.0
    texts = hidden @ rng.normal(size=(12, 32)) + noise * rng.normal(size=(classes, 32)) + 2.0
    return rows, normalize_rows(texts)


def test_the_map_is_the_textbooks_ridge_regression() -> None:
    rows, texts = planted(noise=1.0)
    fitted = fit_ridge_map(rows, texts)
    x = rows - rows.mean(axis=0)
    penalty = fitted.strength * np.mean(np.sum(x**2, axis=1))
    primal = np.linalg.solve(x.T @ x + penalty * np.eye(64), x.T @ (texts - texts.mean(axis=0)))
    np.testing.assert_allclose(fitted.matrix, primal, atol=1e-6)
    np.testing.assert_allclose(fitted.text_mean, texts.mean(axis=0), atol=1e-6)


def test_held_out_classes_are_found_where_there_is_something_to_find_and_only_there() -> None:
    fitted = fit_ridge_map(*planted(noise=0.1))
    assert fitted.held_out_top1 == 1.0
    assert fitted.strength in STRENGTHS
    rng = np.random.default_rng(6)
    nothing = fit_ridge_map(rng.normal(size=(200, 64)), normalize_rows(rng.normal(size=(200, 32))))
    assert nothing.held_out_top1 <= 0.25  # 20 names: chance is 0.05


def test_surer_matches_get_a_higher_logit_scale() -> None:
    scales = [fit_ridge_map(*planted(noise)).logit_scale for noise in (0.05, 3.0)]
    assert scales[0] > scales[1]


def test_shapes_that_do_not_agree_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[C, D\] and \[C, E\]"):
        fit_ridge_map(np.zeros((30, 4)), np.zeros((29, 4)))


def test_rows_of_no_length_stay_zero() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    assert normalize_rows(rows).dtype == np.float32
    np.testing.assert_allclose(normalize_rows(rows), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
