"""The measurements of examples/dual_quality.py on tiny settings and the toy backbone, which draws nothing."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from anosynth.errors import DataError, ParamsError
from anosynth.fingerprint import digest_pixels
from anosynth.params import ComputeParams, Params, ToyBackbone, parse_params
from anosynth.pools.dual_fit import mask_rule
from anosynth.pools.masks import neutral_part, part_mask
from anosynth.pools.real import RealPair
from tests.examples.test_few_shot import bsdata_tree
from tests.pools.small import disk, spotted

REPOSITORY = Path(__file__).parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "examples"))  # the example's files import each other by name

dual_quality = import_module("dual_quality")
judges = import_module("dual_quality_judge")
pools = import_module("dual_quality_pools")
reports = import_module("dual_quality_report")
scenes = import_module("dual_quality_scenes")

COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")
TINY_DUAL = {"rank": 2, "alpha": 2.0, "inner": 4, "steps": 2, "batch_size": 2, "views": 2, "min_confidence": 0.0}
TINY_DUAL |= {"strength": 0.6, "decoder_steps": 1}  # at 0.3 the toy, which draws noise, shows next to nothing
SIZES = {
    "size_px": 64,
    "shots": 2,
    "normals": 2,
    "pairs": 3,
    "bsdata_pairs": 2,
    "fold_pairs": 2,
    "held_out": 2,
    "mask_shots": 3,
    "judge_pairs": 6,
    "judge_held_out": 3,
    "judge_steps": 2,
}


def params() -> Params:
    raw: dict[str, Any] = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    raw["methods"]["dualanodiff"] |= {**TINY_DUAL, "key": "grey"}
    return parse_params(raw)


def quality(out: Path, **changes: int) -> Any:
    workshop = pools.Workshop(params(), ToyBackbone(kind="toy", seed=0), COMPUTE, out=out)
    sizes = dual_quality.Sizes(**{**SIZES, **changes})
    return dual_quality.Quality(params(), workshop, sizes, bsdata_folder="", out=out)


def iou_of(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a > 0) & (b > 0)).sum() / ((a > 0) | (b > 0)).sum())


def test_a_cell_is_measured_once_and_again_when_what_shapes_it_changes(tmp_path: Path) -> None:
    found = dual_quality.measure(quality(tmp_path), ["judge"], out=tmp_path)
    path = tmp_path / "cells/judge.json"
    before = path.read_bytes()
    marked = json.loads(before)
    marked["values"]["held_out_iou"] = 0.25
    path.write_text(json.dumps(marked))
    again = dual_quality.measure(quality(tmp_path), ["judge"], out=tmp_path)
    assert again["judge"]["held_out_iou"] == 0.25
    other = dual_quality.measure(quality(tmp_path, judge_steps=1), ["judge"], out=tmp_path)
    assert other["judge"]["steps"] == 1
    assert found["judge"]["steps"] == 2
    assert len(list((tmp_path / "judge").iterdir())) == 2
    path.write_text("{}")
    with pytest.raises(DataError, match=r"judge\.json: not a cell that this script wrote; remove it"):
        dual_quality.measure(quality(tmp_path), ["judge"], out=tmp_path)


def test_a_judge_is_tested_on_renders_it_never_saw_and_read_back_whole(tmp_path: Path) -> None:
    settings = judges.JudgeSettings("pill", ("stain", "hole"), 64, 4, 4, 3, 4, 4)
    judge = judges.open_judge(settings, tmp_path)
    used = {
        digest_pixels(judges.rendered(settings, use, index).image)
        for use in ("train", "held_out")
        for index in range(4)
    }
    assert len(used) == 8
    tests = [judges.rendered(settings, "held_out", index) for index in range(4)]
    found = judge.masks([one.image for one in tests])
    expected = [
        1.0 if not (mask.any() or one.mask.any()) else iou_of(mask, one.mask)
        for mask, one in zip(found, tests, strict=True)
    ]
    assert judge.agreement([one.image for one in tests], [one.mask for one in tests]) == pytest.approx(expected)
    assert judge.facts["held_out_iou"] == pytest.approx(np.mean(expected))
    assert judge.facts["by_defect"] == pytest.approx({"stain": np.mean(expected[::2]), "hole": np.mean(expected[1::2])})
    again = judges.open_judge(settings, tmp_path)
    assert again.facts == judge.facts
    for mask, same in zip(found, again.masks([one.image for one in tests]), strict=True):
        np.testing.assert_array_equal(mask, same)


def test_the_pictures_of_a_scene_are_all_different_and_the_outlines_are_the_parents(tmp_path: Path) -> None:
    scene = scenes.procedural("pill", ("stain", "hole"), shots=2, normals=3, held_out=2, size_px=64)
    images = [one.image for one in scene.normals]
    for defect in ("stain", "hole"):
        images += [one.image for one in scene.shots[defect]] + list(scene.held_out[defect].images)
    assert len({digest_pixels(image) for image in images}) == len(images) == 3 + 2 * 4
    assert list(scene.objects) == [one.sha256 for one in scene.normals]
    assert all(0.05 < (outline > 0).mean() < 0.9 for outline in scene.objects.values())
    assert (
        scene.digest == scenes.procedural("pill", ("stain", "hole"), shots=2, normals=3, held_out=2, size_px=64).digest
    )
    assert scene.digest != scenes.procedural("pill", ("stain",), shots=2, normals=3, held_out=2, size_px=64).digest


def test_a_rule_is_asked_about_the_group_that_it_did_not_see() -> None:
    shots = [spotted(disk(number), at=(14 + 6 * number, 24)) for number in range(4)]
    groups = ["a", "a", "b", "c"]

    def see(parts: list[np.ndarray]) -> list[np.ndarray]:
        """Softens, the brighter the part the more."""
        return [
            ((part.astype(int) + np.roll(part, 1 + part.max() // 128, axis=1)) // 2).astype(np.uint8) for part in parts
        ]

    own, honest = pools.recovery(shots, groups, see, key="grey", reading="threshold")

    def asked(rule: Any, one: RealPair) -> float:
        (part,) = see([neutral_part(one.image, one.mask, key=rule.key)])
        return iou_of(part_mask(part, rule), one.mask)

    rule = mask_rule(shots, key="grey", reading="threshold", see=see, seed=0)
    assert own == pytest.approx(np.mean([asked(rule, one) for one in shots]))
    left_out = []
    for group in "abc":
        rest = mask_rule(
            [one for one, its in zip(shots, groups, strict=True) if its != group],
            key="grey",
            reading="threshold",
            see=see,
            seed=0,
        )
        left_out += [asked(rest, one) for one, its in zip(shots, groups, strict=True) if its == group]
    assert len(left_out) == 4
    assert honest == pytest.approx(np.mean(left_out))


def test_contrast_is_inside_against_the_ring_around() -> None:
    image, mask = np.full((40, 40, 3), 100, dtype=np.uint8), np.zeros((40, 40), dtype=np.uint8)
    mask[16:24, 16:24] = 255
    image[mask > 0] = (70, 90, 105)
    image[14:26, 14:16] = 0  # next to the mask: not looked at
    assert pools.contrast(image, mask) == 30.0


def test_folds_of_bsdata_hold_out_training_positions_alone(tmp_path: Path) -> None:
    folder = str(bsdata_tree(tmp_path))
    whole = scenes.ball_screw(folder, size_px=64)
    assert (len(whole.normals), whole.groups["pitting"], len(whole.held_out["pitting"].images)) == (4, ("a", "b"), 0)
    sides = []
    for fold, (shown, hidden) in enumerate((("b", 0), ("a", 1))):
        scene = scenes.ball_screw(folder, size_px=64, fold=fold)
        assert (len(scene.normals), scene.groups["pitting"]) == (2, (shown,))
        (image,) = scene.held_out["pitting"].images
        assert np.array_equal(image, whole.shots["pitting"][hidden].image)
        sides.append(scene.digest)
    assert len({whole.digest, *sides}) == 3


def test_planted_copies_are_every_shot_in_every_kind() -> None:
    shots = [np.full((40, 30, 3), 20 * (at + 1), dtype=np.uint8) for at in range(3)]
    for at, shot in enumerate(shots):
        shot[5:9, 3 + at : 12] = 200
    copies = list(pools.planted_copies(shots, count=24))
    seen = set()
    for at, (kind, copy) in enumerate(copies):
        shot = shots[at % 3]
        assert (copy.shape, copy.dtype) == (shot.shape, np.uint8)
        seen.add((at % 3, kind))
        if kind == "mirrored":
            assert np.array_equal(copy[:, ::-1], shot) or np.array_equal(copy[::-1], shot)
        elif kind in ("brighter", "darker"):
            factor = 1.1 if kind == "brighter" else 0.9
            np.testing.assert_array_equal(copy, np.clip(np.rint(shot * factor), 0, 255))
    assert len(seen) == 12


def test_the_pools_of_a_judged_category_are_drawn_judged_and_found_again(tmp_path: Path) -> None:
    whole = quality(tmp_path)
    first = dual_quality.measure(whole, ["pairs-shared", "pairs-cutpaste"], out=tmp_path)
    drawn = first["pairs-shared"]
    assert drawn["pairs"] == 3
    assert drawn["empty_masks"] == 0
    assert set(drawn["by_defect"]) == {"stain", "hole", "missing"}
    assert first["pairs-cutpaste"]["background_only_accepted"] == 0
    sheets = sorted(path.name for path in tmp_path.glob("*.png"))
    assert [name for name in sheets if "shared" in name] == [
        f"pill-shared-{defect}.png" for defect in ("hole", "missing", "stain")
    ]
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*") if path.is_file()}
    for path in (tmp_path / "cells").iterdir():
        path.unlink()
    assert dual_quality.measure(quality(tmp_path), ["pairs-shared", "pairs-cutpaste"], out=tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*") if path.is_file()} == shards
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| one adapter: no empty masks | 0 | passed |" in table


def test_cells_of_real_data_need_their_folder_and_a_wrong_name_ends_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANOSYNTH_BSDATA", raising=False)
    with pytest.raises(ParamsError, match="--cells copies: not there; it needs --bsdata FOLDER; there: judge"):
        dual_quality.measure(quality(tmp_path), ["copies"], out=tmp_path)
    for wrong in (["--cells", "nonsense"], ["--size-px", "72"], ["--backbone", "/no/such/folder"]):
        with pytest.raises(SystemExit) as ended:
            dual_quality.main(["--out", str(tmp_path), "--bsdata", "", *wrong])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("dual_quality: --")
        assert said.count("\n") == 1


def fold(ours: float | None, perlin: float, cutpaste: float) -> dict[str, object]:
    values = {"dualanodiff": ours, "perlin": perlin, "cutpaste": cutpaste}
    return {
        "held_out": 12,
        "pairs_compared": 9,
        "methods": {name: {"kid_lite_crops": {"value": value, "sd": 0.01}} for name, value in values.items()},
    }


@pytest.mark.parametrize(
    ("cells", "passed"),
    [
        ({"judge": {"held_out_iou": 0.85}}, [True]),
        ({"judge": {"held_out_iou": 0.849}}, [False]),
        ({"masks-washer": {"iou": 0.9, "left_out_iou": 0.8, "shots": 3, "by_defect": {}}}, [True]),
        (
            {"bsdata-all": {"pairs": 5, "accepted_ratio": 0.6, "memorization": {"above_ceiling_ratio": 0.2}}},
            [True, True],
        ),
        (
            {"bsdata-all": {"pairs": 5, "accepted_ratio": 0.5, "memorization": {"above_ceiling_ratio": None}}},
            [False, False],
        ),
        ({"bsdata-fold0": fold(0.1, 0.2, 0.3)}, [True]),
        ({"bsdata-fold1": fold(0.25, 0.2, 0.3)}, [False]),
        ({"bsdata-fold1": fold(None, 0.2, 0.3)}, []),
    ],
)
def test_a_line_of_acceptance_passes_at_its_bound(cells: dict[str, Any], passed: list[bool]) -> None:
    rows = [line for line in reports.report(cells).splitlines()[2:] if line.startswith("| ")]
    assert [row.endswith("| passed |") for row in rows] == passed
