"""The readers of real data sets: mvtec, visa, folder, table, and the choice between them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from anosynth.errors import DataError
from anosynth.imaging import decode_mask, encode_png
from anosynth.params import (
    FolderSource,
    MVTecSource,
    ObjectParams,
    ProceduralSource,
    SourceSpec,
    TableSource,
    VisASource,
)
from anosynth.sources.items import SourceItem
from anosynth.sources.open import open_source
from tests.sources.trees import BOTTLE, mvtec_tree, paths, picture, spot, write


def read(
    spec: SourceSpec, root: Path, *, obj: ObjectParams = BOTTLE, defects: tuple[str, ...] = (), category: str = "bottle"
) -> list[SourceItem]:
    return list(open_source(spec, category=category, obj=obj, defects=defects, root=root, seed=0))


def named(**fields: object) -> ObjectParams:
    return ObjectParams.model_validate({"name": "glass bottle", **fields})


MVTEC = MVTecSource(kind="mvtec", root="data", licence="CC-BY-4.0", check_counts=False)


def test_mvtec_yields_normals_then_each_defect_with_masks_in_numeric_order(tmp_path: Path) -> None:
    folder = mvtec_tree(tmp_path / "data", num_train=2, num_test=1, defects={"hole": 11, "crack": 1})
    items = read(MVTEC, tmp_path)
    assert paths(items)[:4] == [
        "bottle/train/good/000.png",
        "bottle/train/good/001.png",
        "bottle/test/good/000.png",
        "bottle/test/crack/000.png",
    ]
    assert paths(items)[4:] == [f"bottle/test/hole/{at:03d}.png" for at in range(11)]
    assert [item.part for item in items] == ["train"] * 2 + ["test"] * 13
    assert {item.licence for item in items} == {"CC-BY-4.0"}
    assert all(item.group == item.path for item in items)
    last = items[-1]
    assert last.mask_path == "bottle/ground_truth/hole/010_mask.png"
    assert last.read_mask is not None
    assert last.read_mask() == (folder / "ground_truth/hole/010_mask.png").read_bytes()
    assert last.read_image() == (folder / "test/hole/010.png").read_bytes()


def test_mvtec_reads_btad_and_names_on_disk_that_are_no_slugs(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "01 Größe"
    write(folder / "train/ok/1.bmp", b"a")
    write(folder / "test/ok/2.bmp", b"b")
    write(folder / "test/ko/3.bmp", b"c")
    write(folder / "ground_truth/ko/3.png", b"d")
    obj = named(folder="01 Größe", defect_folders={"damage": "ko"})
    spec = MVTecSource(kind="mvtec", root="data", licence="x", normal="ok", check_counts=False)
    for defects in ((), ("damage",)):
        items = read(spec, tmp_path, obj=obj, defects=defects)
        assert paths(items) == ["01 Größe/train/ok/1.bmp", "01 Größe/test/ok/2.bmp", "01 Größe/test/ko/3.bmp"]
        assert [item.defect for item in items] == [None, None, "damage"]
        assert items[-1].mask_path == "01 Größe/ground_truth/ko/3.png"


def test_only_the_defects_asked_for_are_taken(tmp_path: Path) -> None:
    mvtec_tree(tmp_path / "data", defects={"hole": 2, "crack": 1, "Not A Slug": 1})
    assert {item.defect for item in read(MVTEC, tmp_path, defects=("crack",))} == {None, "crack"}
    with pytest.raises(DataError, match=r"no defect 'dent' for bottle; there: Not A Slug, crack, hole"):
        read(MVTEC, tmp_path, defects=("dent",))
    with pytest.raises(DataError, match=r"'Not A Slug' cannot be a key .* objects.bottle.defect_folders"):
        read(MVTEC, tmp_path)


def test_a_missing_mask_is_passed_on_with_the_place_where_it_was_expected(tmp_path: Path) -> None:
    folder = mvtec_tree(tmp_path / "data", defects={"hole": 2})
    (folder / "ground_truth/hole/001_mask.png").unlink()
    last = read(MVTEC, tmp_path)[-1]
    assert last.read_mask is None
    assert last.mask_path == "bottle/ground_truth/hole/001_mask.png"


def test_two_masks_of_one_image_are_an_error(tmp_path: Path) -> None:
    folder = mvtec_tree(tmp_path / "data", defects={"hole": 2})
    write(folder / "ground_truth/hole/001.png", b"x")
    with pytest.raises(DataError, match="both could be the mask of 001"):
        read(MVTEC, tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (MVTEC, r"data: no such folder; set source.root"),
        (MVTecSource(kind="mvtec", root=".", licence="x"), r"bottle: no such folder for bottle; there: other; set"),
    ],
)
def test_a_missing_folder_says_what_to_set(tmp_path: Path, spec: SourceSpec, message: str) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=message):
        read(spec, tmp_path)


def test_the_rendered_source_is_one_of_the_kinds(tmp_path: Path) -> None:
    spec = ProceduralSource(
        kind="procedural",
        size_px=64,
        num_train_normal=2,
        num_test_normal=1,
        num_train_anomalous=1,
        num_test_anomalous=1,
    )
    items = read(spec, tmp_path, category="washer", defects=("scratch",))
    assert [(item.part, item.defect) for item in items] == [
        ("train", None),
        ("train", None),
        ("train", "scratch"),
        ("test", None),
        ("test", "scratch"),
    ]


def visa_rows() -> list[dict[str, str]]:
    rows = [
        ("candle", "train", "normal", "candle/Data/Images/Normal/0010.JPG", ""),
        ("candle", "train", "normal", "candle/Data/Images/Normal/0009.JPG", ""),
        ("candle", "test", "normal", "candle/Data/Images/Normal/0011.JPG", ""),
        ("candle", "test", "anomaly", "candle/Data/Images/Anomaly/000.JPG", "candle/Data/Masks/Anomaly/000.png"),
        ("pcb1", "train", "normal", "pcb1/Data/Images/Normal/0000.JPG", ""),
    ]
    return [dict(zip(("object", "split", "label", "image", "mask"), row, strict=True)) for row in rows]


def write_csv(path: Path, rows: Iterable[dict[str, str]], *, encoding: str = "utf-8") -> None:
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue().encode(encoding))


def test_visa_reads_its_split_file_and_its_masks_of_class_numbers(tmp_path: Path) -> None:
    write_csv(tmp_path / "visa/split_csv/1cls.csv", visa_rows())
    classes = np.zeros((6, 8), dtype=np.uint8)
    classes[1, 1:4] = (1, 2, 7)
    write(tmp_path / "visa/candle/Data/Masks/Anomaly/000.png", encode_png(classes))
    spec = VisASource(kind="visa", root="visa", licence="CC-BY-4.0", check_counts=False)
    items = read(spec, tmp_path, category="candle")
    assert [item.path.rsplit("/", 1)[1] for item in items] == ["0009.JPG", "0010.JPG", "0011.JPG", "000.JPG"]
    assert [(item.part, item.defect) for item in items[2:]] == [("test", None), ("test", "anomaly")]
    assert items[3].read_mask is not None
    mask = decode_mask(items[3].read_mask(), name="mask")
    assert np.array_equal(mask > 0, classes > 0)
    renamed = named(folder="candle", defect_folders={"flaw": "anomaly"})
    assert read(spec, tmp_path, category="wax", obj=renamed, defects=("flaw",))[3].defect == "flaw"
    with pytest.raises(DataError, match=r"no object 'bottle' for bottle; there: candle, pcb1"):
        read(spec, tmp_path)


def test_a_visa_mask_with_grey_levels_is_left_to_be_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "visa/split_csv/1cls.csv", visa_rows())
    smooth = np.arange(48, dtype=np.uint8).reshape(6, 8)
    write(tmp_path / "visa/candle/Data/Masks/Anomaly/000.png", encode_png(smooth))
    spec = VisASource(kind="visa", root="visa", licence="x", check_counts=False)
    item = read(spec, tmp_path, category="candle")[3]
    assert item.read_mask is not None
    with pytest.raises(DataError, match="48 grey levels"):
        decode_mask(item.read_mask(), name="mask")


def test_visa_says_which_column_is_missing(tmp_path: Path) -> None:
    write_csv(tmp_path / "visa/split_csv/1cls.csv", [{"object": "candle", "image": "a"}])
    with pytest.raises(DataError, match=r"1cls.csv: no column split, label, mask; there: object, image"):
        read(VisASource(kind="visa", root="visa", licence="x"), tmp_path)


def folder_source(**fields: object) -> FolderSource:
    values = {
        "kind": "folder",
        "root": "data",
        "licence": "x",
        "normal": "{category}/sound parts",
        "anomalous": {"hole": "{category}/holes", "dent": "{category}/dents"},
        "masks": {"hole": "{category}/hole masks", "dent": "{category}/dent masks"},
        **fields,
    }
    return FolderSource.model_validate(values)


def test_folder_reads_the_folders_it_is_given(tmp_path: Path) -> None:
    for name in ("sound parts/2.png", "sound parts/10.png", "holes/a 1.png", "hole masks/a 1.tif", "dents/1.png"):
        write(tmp_path / "data/bottle" / name, b"x")
    write(tmp_path / "data/bottle/dent masks/1_mask.png", b"x")
    items = read(folder_source(), tmp_path, defects=("hole",))
    assert paths(items) == ["bottle/sound parts/2.png", "bottle/sound parts/10.png", "bottle/holes/a 1.png"]
    assert [item.part for item in items] == [None] * 3
    assert items[-1].mask_path == "bottle/hole masks/a 1.tif"
    assert [item.defect for item in read(folder_source(), tmp_path)] == [None, None, "hole", "dent"]
    write(tmp_path / "data/bottle/kept/7.png", b"x")
    items = read(folder_source(normal_test="{category}/kept"), tmp_path, defects=("dent",))
    assert [item.part for item in items] == ["train", "train", "test", None]
    with pytest.raises(DataError, match=r"source.anomalous: no defect 'crack' for bottle; there: hole, dent"):
        read(folder_source(), tmp_path, defects=("crack",))
    with pytest.raises(DataError, match=r"source.masks has no folder for 'hole'; there: dent"):
        read(folder_source(masks={"dent": "dent masks"}), tmp_path, defects=("hole",))


def table_rows() -> list[dict[str, str]]:
    rows = [
        ("img/10.png", "0", "", "train", "bottle", ""),
        ("img/9.png", "0", "", "val", "bottle", ""),
        ("img/bad 1.png", "1", "masks/bad 1.png", "test", "bottle", "hole"),
        ("img/bad 2.png", "1", "masks/bad 2.png", "test", "bottle", "dent"),
        ("img/x.png", "0", "", "train", "can", ""),
    ]
    columns = ("image_path", "label_index", "mask_path", "split", "category", "defect")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def table_source(file: str) -> TableSource:
    return TableSource(kind="table", root="data", licence="x", file=file)


@pytest.mark.parametrize("file", ["list.csv", "list.parquet"])
def test_a_table_reads_alike_from_csv_and_parquet(tmp_path: Path, file: str) -> None:
    rows = table_rows()
    if file == "list.csv":
        write_csv(tmp_path / "data" / file, rows, encoding="utf-8-sig")
    else:
        (tmp_path / "data").mkdir()
        columns: dict[str, list[object]] = {name: [row[name] or None for row in rows] for name in rows[0]}
        columns["label_index"] = [int(row["label_index"]) for row in rows]
        pq.write_table(pa.table(columns), tmp_path / "data" / file)
    items = read(table_source(file), tmp_path)
    assert [(item.path, item.part, item.defect, item.mask_path) for item in items] == [
        ("img/9.png", "val", None, None),
        ("img/10.png", "train", None, None),
        ("img/bad 2.png", "test", "dent", "masks/bad 2.png"),
        ("img/bad 1.png", "test", "hole", "masks/bad 1.png"),
    ]
    assert [item.defect for item in read(table_source(file), tmp_path, defects=("hole",))] == [None, None, "hole"]


def test_a_table_of_one_unnamed_defect_takes_the_name_that_was_asked_for(tmp_path: Path) -> None:
    columns = ("image_path", "label", "mask_path", "split")
    rows = [("a.png", "good", "", "train"), (str(tmp_path / "data/b.png"), "abnormal", "b_mask.png", "test")]
    write_csv(tmp_path / "data/list.csv", [dict(zip(columns, row, strict=True)) for row in rows])
    items = read(table_source("list.csv"), tmp_path, defects=("flaw",))
    assert [(item.path, item.defect) for item in items] == [("a.png", None), ("b.png", "flaw")]
    with pytest.raises(DataError, match=r"b.png is anomalous but of no named type; fill a column defect"):
        read(table_source("list.csv"), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "training"}, r"img/10.png has the split 'training'; allowed are train, val, test"),
        ({"label_index": "2"}, r"img/10.png has label_index '2' and label ''; 0 is normal, 1 is anomalous"),
        ({"label": "hole"}, r"img/10.png has label_index '0' but label 'hole'; correct one of them"),
        ({"image_path": "../10.png"}, r"\.\./10.png lies outside .*data; paths are relative to source.root"),
        ({"image_path": "/etc/10.png"}, r"/etc/10.png lies outside .*data; paths are relative to source.root"),
    ],
)
def test_a_wrong_row_of_a_table_is_named(tmp_path: Path, change: dict[str, str], message: str) -> None:
    rows = [{"label": "", **row} for row in table_rows()]
    write_csv(tmp_path / "data/list.csv", [{**rows[0], **change}, *rows[1:]])
    with pytest.raises(DataError, match=message):
        read(table_source("list.csv"), tmp_path)


def test_a_damaged_table_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path / "data/list.parquet", b"PAR1 no table")
    with pytest.raises(DataError, match=r"list.parquet: not readable as a table"):
        read(table_source("list.parquet"), tmp_path)
    with pytest.raises(DataError, match=r"other.csv: no such file"):
        read(table_source("other.csv"), tmp_path)


def test_pictures_of_the_tree_builder_decode(tmp_path: Path) -> None:
    mvtec_tree(tmp_path, defects={"hole": 1})
    with Image.open(tmp_path / "bottle/train/good/000.png") as image:
        assert np.array_equal(np.asarray(image), picture(1))
    with Image.open(tmp_path / "bottle/ground_truth/hole/000_mask.png") as mask:
        assert np.array_equal(np.asarray(mask), spot())
