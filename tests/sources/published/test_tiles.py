"""KolektorSDD and AITEX: images cut into bands and tiles, with the masks of their strips, dealt singly or by item."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from anosynth.errors import DataError
from anosynth.imaging import decode_mask, encode_png
from anosynth.params import AFIDSource, KSDDSource, SplitParams
from anosynth.sources.examine import examine
from anosynth.sources.split import assign_roles
from tests.sources.published.replicas import afid, bmp, grey, jpg, ksdd, pixels, read
from tests.sources.trees import write

AS_GIVEN = SplitParams.model_validate({"rule": "as_given", "val_ratio": 0.0, "held_out_group": None})
KSDD = KSDDSource(kind="ksdd", root="data", check_counts=False)
AFID = AFIDSource(kind="afid", root="data", check_counts=False)


def test_bands_are_thirds_of_the_image_and_bad_where_their_label_is(tmp_path: Path) -> None:
    ksdd(tmp_path / "data", boards=4, parts=2, height=32)
    items = read(KSDD, tmp_path)
    bad = [one.path for one in items if one.defect == "defect"]
    assert bad == [
        "kos01/Part1.jpg#band-0",
        "kos01/Part1.jpg#band-1",
        "kos02/Part1.jpg#band-1",
        "kos03/Part1.jpg#band-1",
        "kos04/Part1.jpg#band-1",
    ]
    assert len(items) == 4 * 2 * 3
    by_path = {one.path: one for one in items}
    checked = 0
    for one in items:
        file, band = one.path.split("#band-")
        whole = pixels((tmp_path / "data" / file).read_bytes())
        label = pixels((tmp_path / "data" / file.replace(".jpg", "_label.bmp")).read_bytes())
        rows = slice(*[(0, 10), (10, 21), (21, 32)][int(band)])
        assert np.array_equal(pixels(one.read_image()), whole[rows])
        assert (one.defect is not None) == bool(label[rows].any())
        if one.read_mask is not None:
            assert np.array_equal(decode_mask(one.read_mask(), name="mask") > 0, label[rows] > 0)
            assert one.mask_path == one.path.replace(".jpg", "_label.bmp")
        checked += 1
    assert checked == 24
    assert by_path["kos01/Part0.jpg#band-0"].licence == "CC-BY-NC-SA-4.0"


def test_bands_dealt_singly_follow_the_published_draw(tmp_path: Path) -> None:
    ksdd(tmp_path / "data", boards=4, parts=2)
    items = read(KSDD, tmp_path)
    normal = sorted(one.path for one in items if one.defect is None)
    _, test = train_test_split(normal, test_size=0.25, random_state=42)
    assert {one.path for one in items if one.part == "test" and one.defect is None} == set(test)
    assert all(one.part == "test" for one in items if one.defect)
    assert all(one.group == one.path for one in items)
    roles = assign_roles(items, AS_GIVEN, 0)
    boards = {role: {path[:5] for path, given in roles.items() if given == role} for role in ("train", "test")}
    assert boards["train"] & boards["test"]


def test_bands_dealt_by_item_never_part_a_board(tmp_path: Path) -> None:
    ksdd(tmp_path / "data", boards=5, parts=2)
    items = read(KSDD.model_copy(update={"partition": "by_item"}), tmp_path)
    roles = assign_roles(items, AS_GIVEN, 0)
    boards = {role: {path[:5] for path, given in roles.items() if given == role} for role in ("train", "test")}
    _, test = train_test_split([f"kos{at:02d}" for at in range(1, 6)], test_size=0.25, random_state=42)
    assert boards["test"] == set(test)
    assert boards["train"] == {f"kos{at:02d}" for at in range(1, 6)} - set(test)
    assert {one.group for one in items} == {f"kos{at:02d}" for at in range(1, 6)}
    assert all(one.group == one.path[:5] for one in items)
    # Single bands of one board with one group can not be dealt: the split refuses it.
    torn = [one if at else type(one)(**{**vars(one), "part": "val"}) for at, one in enumerate(items)]
    with pytest.raises(DataError, match=r"are of one group 'kos0\d'"):
        assign_roles(torn, AS_GIVEN, 0)


def test_the_whole_of_ksdd_has_the_published_counts(tmp_path: Path) -> None:
    boards, images, bad = 50, 399, 0
    for at in range(images):
        board, part = at % boards + 1, at // boards
        label = np.zeros((9, 6), dtype=np.uint8)
        if part == 0:
            label[4, 2], bad = 255, bad + 1
        if part == 1 and board <= 4:
            label[1, 2], bad = 255, bad + 1
        write(tmp_path / f"data/kos{board:02d}/Part{part}.jpg", b"unread")
        write(tmp_path / f"data/kos{board:02d}/Part{part}_label.bmp", bmp(label))
    assert bad == 54
    items = read(KSDDSource(kind="ksdd", root="data"), tmp_path)
    count = Counter((one.part, one.defect) for one in items)
    assert count == {("train", None): 857, ("test", None): 286, ("test", "defect"): 54}
    by_item = read(KSDDSource(kind="ksdd", root="data", partition="by_item"), tmp_path)
    assert sum(one.defect is None for one in by_item) == 1143
    assert len({one.group for one in by_item if one.part == "test"}) == 13
    (tmp_path / "data/kos50/Part1_label.bmp").unlink()
    with pytest.raises(DataError, match=r"kos50/Part1.jpg: no label Part1_label.bmp beside it; complete the download"):
        read(KSDD, tmp_path)
    (tmp_path / "data/kos50/Part1.jpg").unlink()
    with pytest.raises(DataError, match=r"854 normal train \(published: 857\)|normal \(published: 1143\)"):
        read(KSDDSource(kind="ksdd", root="data"), tmp_path)


def test_damaged_or_unequal_files_of_ksdd_are_one_sentence(tmp_path: Path) -> None:
    ksdd(tmp_path / "data", boards=2, parts=1)
    write(tmp_path / "data/kos02/Part0.jpg", jpg(grey(1, height=30, width=12)))
    items = read(KSDD, tmp_path)
    with pytest.raises(DataError, match=r"kos02/Part0.jpg: 12 x 30 px, but its mask is 12 x 32 px; they must be equal"):
        list(examine(items, assign_roles(items, AS_GIVEN, 0)))
    write(tmp_path / "data/kos02/Part0_label.bmp", b"BM no picture")
    with pytest.raises(DataError, match=r"Part0_label.bmp: (not an image file|the image is truncated)"):
        read(KSDD, tmp_path)
    with pytest.raises(DataError, match=r"no folder kos01, kos02, ...; set source.root to the unpacked KolektorSDD"):
        read(KSDD.model_copy(update={"root": "data/kos01"}), tmp_path)


@pytest.mark.parametrize("twice", [False, True])
def test_tiles_are_squares_of_a_strip_and_bad_where_its_masks_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, twice: bool
) -> None:
    afid(tmp_path / "data", strips=4, tiles=3, twice=twice)
    with caplog.at_level(logging.WARNING):
        items = read(AFID, tmp_path)
    folder = "Defect_images/Defect_images" if twice else "Defect_images"
    bad = [(one.path, one.defect) for one in items if one.defect]
    assert bad == [
        (f"{folder}/0001_002_00.png#tile-0", "broken_end"),
        (f"{folder}/0001_002_00.png#tile-1", "broken_end"),
        (f"{folder}/0044_030_04.png#tile-0", "nep"),
        (f"{folder}/0044_030_04.png#tile-2", "nep"),
    ]
    assert sum(one.defect is None for one in items) == 4 * 3
    assert "no mask for 1 strip(s), left out: 9_027_1.png" in caplog.text
    for one in items:
        file, tile = one.path.split("#tile-")
        whole = pixels((tmp_path / "data" / file).read_bytes())
        assert np.array_equal(pixels(one.read_image()), whole[:, 256 * int(tile) : 256 * (int(tile) + 1)])
    last = items[-1]
    assert last.read_mask is not None
    mask = decode_mask(last.read_mask(), name="mask")
    assert mask.shape == (256, 256)
    assert np.argwhere(mask).tolist() == [[row, 700 - 512] for row in range(100, 110)]
    only = read(AFID, tmp_path, defects=("nep",))
    assert {one.defect for one in only} == {None, "nep"}


def test_tiles_dealt_singly_and_by_strip(tmp_path: Path) -> None:
    afid(tmp_path / "data", strips=5, tiles=2)
    singly = read(AFID, tmp_path)
    assert Counter(one.part for one in singly if one.defect is None) == {"train": 7, "test": 3}
    assert all(one.group == one.path for one in singly)
    by_item = read(AFID.model_copy(update={"partition": "by_item"}), tmp_path)
    assert Counter(one.part for one in by_item if one.defect is None) == {"train": 6, "test": 4}
    assert all(one.group == one.path.split("#")[0] for one in by_item)
    roles = assign_roles(by_item, AS_GIVEN, 0)
    strips = {
        role: {path.split("#")[0] for path, given in roles.items() if given == role} for role in ("train", "test")
    }
    assert strips["train"].isdisjoint(strips["test"])
    assert len(strips["train"]) == 3


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "NODefect_images/x/1.png",
            encode_png(grey(0, height=200, width=256)),
            r"256 x 200 px; a strip is 256 px high",
        ),
        (
            "NODefect_images/x/1.png",
            encode_png(grey(0, height=256, width=300)),
            r"300 x 256 px; a strip is 256 px high",
        ),
        ("NODefect_images/x/1.png", b"no image", r"x/1.png: not an image file"),
        (
            "Mask_images/0001_002_00_mask.png",
            encode_png(grey(0, height=256, width=256)),
            r"256 x 256 px, but its strip 0",
        ),
        ("Mask_images/0001_002_00_mask.png", b"no image", r"0001_002_00_mask.png: not an image file"),
    ],
)
def test_a_file_of_afid_that_is_no_strip_is_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    afid(tmp_path / "data", tiles=2)
    write(tmp_path / "data" / name, data)
    with pytest.raises(DataError, match=message):
        read(AFID, tmp_path)


def test_an_unknown_defect_of_afid_and_a_wrong_root_are_named(tmp_path: Path) -> None:
    afid(tmp_path / "data", tiles=2)
    for name in ("Defect_images/0100_999_08.png", "Mask_images/0100_999_08_mask.png"):
        write(tmp_path / "data" / name, encode_png(grey(0, height=256, width=512)))
    with pytest.raises(DataError, match=r"0100_999_08.png: its name should read nnnn_ddd_ff with a defect ddd of 002"):
        read(AFID, tmp_path)
    with pytest.raises(DataError, match=r"NODefect_images: no folders of fabrics in it; set source.root"):
        read(AFID.model_copy(update={"root": "."}), tmp_path)
    with pytest.raises(DataError, match=r"normal train \(published: 1692\)"):
        afid_counts(tmp_path)


def afid_counts(root: Path) -> None:
    (root / "data/Defect_images/0100_999_08.png").unlink()
    read(AFIDSource(kind="afid", root="data"), root)


def test_tiles_go_through_the_whole_index(tmp_path: Path) -> None:
    afid(tmp_path / "data", strips=2, tiles=2)
    items = read(AFID, tmp_path)
    entries = list(examine(items, assign_roles(items, AS_GIVEN, 0)))
    assert {(entry.record.height, entry.record.width) for entry in entries} == {(256, 256)}
    assert sum(entry.mask_bytes is not None for entry in entries) == 4
