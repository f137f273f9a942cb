from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from anosynth.errors import DataError
from anosynth.fingerprint import digest_pixels
from anosynth.imaging import encode_png, perceptual_hash
from anosynth.samples import Role
from anosynth.sources.examine import examine
from anosynth.sources.index import GROUP_ROWS, IndexImages, read_records, write_index
from anosynth.sources.items import SourceItem
from tests.sources.trees import item, picture, picture_of, spot


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format)
    return buffer.getvalue()


def indexed(items: Sequence[SourceItem], folder: Path, **roles: Role) -> IndexImages:
    path = folder / "bottle.parquet"
    everything: dict[str, Role] = {one.path: roles.get(one.path, "train") for one in items}
    write_index(path, examine(items, everything))
    return IndexImages(path)


def problems(items: Sequence[SourceItem], **roles: Role) -> str:
    everything: dict[str, Role] = {one.path: roles.get(one.path, "train") for one in items}
    with pytest.raises(DataError) as caught:
        list(examine(items, everything))
    return str(caught.value)


def test_what_was_indexed_comes_back(tmp_path: Path) -> None:
    items = [
        item("größe 1.png", image=encode_png(picture(1))),
        item("b.png", defect="hole", group="part 7", image=encode_png(picture(2))),
        item("c.png", part="test", image=encode_png(picture(3, height=10, width=30))),
    ]
    images = indexed(items, tmp_path, **{"c.png": "test"})
    assert read_records(tmp_path / "bottle.parquet") == images.records
    one, two, three = images.records
    assert (one.path, one.defect, one.mask_path, one.role, one.group) == (
        "größe 1.png",
        None,
        None,
        "train",
        "größe 1.png",
    )
    assert (two.defect, two.mask_path, two.group, two.licence) == ("hole", "masks/b.png", "part 7", "CC0-1.0")
    assert (three.role, three.height, three.width, three.category) == ("test", 10, 30, "bottle")
    assert one.sha256 == digest_pixels(picture(1))
    assert one.phash == perceptual_hash(picture(1))
    for record, seed, shape in ((three, 3, (10, 30)), (one, 1, (24, 24)), (two, 2, (24, 24))):
        assert np.array_equal(images.image(record), picture(seed, height=shape[0], width=shape[1]))
    assert np.array_equal(images.mask(two), spot())
    assert np.array_equal(images.mask(three), np.zeros((10, 30), dtype=np.uint8))


def test_the_bytes_of_plain_files_are_kept_and_others_stored_as_rgb(tmp_path: Path) -> None:
    rgb, grey = Image.fromarray(picture(1)), Image.fromarray(picture(2)[:, :, 0])
    rgba = Image.fromarray(picture(3)).convert("RGBA")
    files = {
        "a.jpg": encoded(rgb, "JPEG"),
        "b.png": encoded(grey),
        "c.png": encoded(rgba),
        "d.png": encoded(Image.fromarray(picture(4)[:, :, 0].astype(np.uint16) * 257)),
        "e.png": encoded(Image.fromarray(picture(5)).quantize(16)),
    }
    images = indexed([item(name, image=data) for name, data in files.items()], tmp_path)
    stored = pq.read_table(tmp_path / "bottle.parquet")["image"].to_pylist()
    kept = [data == files[record.path] for record, data in zip(images.records, stored, strict=True)]
    assert kept == [True, True, False, False, False]
    for data in stored[2:]:
        with Image.open(io.BytesIO(data)) as image:
            assert image.mode == "RGB"
    assert np.array_equal(images.image(images.records[1]), np.repeat(picture(2)[:, :, :1], 3, axis=2))
    assert np.array_equal(images.image(images.records[2]), picture(3))
    assert np.array_equal(images.image(images.records[3]), np.repeat(picture(4)[:, :, :1], 3, axis=2))


def test_conversions_are_said_once_per_kind(caplog: pytest.LogCaptureFixture) -> None:
    items = [item(f"{at}.png", image=encoded(Image.fromarray(picture(at)).convert("RGBA"))) for at in range(3)]
    items.append(item("g.png", image=encoded(Image.fromarray(picture(9)[:, :, 0]))))
    with caplog.at_level(logging.INFO):
        assert len(list(examine(items, {one.path: "train" for one in items}))) == 4
    said = [record.message for record in caplog.records if "converted" in record.message]
    assert said == [
        "3 image(s) converted from RGBA to 8-bit RGB, the first is 0.png",
        "1 image(s) converted from grey to 8-bit RGB, the first is g.png",
    ]


def grey_mask() -> NDArray[np.uint8]:
    mask = spot()
    mask[3, 4:7] = (60, 120, 180)
    return mask


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (b"no image", None, "a.png: not an image file (8 bytes)"),
        (b"", None, "a.png: not an image file (0 bytes)"),
        (encode_png(picture(1))[:-200], None, "a.png: the image is truncated or damaged"),
        (None, spot(side=12), "masks/a.png: the mask is 12 x 12 px but its image a.png is 24 x 24 px"),
        (None, np.zeros((24, 24), dtype=np.uint8), "masks/a.png: the mask is empty but a.png is filed under hole"),
        (None, np.full((24, 24), 255, dtype=np.uint8), "masks/a.png: the mask covers the whole of a.png"),
        (None, grey_mask(), "masks/a.png: the mask has 5 grey levels"),
    ],
)
def test_a_bad_file_is_named(image: bytes | None, mask: NDArray[np.uint8] | None, message: str) -> None:
    bad = item("a.png", defect="hole", image=image, mask=None if mask is None else encode_png(mask))
    told = problems([item("b.png"), bad])
    assert told.startswith("1 problem(s) in the files of bottle:\n")
    assert message in told


def test_a_missing_mask_and_a_missing_file_are_named(tmp_path: Path) -> None:
    bare = item("a.png", defect="hole")
    no_mask = SourceItem(**{**vars(bare), "read_mask": None})
    no_file = SourceItem(**{**vars(item("b.png")), "read_image": (tmp_path / "b.png").read_bytes})
    told = problems([no_mask, no_file])
    assert "a.png: an image with hole has no mask (expected masks/a.png)" in told
    assert "b.png: cannot be read (No such file or directory)" in told


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(DataError, match=r"a.png: 24 x 24 px is more than 500 pixels allowed"):
        list(examine([item("a.png")], {"a.png": "train"}, max_pixels=500))


def test_all_problems_are_told_together_the_first_twenty_in_full(tmp_path: Path) -> None:
    items = [item(f"{at}.png", image=b"x") for at in range(25)]
    path = tmp_path / "bottle.parquet"
    with pytest.raises(DataError) as caught:
        write_index(
            path, examine([*items, item("good.png")], {one.path: "train" for one in items} | {"good.png": "train"})
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "25 problem(s) in the files of bottle:"
    assert len(lines) == 22
    assert lines[20].startswith("  19.png: not an image file")
    assert lines[21] == "  ... and 5 more"
    assert list(tmp_path.iterdir()) == []


def test_duplicates_of_one_role_and_label_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    same = encode_png(picture(1))
    again = encoded(Image.fromarray(picture(1)), "BMP")
    items = [item("a.png", image=same), item("b.bmp", image=again), item("c.png"), item("d.png", image=same)]
    with caplog.at_level(logging.WARNING):
        entries = list(examine(items, {one.path: "train" for one in items}))
    assert [entry.record.path for entry in entries] == ["a.png", "c.png"]
    assert "2 duplicate image(s) left out: b.bmp has the pixels of a.png, ..." in caplog.text


def test_duplicates_across_roles_labels_or_masks_are_fatal_and_name_both() -> None:
    same = encode_png(picture(1))
    other_mask = spot()
    other_mask[20, 20] = 255
    one = item("a.png", image=same)
    assert "a.png (train) and b.png (test) have equal pixels in two roles: a leak" in problems(
        [one, item("b.png", image=same)], **{"b.png": "test"}
    )
    assert "a.png (normal) and b.png (hole) have equal pixels under two labels" in problems(
        [one, item("b.png", image=same, defect="hole")]
    )
    assert "a.png and b.png have equal pixels but different masks" in problems(
        [
            item("a.png", image=same, defect="hole"),
            item("b.png", image=same, defect="hole", mask=encode_png(other_mask)),
        ]
    )


def test_an_image_without_a_role_is_not_even_read() -> None:
    dropped = item("dropped.png", image=b"x")
    assert [entry.record.path for entry in examine([dropped, item("a.png")], {"a.png": "val"})] == ["a.png"]


def test_equal_entries_make_equal_bytes_and_reading_crosses_row_groups(tmp_path: Path) -> None:
    items = [item(f"{at}.png", defect="hole" if at % 3 == 0 else None) for at in range(2 * GROUP_ROWS + 3)]
    first = indexed(items, tmp_path)
    data = (tmp_path / "bottle.parquet").read_bytes()
    indexed(items, tmp_path)
    assert (tmp_path / "bottle.parquet").read_bytes() == data
    file = pq.ParquetFile(tmp_path / "bottle.parquet")
    assert [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)] == [GROUP_ROWS, GROUP_ROWS, 3]
    columns = {
        file.metadata.row_group(0).column(at).path_in_schema: file.metadata.row_group(0).column(at) for at in range(13)
    }
    assert columns["image"].compression == columns["mask"].compression == "UNCOMPRESSED"
    assert columns["path"].compression == "ZSTD"
    copy = pickle.loads(pickle.dumps(first))
    checked = 0
    for record, one in reversed(list(zip(first.records, items, strict=True))):
        assert np.array_equal(copy.image(record), picture_of(one.path))
        assert bool(copy.mask(record).any()) == (record.defect is not None)
        checked += 1
    assert checked == len(items)


def test_a_missing_foreign_or_damaged_index_says_how_to_mend_it(tmp_path: Path) -> None:
    path = tmp_path / "bottle.parquet"
    mend = r"run: dvc repro index@bottle"
    with pytest.raises(DataError, match=rf"no such index; {mend}"):
        IndexImages(path)
    images = indexed([item("a.png"), item("b.png")], tmp_path)
    with pytest.raises(DataError, match=r"no image c.png"):
        images.image(type(images.records[0])(**{**vars(images.records[0]), "path": "c.png"}))
    data = path.read_bytes()
    path.write_bytes(data[:-30])
    with pytest.raises(DataError, match=rf"damaged .*; {mend}"):
        IndexImages(path)
    inside = data.index(encode_png(picture_of("a.png"))) + 100
    path.write_bytes(data[:inside] + bytes([data[inside] ^ 1]) + data[inside + 1 :])
    broken = IndexImages(path)
    with pytest.raises(DataError):
        broken.image(broken.records[0])
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"anosynth.index": b"99"}), path)
    with pytest.raises(DataError, match=rf"an index of version 99, this program reads 1; {mend}"):
        read_records(path)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"a file where a folder should be")
    with pytest.raises(DataError, match="cannot be written"):
        write_index(tmp_path / "data" / "bottle.parquet", examine([item("a.png")], {"a.png": "train"}))
