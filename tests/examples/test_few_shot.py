from __future__ import annotations

import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anosynth.detectors.one_to_normal import Explanation
from anosynth.errors import DataError
from anosynth.features.aligned import AlignedFeatures, build_aligned
from anosynth.features.encoder import build_features
from anosynth.features.projection import open_projection, write_projection
from anosynth.fingerprint import digest_pixels
from anosynth.params import (
    ComputeParams,
    DigitsSource,
    EmbeddedAligned,
    EmbeddedFeatures,
    GenerateNormalsParams,
    ObjectParams,
    ToyBackbone,
)
from anosynth.samples import Prediction
from anosynth.sources.open import open_source
from tests.sources.trees import mvtec_tree, picture

REPOSITORY = Path(__file__).parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "examples"))  # the example's files import each other by name

few_shot = import_module("few_shot")
few_shot_encoders = import_module("few_shot_encoders")
few_shot_pictures = import_module("few_shot_pictures")
few_shot_report = import_module("few_shot_report")
few_shot_sets = import_module("few_shot_sets")

TINY = ["--queries", "5", "--size-px", "64", "--encoder-px", "64", "--threads", "1"]
COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")


def run(out: Path, *arguments: str) -> None:
    few_shot.main(["--out", str(out), "--sets", "washer", "--k", "1", "2", "--seeds", "2", *TINY, *arguments])


def cells(out: Path) -> dict[str, dict[str, object]]:
    return {
        path.relative_to(out / "cells").as_posix(): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((out / "cells").rglob("*.json"))
    }


def auroc_by_pairs(scores: list[float], anomalous: list[bool]) -> float:
    up = [score for score, one in zip(scores, anomalous, strict=True) if one]
    down = [score for score, one in zip(scores, anomalous, strict=True) if not one]
    return statistics.mean((a > b) + 0.5 * (a == b) for a in up for b in down)


def ap_by_thresholds(scores: list[float], anomalous: list[bool]) -> float:
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        flagged = [one for score, one in zip(scores, anomalous, strict=True) if score >= threshold]
        recall = sum(flagged) / sum(anomalous)
        total += (recall - before) * sum(flagged) / len(flagged)
        before = recall
    return total


def sets_there(*, part: str = "development", queries: int, digits: str = "0") -> Any:
    return few_shot_sets.available_sets(part=part, bsdata_folder="", queries=queries, size_px=64, digits=digits)


@pytest.fixture(scope="module")
def washer() -> Any:
    (unit,) = sets_there(queries=5)["washer"].units()
    return unit


def test_a_cell_is_what_the_detector_gives_directly(
    tmp_path: Path, washer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "--detectors", "patchcore", "padim")
    found = cells(tmp_path)
    assert len(found) == 2 * 2 * 2  # k, seeds, detectors
    cell = found["washer/washer/k2-seed1/patchcore-without.json"]
    references = washer.references(2, 1)
    assert cell["references"] == [one.name for one in references]

    # PatchCore without a coreset, written out: the farthest patch, weighed by the 9 neighbours of its match
    features = build_features(EmbeddedFeatures(kind="embedded", size_px=64), compute=COMPUTE)
    patches = features.patches([one.image for one in references]).astype(np.float64)
    bank = patches.reshape(-1, patches.shape[-1])
    scores = []
    for query in washer.queries:
        own = features.patches([query.image]).astype(np.float64).reshape(-1, bank.shape[1])
        apart = np.linalg.norm(own[:, None] - bank[None], axis=2)
        at = int(apart.min(axis=1).argmax())
        match = int(apart[at].argmin())
        around = np.argsort(np.linalg.norm(bank - bank[match], axis=1), kind="stable")[:9]
        weight = 1.0 - math.exp(apart[at, match]) / np.exp(apart[at, around]).sum()
        scores.append(weight * apart[at, match])
    anomalous = [query.anomalous for query in washer.queries]
    told = cell["scores"]
    assert isinstance(told, dict)
    assert [told[query.name] for query in washer.queries] == pytest.approx(scores, rel=1e-3)
    row = cell["cell"]
    assert isinstance(row, dict)
    assert row["auroc"] == pytest.approx(auroc_by_pairs(scores, anomalous))
    assert row["ap"] == pytest.approx(ap_by_thresholds(scores, anomalous))

    # pixels, ranked pair by pair against the rendered masks
    built = few_shot.build_detector(
        few_shot.CONTENDERS["patchcore"].spec,
        parts=few_shot.DetectorParts(lambda: features, None, None, "", {}),
        compute=COMPUTE,
        draw_seed=0,
        name="patchcore",
    )
    built.fit([few_shot.LabelledImage(one.name, one.image, None, False) for one in references], [])
    maps = [one.anomaly_map for one in built.predict((one.name, one.image) for one in washer.queries)]
    masks = [np.zeros(one.image.shape[:2]) if one.mask is None else one.mask for one in washer.queries]
    inside, outside = (
        np.concatenate([m[q > 0] for m, q in zip(maps, masks, strict=True)]),
        np.sort(np.concatenate([m[q == 0] for m, q in zip(maps, masks, strict=True)])),
    )
    ahead = (np.searchsorted(outside, inside, "left") + np.searchsorted(outside, inside, "right")).mean() / 2
    assert row["pixel_auroc"] == pytest.approx(ahead / len(outside), abs=1e-6)
    assert 0.0 < row["aupro"] < 1.0

    # the table is made of the cells
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    for detector in ("patchcore", "padim"):
        said = [f"| {detector} | without"]
        for metric in ("auroc", "ap", "pixel_auroc", "aupro"):
            for k in (1, 2):
                values = [found[f"washer/washer/k{k}-seed{s}/{detector}-without.json"]["cell"][metric] for s in (0, 1)]  # type: ignore[index]
                said.append(f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}")
        assert " | ".join(said) + " |" in table.splitlines()
    assert "8 cells (8 fitted now)" in capsys.readouterr().out

    # and can be made again without a picture; of other settings no cell is there
    run(tmp_path, "--detectors", "patchcore", "padim", "--there")
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == table
    assert "8 cells (0 fitted now)" in capsys.readouterr().out
    run(tmp_path, "--detectors", "patchcore", "padim", "--there", "--dtype", "bfloat16")
    assert "0 cells (0 fitted now)" in capsys.readouterr().out


def test_a_second_run_fits_only_what_is_missing_or_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "--detectors", "padim")
    first, table = cells(tmp_path), (tmp_path / "table.md").read_bytes()
    run(tmp_path, "--detectors", "padim")
    assert "4 cells (0 fitted now)" in capsys.readouterr().out
    assert (cells(tmp_path), (tmp_path / "table.md").read_bytes()) == (first, table)

    folder = tmp_path / "cells/washer/washer"
    (folder / "k1-seed0/padim-without.json").unlink()
    stale = folder / "k2-seed0/padim-without.json"
    stale.write_text(json.dumps({**json.loads(stale.read_text(encoding="utf-8")), "fingerprint": "old"}))
    run(tmp_path, "--detectors", "padim")
    assert "4 cells (2 fitted now)" in capsys.readouterr().out
    again = cells(tmp_path)
    assert {name: one["cell"] for name, one in again.items()} == {name: one["cell"] for name, one in first.items()}


def test_a_projection_takes_every_level_to_text(
    tmp_path: Path, washer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    base = build_aligned(EmbeddedAligned(kind="embedded", size_px=64), compute=COMPUTE)
    rng, path = np.random.default_rng(5), tmp_path / "projection.safetensors"
    weights = [rng.standard_normal((width + 1, 384)).astype(np.float32) for width in (40, 112, 1280)]
    write_projection(path, weights, base_identity=base.identity, licence="CC0-1.0")
    asked = ["--detectors", "one_to_normal_text", "--k", "1", "--seeds", "1"]
    run(tmp_path, *asked)
    name = "washer/washer/k1-seed0/one_to_normal_text-without.json"
    closed = cells(tmp_path)[name]
    run(tmp_path, *asked, "--projection", str(path))
    assert "1 cells (1 fitted now)" in capsys.readouterr().out
    cell = cells(tmp_path)[name]

    detector = few_shot.build_detector(
        few_shot.CONTENDERS["one_to_normal_text"].spec,
        parts=few_shot.DetectorParts(None, lambda: open_projection(path, base=base), None, washer.object_name, {}),
        compute=COMPUTE,
        draw_seed=few_shot.Cell(washer, 1, 0, "one_to_normal_text", "without").draw_seed,
        name="one_to_normal_text",
    )
    detector.fit([few_shot.LabelledImage(one.name, one.image, None, False) for one in washer.references(1, 0)], [])
    scores = {one.id: one.score for one in detector.predict((one.name, one.image) for one in washer.queries)}
    assert cell["scores"] == pytest.approx(scores)
    assert closed["scores"] != pytest.approx(scores)

    # the settings of a cell name the file's content
    run(tmp_path, *asked, "--projection", str(path), "--there")
    assert "1 cells (0 fitted now)" in capsys.readouterr().out
    run(tmp_path, *asked, "--there")
    assert "0 cells (0 fitted now)" in capsys.readouterr().out
    write_projection(path, weights[::-1], base_identity=base.identity, licence="CC0-1.0")
    run(tmp_path, *asked, "--projection", str(path), "--there")
    assert "0 cells (0 fitted now)" in capsys.readouterr().out


def test_references_are_nested_and_no_query_is_one(washer: Any) -> None:
    for seed in range(3):
        eight = washer.references(8, seed)
        assert len({one.digest for one in eight}) == 8
        assert all(washer.references(k, seed) == eight[:k] for k in (1, 2, 4))
    assert washer.references(8, 0) != washer.references(8, 1)
    candidates, queries = ({one.digest for one in some} for some in (washer.candidates, washer.queries))
    assert not candidates & queries
    assert [one.anomalous for one in washer.queries] == [False] * 5 + [True] * 5
    with pytest.raises(DataError, match="33 references asked for, 32 normal images may be one"):
        washer.references(33, 0)


def bsdata_tree(root: Path) -> Path:
    """Positions a and b may train, z tests; every file of z is garbage, so whoever reads one fails."""
    folder = mvtec_tree(root, category="ball_screw", num_train=4, num_test=1, defects={"pitting": 6})
    groups = {f"train/good/{at:03d}.png": name for at, name in enumerate("aabb")} | {"test/good/000.png": "z"}
    groups |= {f"test/pitting/{at:03d}.png": ("a", "b", "z", "z", "z", "z")[at] for at in range(6)}
    for path, group in groups.items():
        if group == "z":
            (folder / path).write_bytes(b"not to be read")
    text = "\n".join(["path,group", *(f"{path},{group}" for path, group in groups.items())])
    (folder / "groups.csv").write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("part", ["development", "final"])
def test_bsdata_is_asked_about_left_out_training_positions_alone(tmp_path: Path, part: str) -> None:
    folder = bsdata_tree(tmp_path)
    units = list(
        few_shot_sets.available_sets(part=part, bsdata_folder=str(folder), queries=5, size_px=64, digits="0")[
            "bsdata"
        ].units()
    )
    assert [unit.name for unit in units] == ["without-a", "without-b"]
    for unit, left, own in zip(units, ("002", "000"), ("000", "002"), strict=True):
        names = [one.name for one in unit.candidates]
        assert (len(names), names[0][-7:-4]) == (2, left)
        assert next(one.name[-7:-4] for one in unit.queries if not one.anomalous) == own
        assert [one.anomalous for one in unit.queries] == [False, False, True]
        assert unit.masks
        assert unit.queries[2].mask.any()


@pytest.mark.skipif(find_spec("sklearn") is None, reason="scikit-learn is not installed")
def test_digits_are_developed_on_train_images_and_no_query_is_in_both_parts() -> None:
    unit, final = (next(iter(sets_there(part=part, queries=6)["digits"].units())) for part in ("development", "final"))
    obj = ObjectParams.model_validate({"name": "digit", "folder": "0"})
    spec = DigitsSource(kind="digits")
    items = {
        item.path: item for item in open_source(spec, category="digit_0", obj=obj, defects=(), root=REPOSITORY, seed=0)
    }
    read = [*unit.candidates, *unit.queries]
    assert len(read) == few_shot_sets.CANDIDATES + 12
    assert {items[one.name].part for one in read if not one.anomalous} == {"train"}
    assert {items[one.name].part for one in final.queries} == {"test"}
    assert {items[one.name].part for one in final.candidates} == {"train"}
    assert len({one.digest for one in final.queries}) == 12
    assert not {one.digest for one in unit.queries} & {one.digest for one in final.queries}
    assert not unit.masks
    assert [one.digest for one in unit.references(4, 0)] != [one.digest for one in final.references(4, 0)]
    assert all(min(one.image.shape[:2]) == few_shot_sets.MIN_SIDE_PX for one in read)


@pytest.mark.parametrize(("num_others", "times"), [(0, [1, 1, 3, 4]), (1, [1, 1, 3, 3]), (8, [1, 1, 1, 1])])
def test_remembered_features_are_the_features_and_described_once(
    monkeypatch: pytest.MonkeyPatch, num_others: int, times: list[int]
) -> None:
    """Three looks at two known pictures and at two others, whose last one is then asked for once more."""
    features: AlignedFeatures = build_aligned(EmbeddedAligned(kind="embedded", size_px=64), compute=COMPUTE)
    images = [picture(seed, height=64, width=64) for seed in range(4)]
    direct, described = features.patch_levels(images), Counter[str]()
    describe = features.patch_levels

    def counted(some: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        described.update(map(digest_pixels, some))
        return describe(some)

    monkeypatch.setattr(features, "patch_levels", counted)
    known = frozenset(map(digest_pixels, images[:2]))
    remembered = few_shot_encoders.RememberedLevels(features, known, num_others=num_others)
    for _ in range(2):
        for own, wanted in zip(remembered.patch_levels(images), direct, strict=True):
            np.testing.assert_array_equal(own, wanted)
    local = few_shot_encoders.LocalLevels(remembered).patches(images)
    np.testing.assert_array_equal(local, np.concatenate(direct[:-1], axis=-1))
    np.testing.assert_array_equal(remembered.patch_levels(images[3:])[0][0], direct[0][3])
    assert [described[digest_pixels(image)] for image in images] == times


def row(set_name: str, seed: int, detector: str, auroc: float, *, unit: str = "u", pool: str = "without") -> object:
    return few_shot_report.Row(set_name, unit, 4, seed, detector, pool, auroc, 0.5)


def test_the_comparison_is_paired_by_seed_within_and_over_the_real_sets() -> None:
    base = {"bsdata": (0.80, 0.70, 0.75), "digits": (0.90, 0.95, 0.85)}
    best = {"bsdata": (0.85, 0.80, 0.78), "digits": (0.92, 0.96, 0.90)}
    rows = [
        row(name, seed, detector, value)
        for detector, values in (("patchcore", base), ("one_to_normal_best", best))
        for name in values
        for seed, value in enumerate(values[name])
    ]
    rows += [row("tile", 0, "patchcore", 0.5)]  # a procedural set is not counted
    text = few_shot_report.report(rows, part="final", passed_over=["padim"])
    gains = [statistics.mean(best[n][s] - base[n][s] for n in base) for s in range(3)]
    half = 4.302653 * statistics.stdev(gains) / math.sqrt(3)  # t at 97.5 %, 2 degrees of freedom
    errors = [1.0 - statistics.mean(v for one in values.values() for v in one) for values in (base, best)]
    mean = statistics.mean(gains)
    assert (
        f"| 4 | one_to_normal_best | patchcore | mean of real sets | {errors[0]:.4f} | {errors[1]:.4f} | {mean:+.4f} | "
        f"[{mean - half:+.4f}, {mean + half:+.4f}] | {100 * mean / errors[0]:+.0f} % | 3 |"
    ) in text.splitlines()
    assert "Not run, for want of a backbone that draws (--backbone): padim." in text
    assert "Paired by seed, procedural" not in text


def test_a_seed_without_all_units_is_left_out_and_a_pool_is_compared_with_none() -> None:
    rows = [row("bsdata", seed, "padim", 0.6, unit=unit) for seed in (0, 1) for unit in "uv"]
    rows += [row("bsdata", 0, "padim", value, unit=unit, pool="with") for unit, value in (("u", 0.7), ("v", 0.9))]
    rows += [row("bsdata", 1, "padim", 0.9, unit="u", pool="with")]
    lines = few_shot_report.report(rows, part="final", passed_over=[]).splitlines()
    assert "| padim | with | 0.800 ± 0.000 (1) | 0.500 ± 0.000 (1) |" in lines
    assert "| 4 | padim with pool | padim | bsdata | 0.4000 | 0.2000 | +0.2000 | – | +50 % | 1 |" in lines


def test_a_variant_is_compared_with_what_it_differs_from_by_one_switch() -> None:
    rows = [
        row("elpv", 0, detector, value)
        for detector, value in (
            ("patchcore", 0.5),
            ("one_to_normal_best", 0.8),
            ("one_to_normal_personalized", 0.6),
            ("one_to_normal_no_top", 0.7),
            ("one_to_normal_15", 0.9),
            ("one_to_normal_personalized_15", 0.4),
        )
    ]
    lines = few_shot_report.report(rows, part="final", passed_over=[]).splitlines()
    duels = [line.split(" | ")[1:3] for line in lines if line.startswith("| 4 | ")]
    assert duels == [
        ["one_to_normal_best", "patchcore"],
        ["one_to_normal_personalized", "patchcore"],
        ["one_to_normal_no_top", "one_to_normal_best"],
        ["one_to_normal_15", "one_to_normal_best"],
        ["one_to_normal_personalized_15", "one_to_normal_personalized"],
    ]
    assert few_shot.EVERY.keys() >= {few_shot_report._origin(name) for name in few_shot.EVERY}


def test_a_generator_fills_the_pool_and_draws_twins(tmp_path: Path) -> None:
    settings = few_shot.Settings(
        compute=COMPUTE,
        encoder_px=64,
        backbone=ToyBackbone(kind="toy"),
        adapting=few_shot.read_settings(
            few_shot._parser().parse_args(["--out", "x", "--adapting-steps", "1"])
        ).adapting,
        pool=GenerateNormalsParams(n=2, shard_rows=2, batch_size=2, steps=2, guidance=1.0),
    )
    sets = [sets_there(queries=2)["washer"]]
    twins = few_shot.CONTENDERS["one_to_normal_personalized"].spec.model_copy(
        update={"num_prompts": 1, "steps": 4, "strengths": (), "second_pass": False, "weigh_text": False}
    )
    contenders = {"patchcore": few_shot.CONTENDERS["patchcore"], "twins": few_shot.Contender(twins)}
    found = [few_shot.measure(settings, sets, ks=[2], seeds=[0], contenders=contenders, out=tmp_path) for _ in range(2)]
    assert [fitted for _, fitted in found] == [4, 0]
    assert found[0][0] == found[1][0]
    written = cells(tmp_path)
    pools = {name.rpartition("/")[2]: one["pool_images"] for name, one in written.items()}
    assert pools == {f"{name}-{pool}.json": 2 * (pool == "with") for name in contenders for pool in ("without", "with")}


def test_the_page_shows_the_best_case_and_both_kinds_of_worst(washer: Any) -> None:
    scores = [0.1, 0.9, 0.3, 0.2, 0.4, 0.5, 0.05, 2.0, 0.6, 0.7]  # five normal queries, five anomalous
    nothing = np.zeros((1, 1), np.float32)
    answers = [Explanation(Prediction("x", score, nothing), None, {}, {}, 0.0, {}) for score in scores]
    found = few_shot_pictures.chosen(list(zip(washer.queries, answers, strict=True)))
    assert [answer.prediction.score for _, answer in found] == [2.0, 0.05, 0.9]
    assert [picture.anomalous for picture, _ in found] == [True, True, False]


def test_wrong_input_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANOSYNTH_BSDATA", raising=False)
    broken = tmp_path / "cells/washer/washer/k1-seed0/padim-without.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{", encoding="utf-8")
    wrong = (
        (["--sets", "bsdata"], "--sets bsdata: not there; it needs --bsdata FOLDER"),
        (["--sets", "bottle"], "--sets bottle: not there; there: cast_metal"),
        (["--bsdata", str(tmp_path / "none"), "--sets", "bsdata"], "no such folder"),
        (["--detectors", "unet"], "--detectors unet: not there; there: patchcore"),
        (["--detectors", "one_to_normal_best"], "it draws twins; add --backbone"),
        (["--backbone", str(tmp_path / "none")], "no such folder"),
        (["--projection", str(tmp_path / "none")], "none: no such file; python -m tasks.train_projection writes one"),
        (["--sets", "washer", "--detectors", "winclip", "--projection", str(broken)], "is no projection"),
        (["--adapting-lr", "1"], "--adapting-lr 1.0: input should be less than 1"),
        (["--adapting-lr", "nan"], "--adapting-lr nan: input should be"),
        (["--adapting-rank", "0"], "--adapting-rank 0: input should be greater than or equal to 1"),
        (["--adapting-rank", "513"], "--adapting-rank 513: input should be less than or equal to 512"),
        (["--sets", "washer", "--detectors", "padim", "--k", "1"], "not a cell that this script wrote"),
    )
    for arguments, message in wrong:
        with pytest.raises(SystemExit) as ended:
            few_shot.main(["--out", str(tmp_path), *TINY, *arguments])
        assert ended.value.code == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith("few_shot: ")
        assert message in said
        assert "\n" not in said


def test_the_adapter_learns_as_the_options_say() -> None:
    asked = ["--adapting-steps", "7", "--adapting-rank", "4", "--adapting-lr", "1e-3", "--decoder-steps", "5"]
    adapting = few_shot.read_settings(few_shot._parser().parse_args(["--out", "x", *asked])).adapting
    assert (adapting.steps, adapting.rank, adapting.alpha, adapting.lr, adapting.decoder_steps) == (7, 4, 4.0, 1e-3, 5)
    assert (adapting.planted_variants, adapting.falling, adapting.target_layers) == (0, False, "attention")
    asked = ["--adapting-planted", "6", "--adapting-falling", "--adapting-layers", "blocks"]
    adapting = few_shot.read_settings(few_shot._parser().parse_args(["--out", "x", *asked])).adapting
    assert (adapting.planted_variants, adapting.falling, adapting.target_layers) == (6, True, "blocks")
