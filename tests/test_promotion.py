from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from anosynth.__main__ import main
from anosynth.comparison import compare
from anosynth.errors import ParamsError
from anosynth.layout import Layout
from anosynth.params import PromoteParams, load_params
from anosynth.promotion import Promotion, decide, promote
from anosynth.results import result_to_json, write_left_out
from tests.measured_arms import measured_arms

PARAMS = PromoteParams(metric="image_ap")


def decided(**drawn: object) -> list[Promotion]:
    result, table, _ = measured_arms(**drawn)  # type: ignore[arg-type]
    found = compare(result, table, baseline="real", confidence=PARAMS.confidence)
    return [decide(one, result, params=PARAMS) for one in found if one.arm != "real"]


def test_a_clear_gain_is_helpful() -> None:
    (found,) = decided(gains={"perlin": 2.0}, seeds=2)
    assert found.decision == "helpful"
    assert found.gain is not None
    assert found.gain.low is not None
    assert found.gain.low > 0.0
    assert "lies above zero: +0." in found.reason
    assert found.data == {"real_pairs": "digest of perlin"}


def test_no_gain_a_doubtful_gain_and_harm_are_no_gain_shown() -> None:
    reasons = [decided(gains={"perlin": gain})[0] for gain in (0.0, 0.1, -1.5)]
    assert [one.decision for one in reasons] == ["no gain shown"] * 3
    assert "holds zero" in reasons[0].reason
    assert "does harm" in reasons[2].reason


@pytest.mark.parametrize(
    ("groups", "images", "reason"), [(4, 10, "of 4 groups; at least 5"), (9, 2, "9 validation images are anomalous")]
)
def test_too_few_groups_or_anomalous_images_are_insufficient_data(groups: int, images: int, reason: str) -> None:
    (found,) = decided(gains={"perlin": 3.0}, groups=groups, images=images)
    assert (found.decision, found.gain) == ("insufficient data", None)
    assert reason in found.reason


def test_an_undefined_metric_is_insufficient_data_and_a_perfect_arm_is_not() -> None:
    result, table, _ = measured_arms(gains={"perlin": 2.0})
    compared = compare(result, table, baseline="real", confidence=0.95)[1]
    pixel = decide(compared, result, params=PromoteParams(metric="pixel_ap"))
    assert (pixel.decision, pixel.reason) == ("insufficient data", "pixel_ap is undefined on the validation images")
    perfect = decided(gains={"perlin": 50.0, "cutpaste": 60.0}, seeds=1)
    assert {one.decision for one in perfect} == {"helpful"}


def test_shuffled_labels_give_no_gain() -> None:
    found = [
        one
        for draw in range(20)
        for one in decided(gains={"perlin": 1.0, "cutpaste": 2.0}, shuffled=True, draw=draw, groups=8, images=4)
    ]
    assert len(found) == 40
    # At 95 % for both arms at once, one draw of 40 passes by chance: three of 20 would be a surprise of 1 %.
    assert sum(one.decision == "helpful" for one in found) < 3


@pytest.fixture
def project(toy_project: Path) -> Path:
    """A project whose U-Net was measured on test and on validation images, perlin better than real."""
    folder = Layout(toy_project).evaluation("washer", "unet")
    for place, role in ((folder, "test"), (folder / "val", "val")):
        place.mkdir(parents=True)
        result, table, _ = measured_arms(gains={"perlin": 2.0}, role=role, draw=len(role), seeds=2)
        (place / "metrics.json").write_text(json.dumps(result_to_json(result)), encoding="utf-8")
        write_left_out(place / "left_out.parquet", table.rows())
    path = toy_project / "params.yaml"
    text = path.read_text(encoding="utf-8")
    text = text.replace("  - patchcore\n", "", 1).replace(
        "metric: pixel_ap\n  baseline", "metric: image_ap\n  baseline"
    )
    path.write_text(text, encoding="utf-8")
    assert load_params(path).grid.detectors == ["unet"]
    assert load_params(path).promote.metric == "image_ap"
    return toy_project


def test_the_command_writes_an_answer_per_arm_and_says_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["promote", "--root", str(project)]) == 0
    assert (
        "washer, unet, arm perlin: helpful: the whole 95 % interval over 1 arm of the gain" in capsys.readouterr().out
    )
    path = Layout(project).promotion("washer", "unet", "perlin")
    first = path.read_bytes()
    value = json.loads(first)
    assert (value["decision"], value["baseline"], value["data"]) == (
        "helpful",
        "real",
        {"real_pairs": "digest of perlin"},
    )
    assert value["gain"]["low"] > 0.0
    assert main(["promote", "--root", str(project), "--arm", "perlin"]) == 0
    assert path.read_bytes() == first


def test_without_validation_images_the_answer_is_insufficient_data_and_the_exit_code_1(project: Path) -> None:
    shutil.rmtree(Layout(project).evaluation("washer", "unet") / "val")
    assert main(["promote", "--root", str(project)]) == 1
    value = json.loads(Layout(project).promotion("washer", "unet", "perlin").read_text(encoding="utf-8"))
    assert value["decision"] == "insufficient data"
    assert "no validation images of both kinds" in value["reason"]


def test_names_that_fit_nothing_are_one_sentence(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(project)
    with pytest.raises(ParamsError, match="no arm to judge: category any, detector any, arm nobody"):
        list(promote(layout, load_params(layout.params()), arm="nobody"))
    assert main(["promote", "--root", str(project), "--detector", "x"]) == 2
    assert "no arm to judge" in capsys.readouterr().err
