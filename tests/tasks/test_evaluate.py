from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from anosynth.detectors.patchcore import PatchCore
from anosynth.errors import BackboneError, DataError
from anosynth.features.lite import LiteFeatures
from anosynth.layout import Layout
from anosynth.metrics.detection import image_metrics, pixel_metrics
from anosynth.results import read_left_out, read_result
from anosynth.sources.index import IndexEntry, IndexImages, write_index
from anosynth.sources.lock import read_lock, write_lock
from tasks import evaluate, fit_detector, index
from tests.tasks.measured import call, change, make_measured


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_measured(tmp_path_factory.mktemp("evaluate") / "project")
    call(fit_detector.run, root, category="washer", detector="patchcore")
    call(evaluate.run, root, category="washer", detector="patchcore")
    return root


@pytest.fixture
def project(measured: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured, tmp_path / "project"))


def test_the_metrics_are_those_of_the_fitted_detector_on_the_real_test_images(measured: Path) -> None:
    layout = Layout(measured)
    images = IndexImages(layout.index("washer"))
    test = [record for record in images.records if record.role == "test"]
    assert len(test) == 8
    features = LiteFeatures("lite0", size_px=64, levels=(2, 3))
    detector = PatchCore(features, coreset_ratio=0.5, neighbours=2, seed=1, synthetic_weight=0.8)
    detector.load(layout.detector("washer", "patchcore") / "real-0")
    answers = list(detector.predict((record.sha256, images.image(record)) for record in test))
    masks = [images.mask(record) for record in test]
    labels = np.array([record.defect is not None for record in test])
    found = image_metrics(np.array([answer.score for answer in answers]), labels)
    pixels = pixel_metrics([answer.anomaly_map for answer in answers], masks, max_fpr=0.3)
    result = read_result(layout.evaluation("washer", "patchcore") / "metrics.json")
    assert result.test_images == {"normal": 4, "scratch": 4}
    values, bounds = result.metrics["real"]["0"], result.error_bounds["real"]["0"]
    assert values["image_auroc"] == pytest.approx(found.auroc, abs=1e-6)
    assert values["image_ap"] == pytest.approx(found.ap, abs=1e-6)
    for name in ("auroc", "ap", "f1_max"):
        bound = bounds[f"pixel_{name}"]
        assert bound is not None
        assert values[f"pixel_{name}"] == pytest.approx(getattr(pixels, name), abs=bound + 2e-6)
    assert values["aupro"] == pytest.approx(pixels.aupro, abs=(bounds["aupro"] or 0.0) + 2e-6)
    assert result.by_defect["real"]["0"]["scratch"] == values  # the only defect type


def test_every_test_image_has_one_score_per_arm_and_seed(measured: Path) -> None:
    layout = Layout(measured)
    rows = pq.read_table(layout.evaluation("washer", "patchcore") / "scores.parquet").to_pylist()
    test = {record.sha256: record for record in IndexImages(layout.index("washer")).records if record.role == "test"}
    assert len(rows) == 2 * len(test) == 16
    for row in rows:
        record = test[row["id"]]
        assert (row["path"], row["defect"], row["group"]) == (record.path, record.defect, record.group)
        assert row["label"] == int(record.defect is not None)
    shots = {shot.record.sha256 for shot in read_lock(layout.shots("washer")).shots}
    assert not shots & {row["id"] for row in rows}


def test_two_runs_give_equal_files(project: Path) -> None:
    folder = Layout(project).evaluation("washer", "patchcore")
    first = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    call(evaluate.run, project, category="washer", detector="patchcore")
    second = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert first == second
    assert len(first) == 4 + 4 + 2 * 9  # test, val, and per arm: 4 false alarms, 4 misses and their list


def test_thresholds_are_chosen_on_the_validation_images_and_measured_on_the_test_images(measured: Path) -> None:
    folder = Layout(measured).evaluation("washer", "patchcore")
    roles = {record.sha256: record.role for record in IndexImages(Layout(measured).index("washer")).records}
    val = pq.read_table(folder / "val" / "scores.parquet").to_pylist()
    test = pq.read_table(folder / "scores.parquet").to_pylist()
    assert {roles[row["id"]] for row in val} == {"val"}
    assert {roles[row["id"]] for row in test} == {"test"}
    checked = 0
    for arm, seeds in read_result(folder / "metrics.json").at_thresholds.items():
        mine = [row for row in val if row["arm"] == arm]
        best = max(_f1(mine, row["score"]) for row in mine)
        found = seeds["0"]["image"]
        assert _f1(mine, found.threshold) == pytest.approx(best)
        assert found.f1 == pytest.approx(_f1([row for row in test if row["arm"] == arm], found.threshold))
        assert 0.0 <= (seeds["0"]["pixel"].f1 or 0.0) <= 1.0
        checked += 1
    assert checked == 2
    assert read_result(folder / "val" / "metrics.json").role == "val"


def _f1(rows: list[dict[str, float]], threshold: float) -> float:
    flagged = [row for row in rows if row["score"] >= threshold]
    return 2 * sum(row["label"] for row in flagged) / (len(flagged) + sum(row["label"] for row in rows))


def test_leave_one_out_values_are_the_metrics_without_each_group(measured: Path) -> None:
    folder = Layout(measured).evaluation("washer", "patchcore")
    table = read_left_out(folder / "left_out.parquet")
    rows = [row for row in pq.read_table(folder / "scores.parquet").to_pylist() if row["arm"] == "real"]
    groups = sorted({row["group"] for row in rows})
    found = table.values("real", ["0"], unit="group", metric="image_auroc")
    assert found.shape == (1, len(groups)) == (1, 8)
    for at, group in enumerate(groups):
        rest = [row for row in rows if row["group"] != group]
        scores, labels = np.array([row["score"] for row in rest]), np.array([row["label"] > 0 for row in rest])
        assert found[0, at] == pytest.approx(image_metrics(scores, labels).auroc, nan_ok=True)
    assert np.array_equal(found, table.values("real", ["0"], unit="image", metric="image_auroc"), equal_nan=True)
    whole = table.values("real", ["0"], unit="nothing", metric="pixel_ap")
    value = read_result(folder / "metrics.json").metrics["real"]["0"]["pixel_ap"]
    assert whole == pytest.approx(np.array([[value]]), abs=0.05)


def test_a_source_without_validation_images_chooses_no_threshold(project: Path) -> None:
    layout = Layout(project)
    table = {row["path"]: row for row in pq.read_table(layout.index("washer")).to_pylist()}
    kept = [record for record in IndexImages(layout.index("washer")).records if record.role != "val"]
    write_index(
        layout.index("washer"),
        [IndexEntry(record, table[record.path]["image"], table[record.path]["mask"]) for record in kept],
    )
    lock = read_lock(layout.shots("washer"))
    paths = {record.path for record in kept}
    sealed = tuple(one for one in lock.sealed if one.path in paths)
    write_lock(
        type(lock)(lock.category, lock.method, lock.seed, lock.normal, lock.anomalous, sealed), layout.shots("washer")
    )
    call(evaluate.run, project, category="washer", detector="patchcore")
    folder = layout.evaluation("washer", "patchcore")
    assert not (folder / "val").exists()
    assert read_result(folder / "metrics.json").at_thresholds == {"real": {"0": {}}, "normals": {"0": {}}}


def test_the_most_wrong_images_are_kept_as_pictures(measured: Path) -> None:
    folder = Layout(measured).evaluation("washer", "patchcore") / "failures" / "real"
    listed = json.loads((folder / "failures.json").read_text(encoding="utf-8"))["failures"]
    alarms = [one["score"] for one in listed if one["defect"] is None]
    misses = [one["score"] for one in listed if one["defect"] is not None]
    assert (alarms, misses) == (sorted(alarms, reverse=True), sorted(misses))
    assert {one["file"] for one in listed} == {path.name for path in folder.glob("*.png")}
    assert len(listed) == 8


def test_no_pictures_are_kept_if_none_are_asked_for(project: Path) -> None:
    change(project, "evaluate", {"failures": 0})
    call(evaluate.run, project, category="washer", detector="patchcore")
    assert not (Layout(project).evaluation("washer", "patchcore") / "failures").exists()


def test_a_category_without_normal_test_images_ends_in_one_sentence(project: Path) -> None:
    layout = Layout(project)
    images = IndexImages(layout.index("washer"))
    kept = [record for record in images.records if record.role != "test" or record.defect is not None]
    table = {row["path"]: row for row in pq.read_table(layout.index("washer")).to_pylist()}
    write_index(
        layout.index("washer"),
        [IndexEntry(record, table[record.path]["image"], table[record.path]["mask"]) for record in kept],
    )
    with pytest.raises(DataError, match="differs between the shots' lock and the index"):
        call(evaluate.run, project, category="washer", detector="patchcore")
    lock = read_lock(layout.shots("washer"))
    paths = {record.path for record in kept}
    sealed = tuple(one for one in lock.sealed if one.path in paths)
    write_lock(
        type(lock)(lock.category, lock.method, lock.seed, lock.normal, lock.anomalous, sealed), layout.shots("washer")
    )
    with pytest.raises(DataError, match="washer has no normal test image"):
        call(evaluate.run, project, category="washer", detector="patchcore")


def test_a_detector_of_other_settings_is_not_measured(project: Path) -> None:
    spec = {"kind": "patchcore", "arms": ["real", "normals"], "coreset_ratio": 0.5, "neighbours": 3}
    change(project, "detectors", {"patchcore": spec})
    with pytest.raises(BackboneError, match="fitted with neighbours 2, now it is 3"):
        call(evaluate.run, project, category="washer", detector="patchcore")


def test_an_index_that_changed_after_the_shots_were_chosen_is_noticed(project: Path) -> None:
    change(project, "source", {"num_test_normal": 5})
    call(index.run, project, category="washer")
    with pytest.raises(DataError, match="dvc repro select_shots@washer"):
        call(evaluate.run, project, category="washer", detector="patchcore")
