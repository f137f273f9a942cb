from __future__ import annotations

import numpy as np
import pytest

from anosynth.comparison import Bounded, arms_in_order, compare
from anosynth.metrics.detection import image_metrics
from anosynth.metrics.intervals import difference_bounds, level_bounds
from anosynth.results import LeftOutTable, read_left_out, write_left_out
from tests.measured_arms import measured_arms


def test_every_arm_gets_the_intervals_of_its_leave_one_out_values() -> None:
    result, table, scores = measured_arms(gains={"perlin": 0.8}, seeds=3)
    real, perlin = compare(result, table, baseline="real", confidence=0.9)
    assert (real.arm, perlin.arm, real.gains, perlin.num_compared) == ("real", "perlin", {}, 1)
    assert (perlin.num_groups, perlin.num_images, perlin.num_anomalous, perlin.num_seeds) == (12, 60, 30, 3)
    groups = np.repeat(np.arange(12), 5)
    labels = np.arange(60) % 2 == 1
    full = {arm: np.array([image_metrics(one, labels).ap for one in found]) for arm, found in scores.items()}
    left = {
        arm: np.array(
            [[image_metrics(one[groups != at], labels[groups != at]).ap for at in range(12)] for one in found]
        )
        for arm, found in scores.items()
    }
    level = level_bounds(full["real"], left["real"], confidence=0.9)
    gain = difference_bounds((full["perlin"], full["real"]), (left["perlin"], left["real"]), confidence=0.9)
    assert real.levels["group"]["image_ap"].low == pytest.approx(float(level.low), abs=1e-6)
    found = perlin.gains["group"]["image_ap"]
    assert (found.value, found.low, found.high) == pytest.approx((gain.value, gain.low, gain.high), abs=1e-5)
    by_image = perlin.gains["image"]["image_ap"]
    assert by_image.value == found.value
    assert (by_image.low, by_image.high) != (found.low, found.high)


def test_intervals_that_hold_for_all_arms_at_once_are_wider() -> None:
    result, table, _ = measured_arms(gains={"perlin": 0.3, "cutpaste": 0.4, "dual": 0.5})
    for one in compare(result, table, baseline="real", confidence=0.95):
        if one.gains:
            single, guarded = one.gains["group"]["image_ap"], one.guarded["image_ap"]
            assert guarded.low is not None
            assert single.low is not None
            assert guarded.low < single.low < single.high < guarded.high  # type: ignore[operator]
            assert one.num_compared == 3


def test_without_the_base_arm_there_are_levels_and_no_gains() -> None:
    result, table, _ = measured_arms(gains={"perlin": 0.3})
    found = compare(result, table, baseline="nobody", confidence=0.95)
    assert [one.gains for one in found] == [{}, {}]
    assert all(one.levels["group"]["image_auroc"].low is not None for one in found)
    assert arms_in_order(result) == ["real", "perlin"]


def test_what_is_undefined_has_no_numbers() -> None:
    result, table, _ = measured_arms(gains={"perlin": 0.3})
    for one in compare(result, table, baseline="real", confidence=0.95):
        assert one.levels["group"]["pixel_ap"] == Bounded(None, None, None)  # no mask was there
    assert Bounded(None, None, None).text() == "–"
    assert Bounded(0.5, None, None).text(signed=True) == "+0.500"
    assert Bounded(0.5, 0.4, 0.6).text() == "0.500 [0.400, 0.600]"


def test_the_table_comes_back_from_its_file(tmp_path) -> None:
    rows = measured_arms(gains={"perlin": 0.3}, seeds=2)[1].rows()
    write_left_out(tmp_path / "left_out.parquet", rows)
    again = read_left_out(tmp_path / "left_out.parquet")
    for unit in ("nothing", "group", "image"):
        one, other = (
            table.values("perlin", ["1", "0"], unit=unit, metric="image_ap")  # type: ignore[arg-type]
            for table in (LeftOutTable(rows), again)
        )
        assert np.array_equal(one, other)
        assert len(one) == 2
