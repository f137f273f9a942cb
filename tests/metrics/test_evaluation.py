from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anosynth.metrics.detection import image_metrics, pixel_metrics
from anosynth.metrics.evaluation import METRICS, PIXEL_METRICS, Evaluation, json_numbers
from anosynth.metrics.failures import PICTURE_HEIGHT_PX, Failure, MostWrong, picture


def answers(count: int = 9):
    """(defect, score, map, mask) with three kinds of image."""
    rng = np.random.default_rng(4)
    found = []
    for at in range(count):
        defect = (None, "hole", "crack")[at % 3]
        mask = np.zeros((12, 14), np.uint8)
        if defect:
            mask[2 : 4 + at % 4, 3:9] = 255
        anomaly_map = (rng.normal(size=mask.shape) + (mask > 0)).astype(np.float16).astype(np.float32)
        found.append((defect, float(anomaly_map.max()), anomaly_map, mask))
    return found


def evaluation(found) -> Evaluation:
    state = Evaluation(bits=20)
    for defect, score, anomaly_map, mask in found:
        state.add(defect=defect, score=score, anomaly_map=anomaly_map, mask=mask)
    return state


@pytest.mark.parametrize("defect", [None, "hole", "crack"])
def test_metrics_are_those_of_the_normal_images_and_the_chosen_defect(defect: str | None) -> None:
    found = answers()
    chosen = [one for one in found if defect is None or one[0] in (None, defect)]
    assert len(chosen) == (9 if defect is None else 6)
    images = image_metrics(np.array([one[1] for one in chosen]), np.array([one[0] is not None for one in chosen]))
    pixels = pixel_metrics([one[2] for one in chosen], [one[3] for one in chosen], max_fpr=0.2)
    wanted = (images.auroc, images.ap, images.f1_max, pixels.auroc, pixels.ap, pixels.f1_max, pixels.aupro)
    result = evaluation(found).metrics(max_fpr=0.2, defect=defect)
    assert tuple(result) == METRICS
    assert tuple(result.values()) == pytest.approx(wanted, abs=1e-12)


def test_bounds_cover_the_pixel_metrics_and_undefined_values_become_null() -> None:
    state = evaluation(answers())
    assert set(state.error_bounds(max_fpr=0.3)) == {"pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"}
    assert state.defects == ("crack", "hole")
    normal_only = evaluation([one for one in answers() if one[0] is None])
    numbers = json_numbers(normal_only.metrics(max_fpr=0.3))
    assert numbers == dict.fromkeys(METRICS, None)
    assert json_numbers({"a": 0.123456789}) == {"a": 0.123457}


def test_images_without_a_mask_leave_their_pixel_metrics_undefined_and_all_others_as_they_are() -> None:
    whole = answers()
    state = evaluation(
        (defect, score, found, None if defect == "hole" else mask) for defect, score, found, mask in whole
    )
    assert (state.has_masks(), state.has_masks("hole"), state.has_masks("crack")) == (False, False, True)
    assert state.defects == ("crack", "hole")
    masked = evaluation(whole)
    for defect in (None, "hole", "crack"):
        ours, theirs = state.metrics(max_fpr=0.2, defect=defect), masked.metrics(max_fpr=0.2, defect=defect)
        assert tuple(ours) == METRICS
        for name in METRICS:
            if name in PIXEL_METRICS and defect != "crack":
                assert np.isnan(ours[name])
            else:
                assert ours[name] == theirs[name]
    assert all(np.isnan(bound) for bound in state.error_bounds(max_fpr=0.2).values())
    with pytest.raises(ValueError, match="the mask of a normal image is all 0, not missing"):
        state.add(defect=None, score=0.0, anomaly_map=whole[0][2], mask=None)


def failure(path: str, defect: str | None, score: float) -> Failure:
    image = np.full((40, 60, 3), 90, np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    anomaly_map = np.full((40, 60), score, np.float32)
    if defect:
        mask[5:9, 20:30] = 255
    return Failure(path, defect, score, image, mask, anomaly_map)


def test_the_most_wrong_are_high_normals_and_low_defects_whatever_the_order() -> None:
    scores = [0.3, 0.9, 0.1, 0.7, 0.7, 0.2]
    everything = [
        failure(f"{kind}{at}", kind or None, score) for kind in ("", "hole") for at, score in enumerate(scores)
    ]
    for order in (everything, everything[::-1]):
        wrong = MostWrong(3)
        for one in order:
            wrong.add(one)
        assert [one.path for one in wrong.false_alarms] == ["1", "3", "4"]
        assert [one.path for one in wrong.misses] == ["hole2", "hole5", "hole0"]
        assert wrong.map_range == (np.float32(0.1), np.float32(0.9))
    nothing = MostWrong(0)
    nothing.add(everything[0])
    assert (nothing.false_alarms, nothing.misses) == ((), ())


def test_a_picture_shows_image_mask_and_map_side_by_side() -> None:
    one = failure("a", "hole", 0.5)
    drawn = picture(one, map_range=(0.0, 1.0))
    width = round(PICTURE_HEIGHT_PX * 60 / 40)
    assert drawn.shape == (PICTURE_HEIGHT_PX, 3 * width + 8, 3)
    assert (drawn[:, :width] == 90).all()
    assert set(np.unique(drawn[:, width + 4 : 2 * width + 4])) == {0, 255}
    assert drawn[0, -1].tolist() == [255, 128, 0]  # half way from black over red and yellow to white


def test_a_picture_without_a_mask_is_grey_in_its_place() -> None:
    drawn = picture(replace(failure("a", "hole", 0.5), mask=None), map_range=(0.0, 1.0))
    width = round(PICTURE_HEIGHT_PX * 60 / 40)
    assert set(np.unique(drawn[:, width + 4 : 2 * width + 4])) == {128}
