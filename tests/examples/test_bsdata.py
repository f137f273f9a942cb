from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from scipy import stats

from anosynth.errors import ParamsError
from anosynth.layout import Layout
from anosynth.params import parse_params
from anosynth.results import Result, TrainedOn
from tests.sources.trees import mvtec_tree

BSDATA = os.environ.get("ANOSYNTH_BSDATA", "")
REPOSITORY = Path(__file__).parent.parent.parent


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bsdata_example", REPOSITORY / "examples" / "bsdata.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


bsdata = load()


def result(detector: str, metrics: dict[str, dict[str, dict[str, float | None]]]) -> Result:
    return Result(
        category="ball_screw",
        detector=detector,
        spec={},
        normals="train",
        aupro_max_fpr=0.3,
        role="test",
        test_images={"normal": 1, "pitting": 1},
        test_groups=1,
        test_licences=["CC-BY-SA-4.0"],
        trained_on={arm: TrainedOn({}, {}, "x") for arm in metrics},
        metrics=metrics,
        by_defect={},
        error_bounds={},
        at_thresholds={},
    )


def test_seeds_are_averaged_first_and_what_is_undefined_is_left_out() -> None:
    metrics: dict[str, dict[str, dict[str, float | None]]] = {
        "real": {"0": {"pixel_ap": 0.2, "aupro": None}, "1": {"pixel_ap": 0.4, "aupro": None}},
        "perlin": {"0": {"pixel_ap": 0.5, "aupro": 0.7}, "1": {"pixel_ap": 0.5, "aupro": None}},
    }
    rows = bsdata.measured("a", [result("unet", metrics)])
    assert [(row.arm, row.metric, pytest.approx(row.value)) for row in rows] == [
        ("real", "pixel_ap", 0.3),
        ("perlin", "pixel_ap", 0.5),
        ("perlin", "aupro", 0.7),
    ]


def test_the_table_shows_mean_deviation_and_paired_gain() -> None:
    values = {"a": (0.30, 0.50), "b": (0.20, 0.10), "c": (0.40, 0.45)}
    rows = [
        bsdata.Measured(place, "unet", arm, "pixel_ap", value)
        for place, pair in values.items()
        for arm, value in zip(("real", "perlin"), pair, strict=True)
    ]
    lines = bsdata.summarize(rows, primary="pixel_ap").splitlines()
    gains = [one - base for base, one in values.values()]
    real, perlin = ([pair[at] for pair in values.values()] for at in (0, 1))
    low, high = stats.t.interval(0.95, 2, loc=statistics.mean(gains), scale=stats.sem(gains))
    assert lines[-2] == f"| unet | real | {statistics.mean(real):.3f} ± {statistics.stdev(real):.3f} | - | - |"
    assert lines[-1] == (
        f"| unet | perlin | {statistics.mean(perlin):.3f} ± {statistics.stdev(perlin):.3f} | "
        f"{statistics.mean(gains):+.3f} ± {statistics.stdev(gains):.3f} [{low:+.3f}, {high:+.3f}] | 2 of 3 |"
    )
    assert bsdata.mean_and_deviation([0.5]) == (0.5, 0.0)


def test_a_look_is_one_row_that_says_when_what_why_and_how_much() -> None:
    metrics: dict[str, dict[str, dict[str, float | None]]] = {"real": {"0": {"pixel_ap": 0.25, "aupro": 0.5}}}
    line = bsdata.look_line(
        [result("unet", metrics), result("patchcore", {"real": {"0": {"pixel_ap": None}}})],
        metric="pixel_ap",
        commit="abc",
        params="0123456789abcdef",
        why="release\n| 0.1",
        now=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    )
    assert line == "| 2026-01-02 03:04 | abc | 0123456789ab | release / 0.1 | unet/real 0.2500 |\n"
    head = bsdata.LOOKS_HEAD.splitlines()
    assert line.count("|") == head[-1].count("|") == head[-2].count("|")


def project(root: Path) -> dict[str, object]:
    """Three positions that may train, the last without pitting, and one that tests."""
    folder = mvtec_tree(root, category="ball_screw", num_train=3, num_test=1, defects={"pitting": 6})
    groups = {f"train/good/{at:03d}.png": name for at, name in enumerate("abc")}
    groups |= {"test/good/000.png": "z"} | {
        f"test/pitting/{at:03d}.png": ("a", "b", "z", "z", "z", "z")[at] for at in range(6)
    }
    text = "\n".join(["path,group", *(f"{path},{group}" for path, group in groups.items())])
    (folder / "groups.csv").write_text(text, encoding="utf-8")
    raw = bsdata.read_raw(REPOSITORY / "examples" / "bsdata.params.yaml", str(root))
    assert isinstance(raw, dict)
    return raw


def test_a_round_leaves_one_position_out_and_asks_for_the_shots_that_are_left(tmp_path: Path) -> None:
    raw = project(tmp_path)
    images = bsdata.positions(parse_params(raw), tmp_path)
    assert images == {"a": Counter(normal=1, pitting=1), "b": Counter(normal=1, pitting=1), "c": Counter(normal=1)}
    left = parse_params(bsdata.without(raw, "a", images))
    assert (left.split.held_out_group, left.select_shots.anomalous) == ("a", 1)
    assert parse_params(bsdata.without(raw, "c", images)).select_shots.anomalous == 2
    assert raw["split"]["held_out_group"] is None  # type: ignore[index]


def test_a_shorter_development_changes_what_it_is_told_and_nothing_else(tmp_path: Path) -> None:
    raw = project(tmp_path)
    short = parse_params(bsdata.shortened(raw, shots=3, seeds=1, steps=150, pairs=48))
    assert (short.select_shots.anomalous, short.fit_detector.seeds, short.generate_pairs.n) == (3, [0], 48)
    assert short.detectors["unet"].steps == 150
    assert bsdata.shortened(raw, shots=None, seeds=None, steps=None, pairs=None) == raw
    assert parse_params(raw).select_shots.anomalous == 28
    with pytest.raises(ParamsError, match="generate_pairs"):
        bsdata.shortened(raw, shots=None, seeds=None, steps=None, pairs=0)


def test_the_shortcut_of_an_arm_is_its_mean_over_seeds(tmp_path: Path) -> None:
    path = Layout(tmp_path).shortcuts("ball_screw")
    path.parent.mkdir(parents=True)
    found = {"unet": {"real": {"0": 0.5, "1": 0.6}, "dualanodiff": {"0": 0.7, "1": 0.7}}}
    path.write_text(json.dumps({"shortcut_auroc": found}), encoding="utf-8")
    rows = [(row.detector, row.arm, row.metric, pytest.approx(row.value)) for row in bsdata.shortcuts("a", tmp_path)]
    assert rows == [("unet", "real", "shortcut_auroc", 0.55), ("unet", "dualanodiff", "shortcut_auroc", 0.7)]


def test_a_prepared_folder_runs_the_checkouts_graph_with_its_own_params(tmp_path: Path) -> None:
    raw = project(tmp_path / "data")
    for _ in range(2):
        bsdata.prepare(tmp_path / "run", raw)
    assert (tmp_path / "run/dvc.yaml").read_bytes() == (REPOSITORY / "dvc.yaml").read_bytes()
    assert (tmp_path / "run/tasks").resolve() == REPOSITORY / "tasks"
    assert (tmp_path / "run/.dvc").is_dir()
    assert yaml.safe_load((tmp_path / "run/params.yaml").read_text(encoding="utf-8")) == raw


def test_wrong_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project(tmp_path)
    wrong = (
        (["dev", "--data", str(tmp_path / "nowhere")], "no such folder; set source.root"),
        (["dev", "--data", str(tmp_path), "--positions", "a,y"], "no training position y; there: a, b, c"),
        (["test", "--params", str(tmp_path / "none.yaml")], "none.yaml"),
    )
    for arguments, message in wrong:
        with pytest.raises(SystemExit) as ended:
            bsdata.main(arguments)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.skipif(not BSDATA, reason="ANOSYNTH_BSDATA does not name the folder of BSData")
def test_bsdata_has_eight_training_positions_one_of_them_without_pitting() -> None:
    raw = bsdata.read_raw(REPOSITORY / "examples" / "bsdata.params.yaml", BSDATA)
    images = bsdata.positions(parse_params(raw), REPOSITORY)
    assert len(images) == 8
    assert all(count["normal"] == 10 for count in images.values())
    assert sorted(count["pitting"] for count in images.values()) == [0] + [4] * 7
