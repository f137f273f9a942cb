from __future__ import annotations

import json
import statistics
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from scipy import stats

from anosynth.fingerprint import digest_pixels
from anosynth.params import ScreenParams
from tests.sources.trees import mvtec_tree

REPOSITORY = Path(__file__).parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "examples"))  # the example's files import each other by name

gain_curve = import_module("gain_curve")
gain_curve_parts = import_module("gain_curve_parts")
gain_curve_pools = import_module("gain_curve_pools")
gain_curve_report = import_module("gain_curve_report")
gain_curve_svg = import_module("gain_curve_svg")

Row = gain_curve_report.Row
TINY = [
    *("--size-px", "64", "--unet-px", "32", "--encoder-px", "64", "--normals", "4", "--test", "3"),
    *("--steps", "2", "--pairs", "3", "--adapter-steps", "1", "--decoder-steps", "1", "--views", "1"),
    *("--dtype", "float32"),
]
CURVE = ["--parts", "tile-crack", "--seeds", "2", *TINY]
SVG = "{http://www.w3.org/2000/svg}"


def rows(values: dict[tuple[str, int, str], list[float]], *, metric: str = "pixel_ap") -> list[object]:
    return [
        Row(parts, m, seed, arm, {metric: value})
        for (parts, m, arm), found in values.items()
        for seed, value in enumerate(found)
    ]


def cells(out: Path, task: str = "curve") -> dict[str, str]:
    folder = out / task / "cells"
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.json")}


def without_time(text: str) -> dict[str, object]:
    return {key: value for key, value in json.loads(text).items() if key != "cpu_s"}


def test_a_gain_is_the_mean_of_paired_differences_with_its_t_interval() -> None:
    real, ours = [0.30, 0.50, 0.40, 0.20], [0.35, 0.52, 0.55, 0.21]
    found = gain_curve_report.gain(
        rows({("a", 3, "real"): real, ("a", 3, "perlin"): ours}), "a", 3, "perlin", "pixel_ap"
    )
    differences = [one - other for one, other in zip(ours, real, strict=True)]
    low, high = stats.t.interval(0.95, 3, loc=statistics.mean(differences), scale=stats.sem(differences))
    assert (found.value, found.low, found.high) == pytest.approx((statistics.mean(differences), low, high))
    assert found.num_seeds == 4


def test_a_seed_that_an_arm_lacks_is_left_out_of_its_gain_and_one_seed_has_no_interval() -> None:
    found = rows({("a", 1, "real"): [0.1, 0.2, 0.9], ("a", 1, "perlin"): [0.3, 0.4], ("a", 3, "real"): [0.5]})
    found += rows({("a", 3, "perlin"): [0.6]})
    assert gain_curve_report.gain(found, "a", 1, "perlin", "pixel_ap").num_seeds == 2
    one = gain_curve_report.gain(found, "a", 3, "perlin", "pixel_ap")
    assert (one.text(), one.low) == ("+0.100", None)
    assert gain_curve_report.gain(found, "a", 10, "perlin", "pixel_ap") is None


def test_the_mean_over_categories_is_taken_by_seed_before_the_interval() -> None:
    table = {("a", 1, "real"): [0.1, 0.2], ("a", 1, "perlin"): [0.2, 0.6]}
    table |= {("b", 1, "real"): [0.5, 0.5], ("b", 1, "perlin"): [0.7, 0.5]}
    found = gain_curve_report.gain(rows(table), gain_curve_report.ALL, 1, "perlin", "pixel_ap")
    low, high = stats.t.interval(0.95, 1, loc=0.175, scale=stats.sem([0.15, 0.2]))
    assert (found.value, found.low, found.high) == pytest.approx((0.175, low, high))


def test_the_table_has_a_row_for_each_measured_arm_and_says_where_seeds_are_missing() -> None:
    table = {("a", 1, "real"): [0.1, 0.2], ("a", 1, "perlin"): [0.2, 0.6], ("a", 3, "real"): [0.5]}
    text = gain_curve_report.report(rows(table), metrics=("pixel_ap",))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[1:] == [
        "| 1 | real | 0.150 ± 0.071 | – |",
        "| 1 | perlin | 0.400 ± 0.283 | +0.250 [-1.656, +2.156] |",
        "| 3 | real | 0.500 ± 0.000 (1 seeds) | – |",
    ]


def test_arms_are_compared_with_each_other_seed_by_seed() -> None:
    table = {("a", 1, "real"): [0.1, 0.2], ("a", 1, "perlin"): [0.2, 0.6], ("a", 1, "cutpaste"): [0.5, 0.7, 0.9]}
    text = gain_curve_report.report(rows(table), metrics=("pixel_ap",))
    low, high = stats.t.interval(0.95, 1, loc=0.2, scale=stats.sem([0.3, 0.1]))
    assert f"| 1 | cutpaste | perlin | +0.200 [{low:+.3f}, {high:+.3f}] | 2 |" in text.splitlines()


def test_shots_that_give_no_pool_leave_a_cell_without_values_and_the_run_goes_on(tmp_path: Path) -> None:
    chosen = gain_curve._parser().parse_args(["--out", str(tmp_path), *CURVE])
    settings = gain_curve.read_settings(chosen)
    nothing_passes = replace(settings.pools, screen=ScreenParams(min_mask_ratio=0.49, max_mask_ratio=0.5))
    settings = replace(settings, pools=nothing_passes)
    arms = gain_curve.read_arms(["only_perlin", "cutpaste"], settings.pools)
    asked = {"ms": [1], "seeds": [0], "arms": arms, "out": tmp_path}
    found, fitted = gain_curve.measure(settings, gain_curve.read_places(chosen, settings), **asked)
    by_arm = {row.arm: row for row in found}
    assert [*by_arm] == ["real", "only_perlin", "cutpaste"]
    assert by_arm["only_perlin"].reason.endswith("arm only_perlin: no pair was kept; look at the pool")
    assert set(by_arm["only_perlin"].values.values()) == {None}
    assert by_arm["cutpaste"].values["pixel_ap"] is not None
    text = gain_curve_report.report(found, metrics=("pixel_ap",))
    assert "| 1 | only_perlin |" not in text
    assert f"- tile-crack, m = 1, seed 0, only_perlin: {by_arm['only_perlin'].reason}\n" in text
    again, fitted_again = gain_curve.measure(settings, gain_curve.read_places(chosen, settings), **asked)
    assert (fitted, fitted_again) == (3, 0)
    assert again == found


def test_the_picture_has_a_dot_for_each_gain_higher_for_more() -> None:
    table = {("a", 1, "real"): [0.1, 0.2], ("a", 1, "perlin"): [0.2, 0.4], ("a", 3, "real"): [0.5, 0.6]}
    table |= {("a", 3, "perlin"): [0.5, 0.5], ("a", 3, "cutpaste"): [0.4, 0.7]}
    drawn = ElementTree.fromstring(gain_curve_svg.picture(rows(table), metric="pixel_ap"))
    dots = {colour: [] for colour in gain_curve_svg.COLOURS[:2]}
    for circle in drawn.iter(f"{SVG}circle"):
        if circle.get("r") == "4.5":
            dots[circle.get("fill")].append((float(circle.get("cx") or 0), float(circle.get("cy") or 0)))
    (first, second), (cutpaste,) = dots[gain_curve_svg.COLOURS[0]], dots[gain_curve_svg.COLOURS[1]]
    assert first[0] < second[0] < cutpaste[0]
    assert first[1] < cutpaste[1] < second[1]  # +0.15, 0.00, -0.05; heights are counted from the top
    said = [text.text for text in drawn.iter(f"{SVG}text")]
    assert {"a", "m = 1", "m = 3", "perlin", "cutpaste"} <= set(said)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gain")
    gain_curve.main(["--out", str(out), *CURVE, "--shots", "1", "2", "--arms", "cutpaste", "only_perlin"])
    return out


def test_every_cell_is_a_file_and_found_again(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = cells(measured)
    assert len(before) == 2 * 2 * 3
    capsys.readouterr()
    gain_curve.main(["--out", str(measured), *CURVE, "--shots", "1", "2", "--arms", "cutpaste", "only_perlin"])
    assert "12 cells (0 fitted now)" in capsys.readouterr().out
    assert cells(measured) == before
    assert (measured / "curve" / "gain.svg").read_text(encoding="utf-8").startswith("<svg")
    alone = json.loads(before["tile-crack/m1-seed0/only_perlin.json"])["pairs"]
    assert (alone["real"], alone["drawn"]) == (0, 3)
    assert json.loads(before["tile-crack/m2-seed0/cutpaste.json"])["pairs"]["real"] == 2


def test_bounds_put_real_pictures_in_the_place_of_synthetic_ones(tmp_path: Path) -> None:
    asked = ["--out", str(tmp_path), *CURVE, "--seeds", "1", "--arms", "bound_others", "bound_test"]
    gain_curve.main([*asked, "--shots", "2", "30", "--pairs", "5"])
    found = {name: json.loads(text) for name, text in cells(tmp_path).items()}
    few, all_taken = (found[f"tile-crack/m{m}-seed0/bound_others.json"] for m in (2, 30))
    assert few["pairs"] == {"real": 2, "drawn": 0, "kept": 5}
    assert all_taken["cell"]["reason"] == "tile-crack, m = 30: every picture is a shot; bound_others has no other"
    assert found["tile-crack/m2-seed0/bound_test.json"]["pairs"] == {"real": 2, "drawn": 0, "kept": 3}

    settings = gain_curve.read_settings(gain_curve._parser().parse_args(["--out", str(tmp_path), *CURVE]))
    (place,) = gain_curve.read_places(gain_curve._parser().parse_args(asked), settings)
    pools = gain_curve_pools.Generators(settings.pools), gain_curve_pools.ShardStore(tmp_path / "store")
    bench = gain_curve.Bench(settings, place.parts(0))
    draw = gain_curve_pools.Draw(bench.parts, 2, 0, settings=settings.pools, generators=pools[0], store=pools[1])
    shots, others = {one.name for one in draw.real_pairs()}, {one.name for one in draw.other_pairs()}
    assert len(others) == 3  # as many as a pool has pairs
    assert not shots & others
    assert {one.sha256 for one in bench.parts.candidates["crack"]} >= shots | others
    test = bench._stand_ins(draw, gain_curve.Arm("bound_test"))
    assert [one.name for one in test] == [one.name for one in bench.parts.test if one.defect == "crack"]
    assert all(one.synthetic and one.mask is not None and one.mask.any() for one in test)


def test_two_runs_of_one_seed_give_equal_cells(measured: Path, tmp_path: Path) -> None:
    gain_curve.main(["--out", str(tmp_path), *CURVE, "--shots", "2", "--arms", "cutpaste"])
    before, again = cells(measured), cells(tmp_path)
    assert len(again) == 4
    for name, text in again.items():
        assert without_time(text) == without_time(before[name])
    assert len({json.dumps(json.loads(text)["cell"]["values"]) for text in again.values()}) == 4


def test_shots_are_nested_change_with_the_seed_and_are_no_test_pictures() -> None:
    place = gain_curve_parts.read_place("wood-stain", gain_curve_parts.Counts(64, 2, 2), bsdata_folder="")
    parts = place.parts(0)
    assert place.parts(1) is parts
    drawn = {seed: [one.sha256 for one in parts.shots("stain", 10, seed)] for seed in range(3)}
    for seed, ids in drawn.items():
        assert [one.sha256 for one in parts.shots("stain", 3, seed)] == ids[:3]
        assert len(set(ids)) == 10
    assert len({tuple(ids) for ids in drawn.values()}) == 3
    tested = {digest_pixels(one.image) for one in parts.test}
    assert not tested & {one.sha256 for one in (*parts.normals, *parts.candidates["stain"])}
    assert [one.defect for one in parts.test] == [None, None, "stain", "stain"]


def test_types_are_told_apart_by_an_adapter_of_all_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path), "--task", "types", "--parts", "wood-hole-stain", "--seeds", "1", *TINY]
    gain_curve.main([*arguments, "--shots", "1", "2", "--arms", "perlin", "dualanodiff", "--backbone", "embedded"])
    found = {name: json.loads(text) for name, text in cells(tmp_path, "types").items()}
    place = "wood-hole-stain"
    arms = ("real", "perlin", "dualanodiff")
    assert found.keys() == {f"{place}/m{m}-seed0/{arm}.json" for m in (1, 2) for arm in arms}
    for one in found.values():
        assert set(one["cell"]["values"]) == {"accuracy", "macro_f1"}
        assert 0.0 <= one["cell"]["values"]["macro_f1"] <= 1.0
    drawn = found[f"{place}/m2-seed0/dualanodiff.json"]["pairs"]
    assert (drawn["real"], drawn["drawn"]) == (4, 6)
    assert "| accuracy | macro_f1 |" in capsys.readouterr().out


def test_bsdata_leaves_out_another_training_position_for_every_seed(tmp_path: Path) -> None:
    groups = tree_of_positions(tmp_path)
    place = gain_curve_parts.read_place("bsdata", gain_curve_parts.Counts(64, 1, 1), bsdata_folder=str(tmp_path))
    slugs = [place.parts(seed).slug for seed in range(3)]
    assert slugs == ["bsdata-without-p0", "bsdata-without-p1", "bsdata-without-p0"]
    checked = 0
    for seed, slug in enumerate(slugs[:2]):
        parts = place.parts(seed)
        position = slug.removeprefix("bsdata-without-")
        for one in parts.test:
            assert groups[one.name.removeprefix("ball_screw/")] == position
            checked += 1
        assert len(parts.candidates["pitting"]) == 1  # two may train, one of them at the position left out
        assert (parts.mirror, parts.quarter_turns) == (False, False)
    assert checked == 4


def tree_of_positions(root: Path) -> dict[str, str]:
    """Six pitting images, of which the first two may train, at p0 and p1; normals of both; the rest is the test."""
    folder = mvtec_tree(root, category="ball_screw", num_train=2, num_test=1, defects={"pitting": 6})
    groups = {f"train/good/{at:03d}.png": f"p{at}" for at in range(2)} | {"test/good/000.png": "p9"}
    groups |= {f"test/pitting/{at:03d}.png": f"p{at}" if at < 2 else "p9" for at in range(6)}
    lines = ["path,group", *(f"{path},{group}" for path, group in groups.items())]
    (folder / "groups.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return groups


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--parts", "cup-crack"], "--parts cup-crack: no category 'cup'; there: bsdata, cast_metal"),
        (["--parts", "tile-dent"], "of tile there are scratch, crack, stain, missing"),
        (["--parts", "tile"], "name the category and its defect types"),
        (["--parts", "bsdata", "--bsdata", ""], "--parts bsdata: it needs --bsdata FOLDER"),
        (["--arms", "dualanodiff"], "--arms dualanodiff: it draws with a backbone; add --backbone embedded"),
        (["--arms", "mixup"], "--arms mixup: not there; there: real, perlin, cutpaste, dualanodiff, only_perlin"),
        (["--arms", "bound_all"], "only_dualanodiff, bound_others, bound_test"),
        (["--backbone", "/nowhere/at/all"], "no such folder, and not the word embedded"),
        (["--task", "types", "--parts", "wood-stain"], "one defect type; there is nothing to tell apart"),
        (["--shots", "31", *CURVE, "--seeds", "1"], "--shots 31: 30 pictures of tile-crack with crack may be shots"),
    ],
)
def test_wrong_input_ends_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        gain_curve.main(["--out", str(tmp_path), *arguments])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--synthetic-until", "0", "'0' is not a share in (0, 1]"),
        ("--synthetic-until", "1.5", "'1.5' is not a share in (0, 1]"),
        ("--synthetic-ratio", "half", "'half' is not a share in [0, 1]"),
    ],
)
def test_a_share_out_of_its_range_is_refused(
    capsys: pytest.CaptureFixture[str], option: str, value: str, said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        gain_curve.main(["--out", "never", option, value])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_share_may_be_none_of_a_batch_and_all_of_the_steps() -> None:
    chosen = gain_curve._parser().parse_args(["--out", "x", "--synthetic-ratio", "0", "--synthetic-until", "1"])
    assert (chosen.synthetic_ratio, chosen.synthetic_until) == (0.0, 1.0)


def test_a_file_that_is_no_cell_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "curve" / "cells" / "tile-crack" / "m1-seed0" / "real.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(SystemExit):
        gain_curve.main(["--out", str(tmp_path), *CURVE, "--shots", "1", "--seeds", "1", "--arms", "perlin"])
    assert f"{path}: not a cell that this script wrote" in capsys.readouterr().err


def test_the_defaults_are_the_methods_of_params_yaml() -> None:
    chosen = gain_curve._parser().parse_args(["--out", "x"])
    mine = gain_curve.read_settings(chosen).pools.methods
    theirs = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))["methods"]
    for name, spec in theirs.items():
        said = mine[name].model_dump(mode="json")
        shorter = {"steps"}
        assert {key: said[key] for key in spec if key not in shorter} == {
            key: value for key, value in spec.items() if key not in shorter
        }
    assert np.array_equal(sorted(mine), sorted(theirs))
