from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from anosynth.comparison import ArmComparison, Bounded
from anosynth.errors import DataError
from anosynth.promotion import Promotion
from anosynth.reporting import (
    METRIC_NAMES,
    PoolCount,
    ShotsUsed,
    arms_plot,
    detection_json,
    gain,
    gains_json,
    markdown,
    over_seeds,
    pools_json,
    score_histogram,
    seeds_json,
    spread,
    table,
    verdict,
)
from anosynth.results import AtThreshold, Result, TrainedOn, read_result, result_to_json

REAL = {"0": 0.50, "1": 0.60}
PERLIN = {"0": 0.60, "1": 0.65}


def seeds(values: dict[str, float | None]) -> dict[str, dict[str, float | None]]:
    return {seed: dict.fromkeys(METRIC_NAMES, value) for seed, value in values.items()}


def result(*, metrics: dict | None = None, detector: str = "unet", defects: tuple[str, ...] = ("scratch",)) -> Result:
    arms = {"perlin": seeds(PERLIN), "real": seeds(REAL)} if metrics is None else metrics
    return Result(
        category="washer",
        detector=detector,
        spec={"kind": detector, "arms": ["real", "perlin"]},
        normals="shots",
        aupro_max_fpr=0.3,
        role="test",
        test_images={"normal": 40, **dict.fromkeys(defects, 20)},
        test_groups=60,
        test_licences=["CC0-1.0"],
        trained_on={arm: TrainedOn({"real_normals": 8, "real_pairs": 4}, {}, "CC0-1.0") for arm in arms},
        metrics=arms,
        by_defect={
            arm: {seed: dict.fromkeys(defects, values) for seed, values in found.items()} for arm, found in arms.items()
        },
        error_bounds={},
        at_thresholds={},
    )


SHOTS = ShotsUsed("washer", "steel washer", 8, {"scratch": 4}, "k_center", 0, ["CC0-1.0"])
POOL = PoolCount("washer", "scratch/perlin", 64, 60, {"duplicate": 3, "tiny": 1}, "CC0-1.0")


def arm(
    name: str,
    value: float,
    gain: tuple[float, float, float] | None = None,
    *,
    detector: str = "unet",
    num_groups: int = 60,
    num_anomalous: int = 20,
    num_seeds: int = 2,
) -> ArmComparison:
    level = dict.fromkeys(METRIC_NAMES, Bounded(value, value - 0.1, value + 0.1))
    gains = dict.fromkeys(METRIC_NAMES, Bounded(*gain)) if gain else {}
    wider = dict.fromkeys(METRIC_NAMES, Bounded(gain[0], gain[1] - 0.01, gain[2] + 0.01)) if gain else {}
    return ArmComparison(
        category="washer",
        detector=detector,
        arm=name,
        num_seeds=num_seeds,
        num_groups=num_groups,
        num_images=60,
        num_anomalous=num_anomalous,
        levels={"group": level, "image": level},
        gains={"group": gains, "image": gains} if gain else {},
        guarded=wider,
        num_compared=1,
    )


COMPARED = [arm("real", 0.55), arm("perlin", 0.625, (0.075, 0.02, 0.13))]


def written(
    *results: Result, primary: str = "pixel_ap", compared: list[ArmComparison] | None = None, gate: tuple = ()
) -> str:
    return markdown(
        results=results,
        compared=COMPARED if compared is None else compared,
        decisions=gate,
        pools=[POOL],
        shots=[SHOTS],
        primary=primary,
        baseline="real",
        confidence=0.95,
        source="procedural (CC0-1.0)",
        backbone="the toy backbone",
        features="lite0",
    )


def test_a_spread_is_the_mean_and_the_sample_deviation_of_what_is_defined() -> None:
    found = spread([0.5, None, 0.7, math.nan, 0.9])
    assert (found.mean, found.sd, found.num_seeds) == (pytest.approx(0.7), pytest.approx(0.2), 3)
    assert found.text() == "0.700 ± 0.200"
    assert spread([0.5]).text(signed=True) == "+0.500"
    assert spread([None]).text() == "–"
    assert spread([]).num_seeds == 0


def test_gains_are_paired_by_seed() -> None:
    found = gain(seeds(PERLIN), seeds(REAL), "pixel_ap")
    assert (found.mean, found.sd) == (pytest.approx(0.075), pytest.approx(math.sqrt(2) * 0.025))
    other_seed = gain(seeds({"7": 0.9, "0": 0.6}), seeds(REAL), "pixel_ap")
    assert (other_seed.mean, other_seed.sd, other_seed.num_seeds) == (pytest.approx(0.1), None, 1)
    assert over_seeds(seeds(REAL), "aupro").mean == pytest.approx(0.55)


def test_the_numbers_for_dvc_are_nested_by_category_detector_arm_and_metric() -> None:
    numbers = detection_json([result(), result(detector="patchcore", metrics={"real": seeds({"0": None})})], COMPARED)
    found = numbers["washer"]["unet"]["perlin"]["pixel_ap"]
    assert (found["mean"], found["sd"]) == (0.625, 0.035355)
    assert (found["low"], found["high_by_image"]) == (0.525, 0.725)
    assert numbers["washer"]["patchcore"]["real"]["aupro"]["mean"] is None
    assert numbers["washer"]["patchcore"]["real"]["aupro"]["low"] is None
    assert seeds_json([result()]) == {"washer": {"unet": {"real": 2, "perlin": 2}}}
    others = result(detector="patchcore", metrics={"normals": seeds(REAL)})
    gains = gains_json([result(), others], COMPARED, baseline="real")
    assert gains["washer"]["unet"]["perlin"]["aupro"]["low"] == 0.02
    assert list(gains["washer"]) == ["unet"]
    assert list(gains["washer"]["unet"]) == ["perlin"]
    assert pools_json([POOL]) == {
        "washer": {"scratch/perlin": {"rows": 64, "kept": 60, "refused": {"duplicate": 3, "tiny": 1}}}
    }


def test_the_report_shows_arms_in_the_order_of_params_with_gains_and_pools() -> None:
    text = written(result())
    real, perlin = text.index("| unet | real |"), text.index("| unet | perlin |")
    assert real < perlin
    assert "| 0.625 [0.525, 0.725] |" in text
    gain_text = "+0.075 [+0.020, +0.130]"
    assert f"| unet | perlin | {gain_text} | {gain_text} | {gain_text} | +0.075 [+0.010, +0.140] |" in text
    assert "| scratch/perlin | 64 | 60 | 3 duplicate, 1 tiny | CC0-1.0 |" in text
    assert "8 normal shots and anomalous shots: 4 scratch" in text
    assert "40 normal, 20 scratch in 60 groups" in text
    assert "by defect type" not in text
    assert "AUPRO by defect type" in written(result(defects=("crack", "hole")), primary="aupro")


@pytest.mark.parametrize(
    ("num_seeds", "sentence"),
    [(1, "1 training seed per arm"), (5, "5 training seeds per arm")],
)
def test_the_report_says_what_its_intervals_cover(num_seeds: int, sentence: str) -> None:
    text = written(result(), compared=[arm("real", 0.5, num_seeds=num_seeds)])
    assert sentence in text
    assert "95 % interval over groups of test images" in text
    assert ("nothing about other training runs" in text) == (num_seeds == 1)
    assert "Gain over" not in text


def test_the_verdict_names_the_surest_gain_first() -> None:
    said = verdict([*COMPARED, arm("cutpaste", 0.7, (0.15, -0.01, 0.31))], metric="pixel_ap", baseline="real")
    assert said == (
        "On washer, + perlin improves pixel AP of unet by 0.075 [+0.010, +0.140] over real shots only, on 60 groups of "
        "test images and 2 training seeds, the surest of 2 comparisons."
    )
    assert written(result()).splitlines()[2].startswith("**On washer, + perlin improves pixel AP of unet by 0.075")


def test_the_verdict_says_that_no_arm_helps() -> None:
    arms = [arm("real", 0.55), arm("perlin", 0.6, (0.05, 0.005, 0.09)), arm("cutpaste", 0.4, (-0.2, -0.3, -0.1))]
    said = verdict(arms, metric="pixel_ap", baseline="real")
    assert said.startswith(
        "On washer no arm is shown to help: none of 2 comparisons with real shots only shows a gain in pixel AP"
    )
    assert "the nearest is + perlin of unet with +0.050 [-0.005, +0.100]" in said
    assert "1 of them lower it beyond doubt" in said


@pytest.mark.parametrize(("groups", "anomalous"), [(4, 30), (60, 9)])
def test_the_verdict_says_when_there_is_too_little_to_judge(groups: int, anomalous: int) -> None:
    few = [arm("perlin", 0.9, (0.4, 0.3, 0.5), num_groups=groups, num_anomalous=anomalous)]
    assert "insufficient data" in verdict(few, metric="pixel_ap", baseline="real")
    assert "nothing to compare" in verdict([arm("real", 0.5)], metric="pixel_ap", baseline="real")
    assert verdict([], metric="pixel_ap", baseline="real") == "Nothing was evaluated."


def test_the_report_shows_thresholds_and_the_gate_where_there_is_validation() -> None:
    at = {"image": AtThreshold(0.3, 0.8, 0.7, None)}
    with_val = replace(result(), at_thresholds={"perlin": {"0": at, "1": at}})
    gate = Promotion(
        "washer", "unet", "perlin", "real", "pixel_ap", "helpful", "because", None, 0.95, 9, 12, 2, {}, "CC0-1.0"
    )
    text = written(with_val, gate=(gate,))
    assert "| unet | perlin | image | 0.800 ± 0.000 | 0.700 ± 0.000 | – |" in text
    assert "| unet | perlin | helpful | because |" in text
    without = written(result())
    assert "No threshold was chosen" in without
    assert "The gate" not in without


def test_plots_get_one_row_per_arm_and_every_score_is_counted_once() -> None:
    undefined = replace(arm("x", 0.5), levels={"group": {"pixel_ap": Bounded(None, None, None)}})
    single = replace(arm("y", 0.5), levels={"group": {"pixel_ap": Bounded(0.5, None, None)}})
    rows = arms_plot([arm("real", 0.5), undefined, single], metric="pixel_ap")
    assert rows == [
        {"panel": "washer, unet", "arm": "real", "value": 0.5, "low": 0.4, "high": 0.6},
        {"panel": "washer, unet", "arm": "y", "value": 0.5, "low": 0.5, "high": 0.5},
    ]
    bins = score_histogram([0.0, 0.1, 0.5, 1.0, 1.0], [0, 0, 1, 1, 0])
    assert len(bins) == 30
    assert (sum(normal for _, normal, _ in bins), sum(anomalous for *_, anomalous in bins)) == (3, 2)
    assert bins[-1][1:] == (1, 1)
    assert score_histogram([0.5, 0.5], [0, 1]) == [(0.5, 1, 1)]
    assert score_histogram([], []) == []


def test_a_bar_inside_a_cell_does_not_break_the_table() -> None:
    assert table(["a"], [["x | y"]]).splitlines()[2] == "| x \\| y |"


def test_a_result_comes_back_from_its_file_and_damage_is_told(tmp_path) -> None:
    path = tmp_path / "washer" / "unet" / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(result_to_json(result())), encoding="utf-8")
    assert read_result(path) == result()
    for text, why in (
        ("{", "damaged"),
        ('{"version": 9}', "of version 9"),
        ('{"version": 2, "category": 3}', "wrong fields"),
        ("[]", "damaged"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=rf"{why}.*dvc repro evaluate@unet-washer"):
            read_result(path)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        read_result(path)
