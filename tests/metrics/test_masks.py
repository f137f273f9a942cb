"""What is said of masks, and where a crop around a defect lies."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from anosynth.metrics.masks import defect_crop, mask_statistics


def mask_with(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (20, 40)) -> NDArray[np.uint8]:
    mask = np.zeros(size, np.uint8)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = 255
    return mask


def test_statistics_of_two_masks() -> None:
    found = mask_statistics([mask_with((0, 10, 0, 20)), mask_with((10, 20, 20, 40), (0, 2, 0, 2))])
    assert found["area_ratio_p50"] == pytest.approx((200 / 800 + 204 / 800) / 2)
    assert found["regions"] == 1.5
    small = (4 * 1.0 + 200 * 15.0) / 204 / 20
    assert found["row"] == pytest.approx((5 / 20 + small) / 2)
    assert found["row_sd"] == pytest.approx(abs(small - 5 / 20) / 2)
    assert 0.0 < found["column"] < 1.0


def test_statistics_of_no_masks_are_undefined() -> None:
    found = mask_statistics([])
    assert len(found) == 8
    assert all(math.isnan(value) for value in found.values())


def test_a_crop_is_centred_on_the_defect_with_its_margin() -> None:
    image = np.arange(20 * 40 * 3, dtype=np.uint32).reshape(20, 40, 3).astype(np.uint8)
    crop = defect_crop(image, mask_with((8, 12, 18, 22)), margin=0.5, min_px=1)
    assert crop.shape == (8, 8, 3)
    np.testing.assert_array_equal(crop, image[6:14, 16:24])


def test_a_crop_at_the_border_is_moved_inside_and_a_large_one_is_cut() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:8, 32:] = 7
    moved = defect_crop(image, mask_with((0, 2, 38, 40)), margin=0.0, min_px=8)
    assert moved.shape == (8, 8, 3)
    assert (moved == 7).all()
    assert defect_crop(image, mask_with((0, 20, 0, 40)), margin=1.0, min_px=8).shape == (20, 40, 3)


def test_an_empty_mask_has_no_crop() -> None:
    with pytest.raises(ValueError, match="not empty"):
        defect_crop(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), margin=0.5, min_px=2)
