import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from anosynth.detectors.fits import read_fits
from anosynth.errors import DataError
from anosynth.shards.read import read_samples
from anosynth.sources.index import IndexImages
from anosynth.sources.lock import read_lock, seal, write_lock
from tasks import fit_detector, index, personalize_normals, round_trip, shortcut
from tests.tasks.measured import call, change, make_measured


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny project with round trips, and a U-Net fitted on an arm with them and one without."""
    root = make_measured(tmp_path_factory.mktemp("shortcut") / "project")
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["grid"]["detectors"] = ["unet"]
    params["arms"]["mended"] = {**params["arms"]["perlin"], "round_tripped_normals": True}
    params["detectors"]["unet"]["arms"] = ["perlin", "mended"]
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    call(personalize_normals.run, root, category="washer")
    call(round_trip.run, root, category="washer")
    call(fit_detector.run, root, category="washer", detector="unet")
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "project"))


def test_round_trips_are_of_the_normal_shots_in_turn_and_made_once(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = call(round_trip.run, project, category="washer")
    assert "(0 of 2 shards made now)" in capsys.readouterr().out
    samples = list(read_samples(layout.round_trips("washer")))
    assert [sample.sample_id for sample in samples] == [f"normals/washer/-/round_trip/{at:06d}" for at in range(4)]
    assert len({sample.provenance.parent_id for sample in samples}) == 4
    assert all(sample.provenance.adapter and sample.provenance.licence == "CC0-1.0" for sample in samples)


def test_only_the_arm_that_asks_for_them_trains_on_round_trips(project: Path) -> None:
    layout = call(fit_detector.run, project, category="washer", detector="unet")
    fits = read_fits(layout.detector("washer", "unet"))
    assert fits.arms["mended"].counts["round_tripped_normals"] == 4
    assert "round_tripped_normals" not in fits.arms["perlin"].counts


def test_every_fit_is_asked_about_unseen_normals_and_their_round_trips(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = call(shortcut.run, project, category="washer")
    first = layout.shortcuts("washer").read_bytes()
    found = json.loads(first)
    assert (found["role"], found["images"]) == ("test", 4)
    assert found["mean_difference"] > 1.0
    assert set(found["shortcut_auroc"]) == {"unet"}
    assert set(found["shortcut_auroc"]["unet"]) == {"perlin", "mended"}
    values = [auroc for seeds in found["shortcut_auroc"]["unet"].values() for auroc in seeds.values()]
    assert len(values) == 2
    assert all(0.0 <= value <= 1.0 for value in values)
    means = {arm: np.mean(list(seeds.values())) for arm, seeds in found["shortcut_auroc"]["unet"].items()}
    assert found["above"] == sorted(f"unet/{arm}" for arm, mean in means.items() if mean > 0.6)
    assert "shortcut: 4 normals of washer against their round trips" in capsys.readouterr().out
    call(shortcut.run, project, category="washer")
    assert layout.shortcuts("washer").read_bytes() == first


def test_a_role_without_normals_is_a_clear_error(project: Path) -> None:
    change(project, "shortcut", {"role": "val"})
    change(project, "split", {"val_ratio": 0.0})
    layout = call(index.run, project, category="washer")
    lock = replace(read_lock(layout.shots("washer")), sealed=seal(IndexImages(layout.index("washer")).records))
    write_lock(lock, layout.shots("washer"))
    with pytest.raises(DataError, match=r"washer has 0 normal images of role val.*split\.val_ratio above 0"):
        call(shortcut.run, project, category="washer")
