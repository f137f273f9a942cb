"""ELPV (a folder or the installed package) and the retinal scans of BMAD."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from anosynth.errors import DataError
from anosynth.imaging import decode_mask, encode_png
from anosynth.params import PACKAGED, ELPVSource, OCT2017Source, RESCSource, SplitParams
from anosynth.sources.examine import examine
from anosynth.sources.split import assign_roles
from tests.sources.published.replicas import bmad, elpv, grey, read
from tests.sources.trees import spot, write

AS_GIVEN = SplitParams.model_validate({"rule": "as_given", "val_ratio": 0.0, "held_out_group": None})
ELPV = ELPVSource(kind="elpv", root="data", check_counts=False)


def test_cells_of_probability_0_and_1_are_taken_and_a_quarter_of_the_normal_ones_tests(tmp_path: Path) -> None:
    elpv(tmp_path / "data", normal=9, between=4, mono=2, poly=3)
    items = read(ELPV, tmp_path)
    rows = [line.split() for line in (tmp_path / "data/labels.csv").read_text().splitlines()]
    normal = [path for path, probability, _ in rows if float(probability) == 0]
    train, test = train_test_split(normal, test_size=0.25, random_state=42)
    assert {one.path for one in items if one.part == "train"} == set(train)
    assert {one.path for one in items if one.part == "test" and one.defect is None} == set(test)
    kinds = {path: kind for path, probability, kind in rows if float(probability) == 1}
    assert {one.path: one.defect for one in items if one.defect} == kinds
    assert Counter(kinds.values()) == {"mono": 2, "poly": 3}
    assert all(one.read_mask is None and one.image_level == (one.defect is not None) for one in items)


def test_cells_come_from_the_package_if_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the same name and layout, on the path of this test only."""
    site = tmp_path / "site"
    write(site / "elpv_dataset/__init__.py", b"raise RuntimeError('nothing of the package is run')\n")
    elpv(site / "elpv_dataset/data")
    monkeypatch.syspath_prepend(str(site))
    spec = ELPVSource(kind="elpv", check_counts=False)
    assert spec.root == PACKAGED
    items = read(spec, tmp_path)
    assert len(items) == 13
    assert items[0].read_image() == (site / "elpv_dataset/data" / items[0].path).read_bytes()


def test_a_package_that_is_not_installed_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(
        DataError, match=r"the package elpv-dataset is not installed: run pip install 'anosynth\[elpv\]'"
    ):
        read(ELPVSource(kind="elpv"), tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("images/cell0001.png 2.0 mono", r"line 1 is 'images/cell0001.png 2.0 mono'; it must be a path"),
        ("images/cell0001.png 0.0 thin", r"line 1 is 'images/cell0001.png 0.0 thin'"),
        ("images/cell0001.png zero mono", r"line 1 is 'images/cell0001.png zero mono'"),
        ("images/cell0001.png", r"line 1 is 'images/cell0001.png'"),
        ("../cell0001.png 0.0 mono", r"\.\./cell0001.png lies outside"),
    ],
)
def test_a_wrong_line_of_labels_is_named(tmp_path: Path, line: str, message: str) -> None:
    write(tmp_path / "data/labels.csv", line.encode())
    with pytest.raises(DataError, match=message):
        read(ELPV, tmp_path)


def test_missing_labels_bytes_that_are_no_text_and_counts_are_said(tmp_path: Path) -> None:
    elpv(tmp_path / "data")
    with pytest.raises(
        DataError, match=r"6 normal train \(published: 1131\), 2 normal test \(published: 377\), 5 anom"
    ):
        read(ELPVSource(kind="elpv", root="data"), tmp_path)
    write(tmp_path / "data/labels.csv", b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"labels.csv: cannot be read"):
        read(ELPV, tmp_path)
    (tmp_path / "data/labels.csv").unlink()
    with pytest.raises(DataError, match=r"labels.csv: no such file; set source.root to the folder of labels.csv"):
        read(ELPV, tmp_path)


@pytest.mark.parametrize("nested", [True, False])
def test_oct2017_has_three_parts_and_no_masks(tmp_path: Path, nested: bool) -> None:
    bmad(tmp_path / "data", masks=None, nested=nested)
    spec = OCT2017Source(kind="oct2017", root="data", check_counts=False)
    items = read(spec, tmp_path)
    assert Counter((one.part, one.defect) for one in items) == {
        ("train", None): 3,
        ("val", None): 2,
        ("val", "disease"): 2,
        ("test", None): 3,
        ("test", "disease"): 4,
    }
    assert all(one.image_level for one in items if one.defect)
    assert len(list(examine(items, assign_roles(items, AS_GIVEN, 0)))) == 14
    with pytest.raises(DataError, match=r"3 normal train \(published: 26315\), 2 normal val \(published: 8\)"):
        read(OCT2017Source(kind="oct2017", root="data"), tmp_path)


@pytest.mark.parametrize("masks", ["label", "anomaly_mask"])
def test_resc_has_masks_whose_levels_all_count(tmp_path: Path, masks: str) -> None:
    bmad(tmp_path / "data", masks=masks)
    items = read(RESCSource(kind="resc", root="data", check_counts=False), tmp_path)
    assert Counter((one.part, one.defect) for one in items)["test", "edema"] == 4
    bad = [one for one in items if one.defect]
    for one in bad:
        assert one.read_mask is not None
        assert np.array_equal(decode_mask(one.read_mask(), name="mask"), spot())
    assert len(bad) == 6
    entries = list(examine(items, assign_roles(items, AS_GIVEN, 0)))
    assert sum(entry.mask_bytes is not None for entry in entries) == 6


def test_a_copy_without_train_gives_its_normals_of_valid(tmp_path: Path) -> None:
    bmad(tmp_path / "data", masks="anomaly_mask", train=0)
    spec = RESCSource(kind="resc", root="data", check_counts=False)
    with pytest.raises(DataError, match=r"train/good: no such folder"):
        read(spec, tmp_path)
    items = read(spec.model_copy(update={"normals": "valid"}), tmp_path)
    assert Counter((one.part, one.defect) for one in items) == {
        ("train", None): 2,
        ("train", "edema"): 2,
        ("test", None): 3,
        ("test", "edema"): 4,
    }
    assert all(one.path.startswith("valid/") for one in items if one.part == "train")


def test_a_mask_of_resc_that_is_missing_or_smooth_is_refused(tmp_path: Path) -> None:
    bmad(tmp_path / "data", masks="label")
    spec = RESCSource(kind="resc", root="data", check_counts=False)
    write(tmp_path / "data/test/Ungood/label/1.png", encode_png(grey(1, height=24, width=24)))
    items = read(spec, tmp_path)
    with pytest.raises(DataError, match=r"test/Ungood/label/1.png: the mask has \d+ grey levels"):
        list(examine(items, assign_roles(items, AS_GIVEN, 0)))
    (tmp_path / "data/test/Ungood/label/1.png").unlink()
    with pytest.raises(
        DataError, match=r"test/Ungood/img/1.png: no mask of this name in .*label; complete the download"
    ):
        read(spec, tmp_path)
    bmad(tmp_path / "bare", masks=None)
    with pytest.raises(DataError, match=r"valid/Ungood: no folder label or anomaly_mask with the masks of its images"):
        read(spec.model_copy(update={"root": "bare"}), tmp_path)
