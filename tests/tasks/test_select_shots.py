from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from anosynth.errors import DataError
from anosynth.imaging import decode_image, encode_png
from anosynth.layout import Layout
from anosynth.params import Params, parse_params
from anosynth.sources.index import IndexImages, read_records
from anosynth.sources.lock import check_lock, open_shots, read_lock
from tasks import index, select_shots
from tests.selection.pictures import COPIES
from tests.toy import toy_params

BSDATA = os.environ.get("ANOSYNTH_BSDATA", "")
needs_bsdata = pytest.mark.skipif(not BSDATA, reason="ANOSYNTH_BSDATA does not name the folder of BSData")


def run_index(params: Params, layout: Layout, *, category: str = "washer") -> None:
    index.run(
        layout=layout,
        category=category,
        seed=params.seed,
        grid__pairs=params.grid.pairs,
        objects=params.objects,
        source=params.source,
        split=params.split,
    )


def run(params: Params, layout: Layout, *, category: str = "washer") -> None:
    select_shots.run(
        layout=layout,
        category=category,
        seed=params.seed,
        compute=params.compute,
        grid__pairs=params.grid.pairs,
        features=params.features,
        select_shots=params.select_shots,
    )


def params_of(**select: object) -> Params:
    return parse_params(toy_params({"select_shots": select}))


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("indexed"))
    run_index(params_of(), layout)
    return layout


def test_shots_are_chosen_locked_and_can_be_opened(indexed: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    run(params_of(normal=4, anomalous=2, method="k_center"), indexed)
    shots = open_shots(indexed.shots("washer"), indexed.index("washer"))
    assert (len(shots.lock.normal), len(shots.lock.anomalous["scratch"])) == (4, 2)
    assert all(image.shape == (64, 64, 3) for image in shots.normal_images())
    assert all(set(np.unique(mask)) == {0, 255} for _, mask in shots.anomalous_pairs("scratch"))
    sealed = [record.path for record in read_records(indexed.index("washer")) if record.role != "train"]
    assert [one.path for one in shots.lock.sealed] == sorted(sealed)
    assert capsys.readouterr().out.startswith("select_shots: 4 normal, 2 scratch shots of washer by k_center; ")


@pytest.mark.parametrize("method", ["first_third", "random", "k_center"])
def test_fewer_shots_are_a_prefix_and_a_rerun_gives_equal_bytes(indexed: Layout, method: str) -> None:
    chosen = []
    for normal, anomalous in ((2, 1), (4, 2), (4, 2)):
        run(params_of(normal=normal, anomalous=anomalous, method=method), indexed)
        chosen.append((read_lock(indexed.shots("washer")), indexed.shots("washer").read_bytes()))
    (few, _), (many, once), (_, again) = chosen
    assert many.normal[:2] == few.normal
    assert many.anomalous["scratch"][:1] == few.anomalous["scratch"]
    assert once == again


def test_more_shots_than_images_is_one_sentence_and_writes_nothing(tmp_path: Path, indexed: Layout) -> None:
    layout = Layout(tmp_path)
    layout.index("washer").parent.mkdir(parents=True)
    layout.index("washer").write_bytes(indexed.index("washer").read_bytes())
    with pytest.raises(DataError, match=r"washer: too few images may train: 7 normal asked for, 6 there"):
        run(params_of(normal=7), layout)
    assert not layout.shots("washer").exists()


def test_a_defect_without_images_is_named(indexed: Layout) -> None:
    raw = toy_params()
    raw["grid"] = {
        **raw["grid"],  # type: ignore[dict-item]
        "pairs": {"washer-dent-perlin": {"category": "washer", "defect": "dent", "method": "perlin"}},
    }
    raw["arms"] = {"real": {"real_normals": True, "real_pairs": True, "synthetic_normals": False, "methods": []}}
    raw["detectors"] = {name: {**spec, "arms": ["real"]} for name, spec in raw["detectors"].items()}  # type: ignore[attr-defined]
    raw["classify"] = {**raw["classify"], "arms": ["real"]}  # type: ignore[dict-item]
    with pytest.raises(DataError, match=r"2 dent asked for, 0 there \(defects in the index: scratch\)"):
        run(parse_params(raw), indexed)


def folder_project(root: Path, indexed: Layout, *, copy: str) -> Layout:
    """The rendered pictures as files, with one changed copy of a training image among the normal test images."""
    images = IndexImages(indexed.index("washer"))
    for record in images.records:
        kind = "good" if record.defect is None else record.defect
        part = "test" if record.role == "test" or record.defect is not None else "train"
        name = record.path.replace("/", "_")
        target = root / "data" / "washer" / part / kind / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encode_png(images.image(record)))
        if record.defect is not None:
            mask = root / "data" / "washer" / "ground_truth" / kind / name.replace(".png", "_mask.png")
            mask.parent.mkdir(parents=True, exist_ok=True)
            mask.write_bytes(encode_png(images.mask(record)))
    one = sorted((root / "data/washer/train/good").iterdir())[2]
    picture = decode_image(one.read_bytes(), name="x").image
    (root / "data/washer/test/good/copy.png").write_bytes(encode_png(np.ascontiguousarray(COPIES[copy](picture))))
    return Layout(root)


@pytest.mark.parametrize("copy", ["reencoded", "shifted 3", "brighter", "mirrored"])
def test_a_changed_copy_of_a_training_image_in_test_stops_the_stage(tmp_path: Path, indexed: Layout, copy: str) -> None:
    layout = folder_project(tmp_path, indexed, copy=copy)
    raw = toy_params({"select_shots": {"normal": 4, "anomalous": 1, "method": "random"}})
    raw["source"] = {"kind": "mvtec", "root": "data", "licence": "CC0-1.0"}
    raw["split"] = {"rule": "first_third", "val_ratio": 0.0, "held_out_group": None}
    params = parse_params(raw)
    run_index(params, layout)
    with pytest.raises(DataError) as caught:
        run(params, layout)
    message = str(caught.value)
    assert "washer/train/good/" in message
    assert "washer/test/good/copy.png (test) are copies of one photograph" in message
    assert not layout.shots("washer").exists()


@needs_bsdata
def test_bsdata_offers_its_shots_and_no_copies(tmp_path: Path, repository: Path) -> None:
    raw = yaml.safe_load((repository / "examples" / "bsdata.params.yaml").read_text(encoding="utf-8"))
    raw["source"]["root"] = BSDATA
    raw["select_shots"]["method"] = "random"
    params, layout = parse_params(raw), Layout(tmp_path)
    run_index(params, layout, category="ball_screw")
    run(params, layout, category="ball_screw")
    lock = open_shots(layout.shots("ball_screw"), layout.index("ball_screw")).lock
    assert (len(lock.normal), len(lock.anomalous["pitting"]), len(lock.sealed)) == (8, 28, 105)
    moved = {shot.record.group for shot in lock.shots} & {one.group for one in lock.sealed}
    assert not moved
    records = read_records(layout.index("ball_screw"))
    tampered = tuple(
        replace(one, group=lock.normal[0].record.group) if one.path.endswith("test/pitting/050.png") else one
        for one in records
    )
    with pytest.raises(DataError, match=r"has the same group as ball_screw/test/pitting/050.png \(test\): a leak"):
        check_lock(lock, tampered)
