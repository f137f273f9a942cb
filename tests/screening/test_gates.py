import numpy as np
import pytest

from anosynth.params import ScreenParams
from anosynth.screening.gates import GATES, mask_measures, reason_to_refuse

LIMITS = ScreenParams(
    min_mask_ratio=0.01,
    max_mask_ratio=0.4,
    max_border_ratio=0.5,
    min_on_object=0.3,
    min_mask_confidence=0.5,
    max_shot_similarity=0.8,
    max_normal_similarity=0.9,
    max_duplicate_similarity=0.95,
    max_normal_distance=2.0,
)
SOUND = {
    "mask_ratio": 0.05,
    "border_ratio": 0.0,
    "on_object": 1.0,
    "shot_similarity": 0.4,
    "normal_similarity": 0.5,
    "duplicate_similarity": 0.2,
    "normal_distance": 1.1,
}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("mask_ratio", 0.0, "empty"),
        ("mask_ratio", 1.0, "empty"),
        ("mask_ratio", 0.009, "tiny"),
        ("mask_ratio", 0.41, "huge"),
        ("border_ratio", 0.51, "border_hugging"),
        ("on_object", 0.29, "off_object"),
        ("mask_confidence", 0.49, "unsure_mask"),
        ("shot_similarity", 0.81, "near_copy_of_shot"),
        ("normal_similarity", 0.91, "near_copy_of_normal"),
        ("duplicate_similarity", 0.96, "duplicate"),
        ("normal_distance", 2.1, "unlike_normal"),
    ],
)
def test_one_measure_beyond_its_limit_is_one_reason(name: str, value: float, reason: str) -> None:
    assert reason_to_refuse(SOUND, LIMITS) == ""
    assert reason_to_refuse({**SOUND, name: value}, LIMITS) == reason


def test_every_gate_can_refuse_and_names_itself() -> None:
    refused = {"empty", "tiny", "huge", "border_hugging", "off_object", "near_copy_of_shot", "near_copy_of_normal"}
    assert {gate.__name__ for gate in GATES} == refused | {"duplicate", "unlike_normal", "unsure_mask"}


def test_the_limits_themselves_pass() -> None:
    edge = {
        "mask_ratio": 0.4,
        "border_ratio": 0.5,
        "on_object": 0.3,
        "mask_confidence": 0.5,
        "shot_similarity": 0.8,
        "normal_similarity": 0.9,
        "duplicate_similarity": 0.95,
        "normal_distance": 2.0,
    }
    assert reason_to_refuse(edge, LIMITS) == ""
    assert reason_to_refuse({**edge, "mask_ratio": 0.01}, LIMITS) == ""


def test_a_measure_that_does_not_apply_refuses_nothing() -> None:
    assert reason_to_refuse({}, LIMITS) == ""


def test_opened_gates_let_everything_pass_but_an_empty_mask() -> None:
    opened = ScreenParams(
        min_mask_ratio=0.0,
        max_mask_ratio=1.0,
        max_border_ratio=1.0,
        min_on_object=0.0,
        min_mask_confidence=0.0,
        max_shot_similarity=1.0,
        max_normal_similarity=1.0,
        max_duplicate_similarity=1.0,
        max_normal_distance=None,
    )
    worst = dict.fromkeys(SOUND, 1.0) | {
        "mask_ratio": 0.99,
        "on_object": 0.0,
        "mask_confidence": 0.0,
        "normal_distance": 1e9,
    }
    assert reason_to_refuse(worst, opened) == ""
    assert reason_to_refuse({**worst, "mask_ratio": 0.0}, opened) == "empty"


def test_mask_measures_equal_counting() -> None:
    rng = np.random.default_rng(0)
    checked = 0
    for height, width in ((9, 7), (16, 16), (2, 5)):
        mask = np.where(rng.random((height, width)) < 0.3, 255, 0).astype(np.uint8)
        mask[0, 0] = 255
        foreground = np.where(rng.random((height, width)) < 0.6, 255, 0).astype(np.uint8)
        border, on_border, area, on_object = 0, 0, 0, 0
        for row in range(height):
            for column in range(width):
                at_border = row in (0, height - 1) or column in (0, width - 1)
                border += at_border
                on_border += at_border and mask[row, column] > 0
                area += mask[row, column] > 0
                on_object += mask[row, column] > 0 and foreground[row, column] > 0
                checked += 1
        assert mask_measures(mask, foreground=foreground) == pytest.approx(
            {"mask_ratio": area / (height * width), "border_ratio": on_border / border, "on_object": on_object / area}
        )
    assert checked == 9 * 7 + 256 + 10


def test_an_empty_mask_is_measured_without_dividing_by_it() -> None:
    nothing = np.zeros((8, 8), np.uint8)
    measures = mask_measures(nothing, foreground=np.full((8, 8), 255, np.uint8))
    assert measures == {"mask_ratio": 0.0, "border_ratio": 0.0, "on_object": 0.0}
    assert reason_to_refuse(measures, LIMITS) == "empty"
