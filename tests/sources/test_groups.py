from __future__ import annotations

import logging
from pathlib import Path

import pytest

from anosynth.errors import DataError
from anosynth.params import MVTecSource
from anosynth.sources.items import SourceItem
from anosynth.sources.open import open_source
from tests.sources.trees import BOTTLE, mvtec_tree, write


def read(root: Path, *, groups: str) -> list[SourceItem]:
    spec = MVTecSource(kind="mvtec", root="data", licence="x", groups=groups, check_counts=False)
    return list(open_source(spec, category="bottle", obj=BOTTLE, defects=(), root=root, seed=0))


def lines(prefix: str = "") -> list[str]:
    images = ["train/good/000.png", "train/good/001.png", "test/good/000.png", "test/hole/000.png"]
    return [f"{prefix}{name},part {at // 2}" for at, name in enumerate(images)]


def tree(root: Path) -> Path:
    return mvtec_tree(root / "data", num_train=2, num_test=1, defects={"hole": 1})


@pytest.mark.parametrize(
    ("file", "prefix"), [("bottle/groups.csv", ""), ("{category}/groups.csv", ""), ("groups.csv", "bottle/")]
)
def test_paths_are_relative_to_the_folder_of_the_file(tmp_path: Path, file: str, prefix: str) -> None:
    tree(tmp_path)
    text = "\n".join(["path,group,operator", *(f"{line},me" for line in lines(prefix))])
    write(tmp_path / "data" / file.replace("{category}", "bottle"), text.encode("utf-8-sig"))
    assert [item.group for item in read(tmp_path, groups=file)] == ["part 0", "part 0", "part 1", "part 1"]


def test_an_image_without_a_group_is_an_error(tmp_path: Path) -> None:
    tree(tmp_path)
    write(tmp_path / "data/groups.csv", "\n".join(["path,group", *lines("bottle/")[:2]]).encode())
    with pytest.raises(DataError, match=r"groups.csv: 2 images have no group, the first is bottle/test/good/000.png"):
        read(tmp_path, groups="groups.csv")


def test_a_row_without_a_file_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(tmp_path)
    write(tmp_path / "data/groups.csv", "\n".join(["path,group", *lines("bottle/"), "bottle/gone.png,1"]).encode())
    with caplog.at_level(logging.WARNING):
        assert len(read(tmp_path, groups="groups.csv")) == 4
    assert "1 rows name no file, the first is bottle/gone.png" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bottle/train/good/000.png,part 1", r"bottle/train/good/000.png is in the groups 'part 0' and 'part 1'"),
        ("bottle/train/good/000.png,", r"line 6 has an empty path or group"),
        ("../000.png,part 1", r"\.\./000.png lies outside"),
        (
            "bottle/ground_truth/hole/000_mask.png,part 0",
            r"test/hole/000.png is in group 'part 1' but its mask bottle/ground_truth/hole/000_mask.png in 'part 0'",
        ),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, line: str, message: str) -> None:
    tree(tmp_path)
    write(tmp_path / "data/groups.csv", "\n".join(["path,group", *lines("bottle/"), line]).encode())
    with pytest.raises(DataError, match=message):
        read(tmp_path, groups="groups.csv")


def test_decomposed_and_composed_names_are_one(tmp_path: Path) -> None:
    write(tmp_path / "data/bottle/train/good/gro\u0308ße.png", b"x")
    write(tmp_path / "data/groups.csv", "path,group\nbottle/train/good/gr\u00f6ße.png,7\n".encode())
    (tmp_path / "data/bottle/test").mkdir()
    assert [item.group for item in read(tmp_path, groups="groups.csv")] == ["7"]
