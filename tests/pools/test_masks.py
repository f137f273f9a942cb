"""Masks from drawn parts, against renders whose masks are exact."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import ndimage

from anosynth.errors import DataError
from anosynth.pools.masks import (
    CANDIDATE_KEYS,
    GREY,
    MaskRule,
    calibrate,
    choose_key,
    iou,
    key_distance,
    neutral_part,
    part_mask,
)
from anosynth.sources.procedural import render

RULE = MaskRule(GREY, high=30.0, low=18.0, min_area=0.001, fit=1.0)


def blurred(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a decoder does to a part: softer, noisier."""
    soft = ndimage.gaussian_filter(image.astype(float), (0.7, 0.7, 0)) + rng.normal(0, 3, image.shape)
    return np.clip(np.rint(soft), 0, 255).astype(np.uint8)


def square_part(value: int, *, side: int = 12) -> np.ndarray:
    part = np.full((64, 64, 3), 127, dtype=np.uint8)
    part[20 : 20 + side, 30 : 30 + side] = value
    return part


def test_the_mask_is_where_the_part_leaves_the_neutral_colour() -> None:
    wanted = np.zeros((64, 64), dtype=np.uint8)
    wanted[20:32, 30:42] = 255
    found = part_mask(square_part(220), RULE)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 255}
    assert iou(found, wanted) > 0.95


def test_a_ring_is_filled_and_a_speck_is_dropped() -> None:
    part = square_part(220)
    part[24:28, 34:38] = 127
    part[50:52, 50] = 220
    found = part_mask(part, RULE)
    assert found[26, 36] == 255
    assert not found[45:, 45:].any()


def test_a_faint_rim_belongs_to_a_strong_core_but_not_alone() -> None:
    rim = square_part(127 + 22, side=12)
    assert not part_mask(rim, RULE).any()
    rim[24:28, 34:38] = 220
    assert np.count_nonzero(part_mask(rim, RULE)) > 100


def test_a_ground_that_drifted_is_still_ground() -> None:
    drifted = np.clip(square_part(30).astype(int) + np.array([25, -20, 15]), 0, 255).astype(np.uint8)
    wanted = np.zeros((64, 64), dtype=np.uint8)
    wanted[20:32, 30:42] = 255
    assert iou(part_mask(drifted, RULE), wanted) > 0.95


def test_a_defect_over_most_of_the_part_is_not_taken_for_ground() -> None:
    found = part_mask(square_part(220, side=58)[20:, 30:], RULE)
    assert found.mean() > 200


def test_an_empty_part_gives_an_empty_mask_for_the_caller_to_redraw() -> None:
    assert not part_mask(np.full((32, 32, 3), 127, dtype=np.uint8), RULE).any()


def test_grey_defects_get_a_key_colour_far_from_grey() -> None:
    image = np.full((32, 32, 3), 130, dtype=np.uint8)
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[5:20, 5:20] = 255
    assert choose_key([image], [mask], see=list) != GREY
    assert choose_key([np.full_like(image, 30)], [mask], see=list) == GREY


def test_a_colour_that_the_autoencoder_cannot_draw_is_not_chosen() -> None:
    image, mask = np.full((32, 32, 3), 130, dtype=np.uint8), np.zeros((32, 32), dtype=np.uint8)
    mask[5:20, 5:20] = 255
    good = (32, 224, 32)

    def see(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Every background but one comes back as the defect's own grey."""
        return [part if tuple(part[0, 0]) == good else np.full_like(part, 130) for part in parts]

    assert good in CANDIDATE_KEYS
    assert choose_key([image], [mask], see=see) == good


def test_masks_of_shots_are_recovered_from_their_own_softened_parts() -> None:
    rng = np.random.default_rng(0)
    fits = []
    for category, defect in (("washer", "stain"), ("tile", "crack"), ("pill", "hole"), ("leather", "scratch")):
        renders = [render(category, defect=defect, seed=seed, size_px=128) for seed in range(6)]
        images, masks = [one.image for one in renders], [one.mask for one in renders]
        key = choose_key(images, masks, see=lambda parts: [blurred(part, rng) for part in parts])
        parts = [blurred(neutral_part(image, mask, key=key), rng) for image, mask in zip(images, masks, strict=True)]
        rule = calibrate(parts[:3], masks[:3], key=key)
        fits += [iou(part_mask(part, rule), mask) for part, mask in zip(parts[3:], masks[3:], strict=True)]
    assert len(fits) == 12
    assert np.mean(fits) > 0.85


def test_a_rule_of_a_single_shot_finds_the_same_defect_two_thirds_as_strong() -> None:
    rng = np.random.default_rng(0)
    one = render("cast_metal", defect="dent", seed=1, size_px=128)
    key = choose_key([one.image], [one.mask], see=lambda parts: [blurred(part, rng) for part in parts])
    part = blurred(neutral_part(one.image, one.mask, key=key), rng)
    rule = calibrate([part], [one.mask], key=key)
    fainter = np.rint(np.array(key) + (part - np.array(key)) * 2 / 3).astype(np.uint8)
    assert rule.fit > 0.8
    assert iou(part_mask(fainter, rule), one.mask) > 0.7
    assert rule.high <= key_distance(part, key=key).max() / 2
    assert calibrate([part, part], [one.mask, one.mask], key=key).high > rule.high


def test_calibration_without_shots_or_defects_is_refused() -> None:
    with pytest.raises(DataError, match="no part to calibrate"):
        calibrate([], [], key=GREY)
    with pytest.raises(DataError, match="no shot has a defect pixel"):
        choose_key([np.zeros((8, 8, 3), np.uint8)], [np.zeros((8, 8), np.uint8)], see=list)
    blank = np.full((16, 16, 3), 127, np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    mask[2:5, 2:5] = 255
    with pytest.raises(DataError, match="no threshold finds"):
        calibrate([blank], [mask], key=GREY)
