from __future__ import annotations

import json
import math

import pytest

from anosynth.errors import DataError
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
)
from anosynth.results import Result, TrainedOn, read_result, result_to_json

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
        test_images={"normal": 40, **dict.fromkeys(defects, 20)},
        test_groups=60,
        test_licences=["CC0-1.0"],
        trained_on={arm: TrainedOn({"real_normals": 8, "real_pairs": 4}, {}, "CC0-1.0") for arm in arms},
        metrics=arms,
        by_defect={
            arm: {seed: dict.fromkeys(defects, values) for seed, values in found.items()} for arm, found in arms.items()
        },
        error_bounds={},
    )


SHOTS = ShotsUsed("washer", "steel washer", 8, {"scratch": 4}, "k_center", 0, ["CC0-1.0"])
POOL = PoolCount("washer", "scratch/perlin", 64, 60, {"duplicate": 3, "tiny": 1}, "CC0-1.0")


def written(*results: Result, primary: str = "pixel_ap") -> str:
    return markdown(
        results=results,
        pools=[POOL],
        shots=[SHOTS],
        primary=primary,
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
    numbers = detection_json([result(), result(detector="patchcore", metrics={"real": seeds({"0": None})})])
    assert numbers["washer"]["unet"]["perlin"]["pixel_ap"] == {"mean": 0.625, "sd": 0.035355}
    assert numbers["washer"]["patchcore"]["real"]["aupro"] == {"mean": None, "sd": None}
    assert seeds_json([result()]) == {"washer": {"unet": {"real": 2, "perlin": 2}}}
    gains = gains_json([result(), result(detector="patchcore", metrics={"normals": seeds(REAL)})])
    assert list(gains["washer"]) == ["unet"]
    assert list(gains["washer"]["unet"]) == ["perlin"]
    assert pools_json([POOL]) == {
        "washer": {"scratch/perlin": {"rows": 64, "kept": 60, "refused": {"duplicate": 3, "tiny": 1}}}
    }


def test_the_report_shows_arms_in_the_order_of_params_with_gains_and_pools() -> None:
    text = written(result())
    real, perlin = text.index("| unet | real |"), text.index("| unet | perlin |")
    assert real < perlin
    assert "| 0.625 ± 0.035 |" in text
    assert "| unet | perlin | +0.075 ± 0.035 | +0.075 ± 0.035 | +0.075 ± 0.035 | 2 of 2 |" in text
    assert "| scratch/perlin | 64 | 60 | 3 duplicate, 1 tiny | CC0-1.0 |" in text
    assert "8 normal shots and anomalous shots: 4 scratch" in text
    assert "40 normal, 20 scratch in 60 groups" in text
    assert "by defect type" not in text
    assert "AUPRO by defect type" in written(result(defects=("crack", "hole")), primary="aupro")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"0": 0.5}, "1 seed per arm: not even a spread"),
        ({"0": 0.5, "1": 0.6}, "2 seeds per arm: ± is the standard deviation over seeds"),
        (dict.fromkeys("01234", 0.5), "5 seeds per arm"),
    ],
)
def test_the_report_claims_no_more_than_its_seeds_allow(values: dict[str, float], sentence: str) -> None:
    text = written(result(metrics={"real": seeds(values)}))
    assert sentence in text
    assert ("no interval is claimed" in text) == (len(values) > 1)
    assert "Gain over" not in text


def test_plots_get_one_row_per_arm_and_every_score_is_counted_once() -> None:
    rows = arms_plot([result(metrics={"real": seeds(REAL), "x": seeds({"0": None})})], metric="pixel_ap")
    assert rows == [{"panel": "washer, unet", "arm": "real", "value": 0.55, "low": 0.479289, "high": 0.620711}]
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
        ('{"version": 1, "category": 3}', "wrong fields"),
        ("[]", "damaged"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=rf"{why}.*dvc repro evaluate@unet-washer"):
            read_result(path)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        read_result(path)
