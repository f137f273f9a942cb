"""What all published data sets share: the drawn quarter, counts, licences, order, and images without masks."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from anosynth.errors import DataError
from anosynth.licences import check_licence, most_restrictive
from anosynth.params import (
    BrainMRISource,
    ELPVSource,
    HeadCTSource,
    MVTecSource,
    PublishedSource,
    RealSource,
    SplitParams,
    VisASource,
)
from anosynth.sources.examine import examine
from anosynth.sources.index import IndexImages, write_index
from anosynth.sources.published.industrial import MVTEC, VISA
from anosynth.sources.published.listing import Counts, by_item, check_counts, published_test
from anosynth.sources.split import assign_roles
from tests.sources.published.replicas import brain_mri, elpv, head_ct, read
from tests.sources.test_readers import write_csv
from tests.sources.trees import item, mvtec_tree, write

AS_GIVEN = SplitParams.model_validate({"rule": "as_given", "val_ratio": 0.0, "held_out_group": None})


def test_the_quarter_that_tests_is_the_one_of_scikit_learn() -> None:
    counts = [2, 3, 4, 5, 7, 98, 100, 178, 1143, 1508, 2256]
    for count in counts:
        train, test = train_test_split(np.arange(count), test_size=0.25, random_state=42)
        chosen = published_test(count)
        assert chosen == set(test.tolist()), count
        assert set(range(count)) - chosen == set(train.tolist()), count
    assert len(counts) == 11
    assert published_test(0) == frozenset()


@pytest.mark.parametrize(
    ("normal", "train", "test"), [(1143, 857, 286), (2256, 1692, 564), (1508, 1131, 377), (98, 73, 25), (100, 75, 25)]
)
def test_the_quarter_gives_the_published_counts(normal: int, train: int, test: int) -> None:
    assert (normal - len(published_test(normal)), len(published_test(normal))) == (train, test)


def test_whole_items_are_drawn_alike() -> None:
    names = [f"kos{at:02d}" for at in range(1, 51)]
    assert by_item(names) == {names[at] for at in published_test(50)}
    assert len(by_item(names)) == 13


def test_published_counts_add_up_to_the_papers_totals() -> None:
    assert (len(MVTEC), [sum(column) for column in zip(*MVTEC.values(), strict=True)]) == (15, [3629, 467, 1258])
    assert (len(VISA), [sum(column) for column in zip(*VISA.values(), strict=True)]) == (12, [8659, 962, 1200])


def test_a_wrong_count_says_what_was_found_and_what_was_published() -> None:
    found = [("train", False)] * 3 + [("test", False)] + [("test", True)] * 2
    check_counts(found, Counts(normal=4, train=3, val=0, test=1, anomalous=2), where="x", what="y")
    check_counts(found, Counts(), where="x", what="y")
    with pytest.raises(DataError) as caught:
        check_counts(found, Counts(train=5, val=0, test=1, anomalous=1), where="/data", what="ksdd (board)")
    assert str(caught.value) == (
        "/data: ksdd (board) has 3 normal train (published: 5), 2 anomalous (published: 1); complete the download, or "
        "set source.check_counts to false to use what is there"
    )


def test_mvtec_counts_are_compared_where_the_name_is_a_published_one(tmp_path: Path) -> None:
    train, test, bad = MVTEC["toothbrush"]
    spec = MVTecSource(kind="mvtec", root="data", licence="CC-BY-NC-SA-4.0")
    for name in ("toothbrush", "bottle", "part"):
        mvtec_tree(tmp_path / "data", category=name, num_train=train, num_test=test, defects={"defective": bad})
    assert len(read(spec, tmp_path, category="toothbrush")) == 60 + 12 + 30
    with pytest.raises(DataError, match=r"60 normal train \(published: 209\), 12 normal test \(published: 20\), 30 an"):
        read(spec, tmp_path, category="bottle")
    assert len(read(spec.model_copy(update={"check_counts": False}), tmp_path, category="bottle")) == 102
    assert len(read(spec, tmp_path, category="part")) == 102


def test_visa_counts_are_compared_where_the_name_is_a_published_one(tmp_path: Path) -> None:
    train, test, bad = VISA["cashew"]
    listed = [("train", "normal")] * train + [("test", "normal")] * test + [("test", "anomaly")] * bad
    spec = VisASource(kind="visa", root=".", licence="CC-BY-4.0")
    pieces = {"cashew": listed, "fryum": listed[1:-1], "part": listed[:9]}
    write_csv(
        tmp_path / "split_csv/1cls.csv",
        [
            {"object": name, "split": split, "label": label, "image": f"{name}/{at:03d}.png", "mask": ""}
            for name, rows in pieces.items()
            for at, (split, label) in enumerate(rows)
        ],
    )
    assert len(read(spec, tmp_path, category="cashew")) == 450 + 50 + 100
    with pytest.raises(DataError, match=r"visa \(fryum\) has 449 normal train \(published: 450\), 99 anomalous \(publ"):
        read(spec, tmp_path, category="fryum")
    assert len(read(spec.model_copy(update={"check_counts": False}), tmp_path, category="fryum")) == 598
    assert len(read(spec, tmp_path, category="part")) == 9


def published_specs() -> dict[str, PublishedSource]:
    made = (
        one.model_validate({"kind": one.model_fields["kind"].annotation.__args__[0], "root": "x"})
        for one in get_args(PublishedSource)
    )
    return {spec.kind: spec for spec in made}


def test_eleven_data_sets_of_the_paper_and_the_digits_are_there_with_a_licence_each() -> None:
    specs = published_specs()
    kinds = {get_args(one.model_fields["kind"].annotation)[0] for one in get_args(RealSource)}
    paper = {"mvtec", "visa", "ksdd", "afid", "elpv", "oct2017", "brain_mri", "head_ct", "resc", "mnist", "cifar10"}
    assert paper <= kinds
    assert set(specs) == paper - {"mvtec", "visa"} | {"digits"}
    for spec in specs.values():
        check_licence(spec.licence)
        assert spec.check_counts
        assert most_restrictive([spec.licence, "CC0-1.0"]).startswith(spec.licence)
    assert len({spec.licence for spec in specs.values()}) >= 7


def test_a_licence_that_forbids_commerce_or_is_unknown_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elpv(tmp_path / "cells")
    brain_mri(tmp_path / "scans", no=4, yes=1)
    mvtec_tree(tmp_path / "parts", category="part")
    with caplog.at_level(logging.WARNING):
        read(ELPVSource(kind="elpv", root="cells", check_counts=False), tmp_path)
        read(BrainMRISource(kind="brain_mri", root="scans", check_counts=False), tmp_path)
        read(BrainMRISource(kind="brain_mri", root="scans", check_counts=False, licence="CC0-1.0"), tmp_path)
        for licence in ("CC BY NC SA 4.0", "CC-BY-4.0 AND CC-BY-NC-4.0", "CC-BY-4.0", "LicenseRef-our-own"):
            read(MVTecSource(kind="mvtec", root="parts", licence=licence), tmp_path)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "elpv is licensed CC-BY-NC-SA-4.0",
        "brain_mri has no licence that was stated or could be verified (LicenseRef-BrainMRI-terms-not-verified)",
        "mvtec is licensed CC BY NC SA 4.0",
        "mvtec is licensed CC-BY-4.0 AND CC-BY-NC-4.0",
    ]
    assert "may be used commercially" in caplog.messages[0]


def test_images_labelled_as_a_whole_are_indexed_without_masks(tmp_path: Path) -> None:
    elpv(tmp_path / "cells")
    items = read(ELPVSource(kind="elpv", root="cells", check_counts=False), tmp_path)
    assert {one.image_level for one in items if one.defect} == {True}
    assert {one.image_level for one in items if not one.defect} == {False}
    roles = assign_roles(items, AS_GIVEN, 0)
    path = tmp_path / "index.parquet"
    records = write_index(path, examine(items, roles))
    assert Counter((record.role, record.defect, record.is_image_level) for record in records) == {
        ("train", None, False): 6,
        ("test", None, False): 2,
        ("test", "mono", True): 2,
        ("test", "poly", True): 3,
    }
    images = IndexImages(path)
    bad = next(record for record in images.records if record.defect)
    assert images.image(bad).shape == (20, 20, 3)
    with pytest.raises(DataError, match=r"part is labelled image by image, without masks, so mono makes no pairs; set"):
        images.mask(bad)


def test_a_source_with_masks_still_misses_a_mask_that_is_not_there(tmp_path: Path) -> None:
    folder = mvtec_tree(tmp_path / "data", category="part", defects={"hole": 2})
    (folder / "ground_truth/hole/001_mask.png").unlink()
    items = read(MVTecSource(kind="mvtec", root="data", licence="x"), tmp_path)
    with pytest.raises(DataError, match="an image with hole has no mask"):
        list(examine(items, assign_roles(items, AS_GIVEN, 0)))


def test_an_image_labelled_as_a_whole_is_anomalous_and_has_no_mask() -> None:
    bad = item("a.png", defect="hole")
    with pytest.raises(DataError, match=r"a.png: labelled as a whole image, so it must be anomalous and have no mask"):
        type(bad)(**{**vars(bad), "image_level": True})


def test_a_test_image_equal_to_a_training_image_is_left_out_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, test, other, bad = (
        item("a.png"),
        item("b.png", part="test"),
        item("c.png"),
        item("d.png", part="test", defect="hole"),
    )
    data = train.read_image()
    copy = item("b.png", part="test", image=data)
    items = [train, copy, other, bad]
    roles = assign_roles(items, AS_GIVEN, 0)
    with pytest.raises(DataError, match=r"a.png \(train\) and b.png \(test\) have equal pixels in two roles: a leak"):
        list(examine(items, roles))
    with caplog.at_level(logging.WARNING):
        kept = list(examine(items, roles, equal_pixels="drop"))
    assert [entry.record.path for entry in kept] == ["a.png", "c.png", "d.png"]
    assert (
        "1 image(s) left out because their pixels equal those of an image of another role: b.png is a.png"
        in caplog.text
    )
    # Under two labels it stays an error: nobody can say which label is right.
    items = [train, test, other, item("d.png", part="test", defect="hole", image=data)]
    with pytest.raises(DataError, match=r"a.png \(train\) and d.png \(test\) have equal pixels in two roles"):
        list(examine(items, assign_roles(items, AS_GIVEN, 0), equal_pixels="drop"))


def test_brain_mri_at_full_size_has_the_published_counts(tmp_path: Path) -> None:
    brain_mri(tmp_path / "data")
    spec = BrainMRISource(kind="brain_mri", root="data")
    items = read(spec, tmp_path)
    count = Counter((one.part, one.defect) for one in items)
    assert count == {("train", None): 73, ("test", None): 25, ("test", "tumor"): 155}
    names = [f"no/{at + 1} no.jpeg" for at in range(98)]
    _, test = train_test_split(names, test_size=0.25, random_state=42)
    assert {one.path for one in items if one.part == "test" and not one.defect} == set(test)
    assert items[0].read_image() == (tmp_path / "data" / items[0].path).read_bytes()
    (tmp_path / "data/yes/Y7.jpg").unlink()
    with pytest.raises(DataError, match=r"data: brain_mri \(part\) has 154 anomalous \(published: 155\); complete the"):
        read(spec, tmp_path)
    assert len(read(spec.model_copy(update={"check_counts": False}), tmp_path)) == 252
    with pytest.raises(DataError, match=r"no: no such folder, it should hold the images without a tumour"):
        read(BrainMRISource(kind="brain_mri", root="."), tmp_path)


@pytest.mark.parametrize("inner", ["head_ct", "head_ct/head_ct"])
def test_head_ct_at_full_size_has_the_published_counts(tmp_path: Path, inner: str) -> None:
    head_ct(tmp_path / "data", inner=inner)
    items = read(HeadCTSource(kind="head_ct", root="data"), tmp_path)
    count = Counter((one.part, one.defect) for one in items)
    assert count == {("train", None): 75, ("test", None): 25, ("test", "hemorrhage"): 100}
    normal = list(range(100, 200))
    _, test = train_test_split(normal, test_size=0.25, random_state=42)
    found = {one.path for one in items if one.part == "test" and not one.defect}
    assert found == {f"{inner}/{at:03d}.png" for at in test}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("7,2", r"id '7' has the hemorrhage '2'; it must be 0 or 1"),
        ("seven,1", r"id 'seven' has the hemorrhage '1'"),
        ("999,0", r"999.png: no such file, but labels.csv lists it"),
    ],
)
def test_a_wrong_label_of_head_ct_is_named(tmp_path: Path, row: str, message: str) -> None:
    head_ct(tmp_path / "data", images=4, inner="head_ct")
    file = tmp_path / "data/labels.csv"
    write(file, file.read_bytes() + b"\n" + row.encode())
    with pytest.raises(DataError, match=message):
        read(HeadCTSource(kind="head_ct", root="data", check_counts=False), tmp_path)
