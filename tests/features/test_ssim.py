from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import structural_similarity as reference

from anosynth.features.ssim import lowest, similarities, structural_similarity


def picture(seed: int, side: int = 48) -> np.ndarray:
    """Smooth random grey levels."""
    coarse = np.random.default_rng(seed).random((side // 8, side // 8))
    return np.kron(coarse, np.ones((8, 8)))


@pytest.mark.parametrize(("left", "right"), [(1, 2), (3, 3), (4, 9)])
def test_it_is_scikit_images_gaussian_ssim(left: int, right: int) -> None:
    x = picture(left)
    y = np.clip(picture(right) + 0.05 * np.random.default_rng(7).standard_normal(x.shape), 0.0, 1.0)
    wanted = reference(x, y, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    assert structural_similarity(x, y) == pytest.approx(wanted, abs=1e-12)


def test_equal_pictures_reach_one_and_pictures_below_the_window_are_refused() -> None:
    assert structural_similarity(picture(1), picture(1)) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at least 11 x 11"):
        structural_similarity(np.zeros((10, 20)), np.zeros((10, 20)))


def test_candidates_of_any_size_are_compared_at_one_size() -> None:
    query = np.repeat((255 * picture(1))[:, :, None], 3, axis=2).astype(np.uint8)
    noisy = np.clip(query + np.random.default_rng(1).integers(-40, 41, query.shape), 0, 255).astype(np.uint8)
    found = similarities(query, [noisy, query, query[::2, ::2]])
    assert found[1] == pytest.approx(1.0)
    assert found[1] > found[2] > found[0]


def test_ties_within_a_ten_thousandth_go_to_the_lowest_index() -> None:
    assert lowest(np.array([0.30009, 0.3, 0.3001])) == 0
    assert lowest(np.array([0.31, 0.30005, 0.3])) == 1
    assert lowest(np.array([0.31, 0.3002, 0.3])) == 2
