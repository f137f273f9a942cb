from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from anosynth.errors import DataError
from anosynth.layout import Layout
from anosynth.params import Params, parse_params
from anosynth.sources.index import read_records
from tasks import index
from tests.sources.trees import mvtec_tree, picture
from tests.toy import toy_params

BSDATA = os.environ.get("ANOSYNTH_BSDATA", "")
needs_bsdata = pytest.mark.skipif(not BSDATA, reason="ANOSYNTH_BSDATA does not name the folder of BSData")


def params_of(**changes: object) -> Params:
    return parse_params(toy_params(changes))


def run(params: Params, root: Path, *, category: str = "washer") -> Layout:
    layout = Layout(root)
    index.run(
        layout=layout,
        category=category,
        seed=params.seed,
        grid__pairs=params.grid.pairs,
        objects=params.objects,
        source=params.source,
        split=params.split,
    )
    return layout


def test_the_demo_category_is_indexed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = run(params_of(), tmp_path)
    records = read_records(layout.index("washer"))
    assert Counter((one.role, one.defect) for one in records) == {
        ("train", None): 6,
        ("val", None): 2,
        ("test", None): 4,
        ("train", "scratch"): 3,
        ("val", "scratch"): 1,
        ("test", "scratch"): 4,
    }
    assert {one.licence for one in records} == {"CC0-1.0"}
    assert capsys.readouterr().out == (
        "index: 20 images of washer (train 6 normal + 3 anomalous, val 2 normal + 1 anomalous, test 4 normal + 4 "
        f"anomalous) in {layout.index('washer')}\n"
    )


def test_equal_params_give_equal_bytes(tmp_path: Path) -> None:
    small = params_of(
        source={"num_train_normal": 2, "num_test_normal": 1, "num_train_anomalous": 0, "num_test_anomalous": 1}
    )
    one, two = (run(small, tmp_path / name).index("washer").read_bytes() for name in ("one", "two"))
    assert one == two


def real_params(**split: object) -> Params:
    raw = toy_params()
    raw["source"] = {"kind": "mvtec", "root": "real data", "licence": "CC-BY-4.0"}
    raw["split"] = {"rule": "first_third", "val_ratio": 0.0, "held_out_group": None, **split}
    return parse_params(raw)


def test_real_images_in_a_folder_with_a_space_are_indexed_by_the_rule(tmp_path: Path) -> None:
    mvtec_tree(tmp_path / "real data", category="washer", defects={"scratch": 7, "other": 2})
    records = read_records(run(real_params(), tmp_path).index("washer"))
    assert Counter((one.role, one.defect) for one in records) == {
        ("train", None): 4,
        ("test", None): 3,
        ("train", "scratch"): 2,
        ("test", "scratch"): 5,
    }


def test_a_bad_file_leaves_no_index_and_keeps_the_old_one(tmp_path: Path) -> None:
    folder = mvtec_tree(tmp_path / "real data", category="washer", defects={"scratch": 3})
    layout = run(real_params(), tmp_path)
    before = layout.index("washer").read_bytes()
    (folder / "train/good/000.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 problem\(s\) in the files of washer:\n  washer/train/good/000.png"):
        run(real_params(), tmp_path)
    assert layout.index("washer").read_bytes() == before
    assert [path.name for path in layout.index("washer").parent.iterdir()] == ["washer.parquet"]


def test_a_copy_of_a_training_image_among_the_test_images_is_fatal(tmp_path: Path) -> None:
    folder = mvtec_tree(tmp_path / "real data", category="washer", defects={"scratch": 3})
    shutil.copy(folder / "train/good/002.png", folder / "test/good/003.png")
    with pytest.raises(
        DataError, match=r"train/good/002.png \(train\) and .*test/good/003.png \(test\) have equal pixels"
    ):
        run(real_params(), tmp_path)
    assert picture(1).shape == (24, 24, 3)


def bsdata_params(repository: Path, root: Path, **split: object) -> Params:
    raw = yaml.safe_load((repository / "examples" / "bsdata.params.yaml").read_text(encoding="utf-8"))
    raw["source"]["root"] = str(root)
    raw["split"].update(split)
    return parse_params(raw)


@needs_bsdata
def test_bsdata_is_split_between_positions(tmp_path: Path, repository: Path) -> None:
    params = bsdata_params(repository, Path(BSDATA))
    records = read_records(run(params, tmp_path, category="ball_screw").index("ball_screw"))
    assert Counter((one.role, one.defect) for one in records) == {
        ("train", None): 80,
        ("test", None): 49,
        ("train", "pitting"): 28,
        ("test", "pitting"): 56,
    }
    train, test = ({one.group for one in records if one.role == role} for role in ("train", "test"))
    assert (len(train), len(test)) == (8, 7)
    assert train.isdisjoint(test)
    assert {one.licence for one in records} == {"CC-BY-SA-4.0"}


@needs_bsdata
def test_bsdata_with_one_group_moved_across_the_split_is_refused(tmp_path: Path, repository: Path) -> None:
    """The last training image of pitting is said to show the first test position."""
    real = Path(BSDATA) / "ball_screw"
    copy = tmp_path / "data" / "ball_screw"
    copy.mkdir(parents=True)
    for name in ("train", "test", "ground_truth"):
        (copy / name).symlink_to(real / name)
    lines = (real / "groups.csv").read_text(encoding="utf-8").splitlines()
    moved = [
        line.replace("635000-270", "305000-090", 1) if "/027" in line and "pitting" in line else line for line in lines
    ]
    assert sum(one != two for one, two in zip(lines, moved, strict=True)) == 2
    (copy / "groups.csv").write_text("\n".join(moved), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        run(bsdata_params(repository, tmp_path / "data"), tmp_path, category="ball_screw")
    message = str(caught.value)
    assert "are of one group '305000-090', which split.rule first_third would part" in message
    assert "ball_screw/test/good/000.png (test) and ball_screw/test/pitting/027.png (train)" in message
    assert not Layout(tmp_path).index("ball_screw").exists()


@needs_bsdata
def test_bsdata_leave_one_position_out_never_sees_the_test_positions(tmp_path: Path, repository: Path) -> None:
    params = bsdata_params(repository, Path(BSDATA), held_out_group="277500-315")
    records = read_records(run(params, tmp_path, category="ball_screw").index("ball_screw"))
    assert Counter((one.role, one.defect) for one in records) == {
        ("train", None): 70,
        ("test", None): 10,
        ("train", "pitting"): 24,
        ("test", "pitting"): 4,
    }
    assert {one.group for one in records if one.role == "test"} == {"277500-315"}
