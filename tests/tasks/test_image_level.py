"""A category labelled image by image goes through every measuring stage; pixel metrics are null, never wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from anosynth.errors import DataError
from anosynth.imaging import decode_image, encode_png
from anosynth.layout import Layout
from anosynth.looking.describe import tiles
from anosynth.metrics.detection import image_metrics
from anosynth.metrics.evaluation import IMAGE_METRICS, PIXEL_METRICS
from anosynth.params import PACKAGED, BrainMRISource, ELPVSource
from anosynth.results import read_result
from anosynth.shards.read import write_verdicts
from anosynth.sources.index import read_records
from anosynth.sources.lock import open_shots, read_lock
from tasks import check_params, evaluate, fit_detector, index, select_shots
from tests.sources.trees import picture, write
from tests.tasks.measured import call, change
from tests.toy import toy_params, write_params

CATEGORY = "scan"


def scans(root: Path) -> None:
    """Twelve images without and five with a bright spot, 40 x 48 px, in BrainMRI's layout."""
    for at in range(17):
        image = picture(at, height=40, width=48) // 4 + 60
        if at >= 12:
            image[10:20, 10:20] = 255
        name = f"yes/Y{at}.png" if at >= 12 else f"no/{at}.png"
        write(root / name, encode_png(image.astype(np.uint8)))


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    root = tmp_path_factory.mktemp("image-level")
    params = toy_params(
        {
            "grid": {"categories": [CATEGORY], "pairs": {}, "detectors": ["patchcore"]},
            "select_shots": {"normal": 3, "anomalous": 0, "method": "random"},
        }
    )
    params["objects"] = {CATEGORY: {"name": "head scan"}}
    params["source"] = {"kind": "brain_mri", "root": "scans", "check_counts": False}
    params["split"] = {"rule": "as_given", "val_ratio": 0.0}
    params["arms"] = {"real": {"real_pairs": False}}
    params["detectors"] = {"patchcore": {"kind": "patchcore", "arms": ["real"], "coreset_ratio": 0.5, "neighbours": 2}}
    for section in params.values():
        if isinstance(section, dict) and isinstance(section.get("arms"), list):
            section["arms"] = ["real"]  # the arms with pools of pairs are gone
    write_params(root, params)
    scans(root / "scans")
    call(check_params.run, root)
    call(index.run, root, category=CATEGORY)
    call(select_shots.run, root, category=CATEGORY)
    made = Layout(root)
    made.verdicts(CATEGORY).parent.mkdir(parents=True)
    write_verdicts(made.verdicts(CATEGORY), [])
    call(fit_detector.run, root, category=CATEGORY, detector="patchcore")
    call(evaluate.run, root, category=CATEGORY, detector="patchcore")
    return made


def test_image_metrics_are_measured_and_pixel_metrics_are_null(layout: Layout) -> None:
    folder = layout.evaluation(CATEGORY, "patchcore")
    result = read_result(folder / "metrics.json")
    assert result.test_images == {"normal": 3, "tumor": 5}
    values = result.metrics["real"]["0"]
    rows = pq.read_table(folder / "scores.parquet").to_pylist()
    expected = image_metrics(
        np.array([row["score"] for row in rows]), np.array([row["label"] == 1 for row in rows], dtype=np.bool_)
    )
    assert values["image_auroc"] == pytest.approx(expected.auroc, abs=1e-6)
    assert values["image_ap"] == pytest.approx(expected.ap, abs=1e-6)
    for name in PIXEL_METRICS:
        assert values[name] is None
        assert result.error_bounds["real"]["0"][name] is None
        assert result.by_defect["real"]["0"]["tumor"][name] is None
    assert all(result.by_defect["real"]["0"]["tumor"][name] == values[name] for name in IMAGE_METRICS)
    curves = json.loads((folder / "curves.json").read_text(encoding="utf-8"))["pixel_precision_recall"]
    assert curves["real"]["0"] == {"recall": [], "precision": []}


def test_the_pictures_of_failures_have_no_mask(layout: Layout) -> None:
    failures = layout.evaluation(CATEGORY, "patchcore") / "failures/real"
    assert sorted(path.name for path in failures.glob("miss-*.png")) == [f"miss-{at}.png" for at in range(4)]


def test_a_sheet_of_the_index_draws_no_outlines(layout: Layout) -> None:
    drawn = tiles(layout.index(CATEGORY), at_most=17)
    assert len(drawn) == 17
    assert all(tile.mask is None for tile in drawn)


def test_no_pair_can_be_made_of_an_image_without_a_mask(layout: Layout) -> None:
    shots = open_shots(layout.shots(CATEGORY), layout.index(CATEGORY))
    assert len(shots.normal_images()) == 3
    bad = [record for record in read_records(layout.index(CATEGORY)) if record.defect is not None]
    with pytest.raises(DataError, match=r"scan is labelled image by image, without masks, so tumor makes no pairs"):
        shots.images.mask(bad[0])


def test_a_near_copy_of_what_is_no_shot_is_refused_unless_only_shots_are_watched(
    layout: Layout, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(layout.root, tmp_path / "project"))
    records = read_records(layout.index(CATEGORY))
    shots = {shot.record.path for shot in read_lock(layout.shots(CATEGORY)).shots}
    spare = next(one for one in records if one.role == "train" and one.path not in shots)
    tested = next(one for one in records if one.role == "test" and one.defect is None)
    image = decode_image((root / "scans" / spare.path).read_bytes(), name=spare.path).image
    write(root / "scans" / tested.path, encode_png(image + np.uint8(5)))
    call(index.run, root, category=CATEGORY)
    with pytest.raises(DataError, match=r"are copies of one photograph"):
        call(select_shots.run, root, category=CATEGORY)
    change(root, "select_shots", {"near_copies": "shots"})
    call(select_shots.run, root, category=CATEGORY)
    shot = next(one for one in records if one.path in shots)
    image = decode_image((root / "scans" / shot.path).read_bytes(), name=shot.path).image
    write(root / "scans" / tested.path, encode_png(image + np.uint8(5)))
    call(index.run, root, category=CATEGORY)
    with pytest.raises(DataError, match=r"are copies of one photograph"):
        call(select_shots.run, root, category=CATEGORY)


def test_a_source_inside_a_package_needs_no_folder_of_the_project(tmp_path: Path) -> None:
    check_params.run(layout=Layout(tmp_path), source=ELPVSource(kind="elpv"))
    assert Layout(tmp_path).params_check().is_file()
    assert not (tmp_path / PACKAGED).exists()
    with pytest.raises(DataError, match=r"scans: no such folder; set source.root in params.yaml"):
        check_params.run(layout=Layout(tmp_path), source=BrainMRISource(kind="brain_mri", root="scans"))
