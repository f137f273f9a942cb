from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anosynth.detectors.fits import read_fits
from anosynth.errors import DataError, ParamsError
from anosynth.features.aligned import build_aligned
from anosynth.features.projection import write_projection
from anosynth.layout import Layout
from anosynth.params import load_params
from anosynth.sources.lock import read_lock, write_lock
from tasks import fit_detector
from tests.tasks.measured import call, change, make_measured


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_measured(tmp_path_factory.mktemp("fit") / "project")


@pytest.fixture
def project(measured: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured, tmp_path / "project"))


def fit(root: Path, detector: str, capsys: pytest.CaptureFixture[str]) -> int:
    """Run the stage; how many fits it made itself, by its closing line."""
    call(fit_detector.run, root, category="washer", detector=detector)
    line = capsys.readouterr().out.splitlines()[-1]
    found = re.search(r"fit_detector: \d+ fits of .* (\d+) fitted now", line)
    assert found is not None
    return int(found[1])


def files(root: Path, detector: str) -> dict[str, bytes]:
    folder = Layout(root).detector("washer", detector)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_arm_and_seed_is_fitted_once_and_found_again(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(project, "fit_detector", {"seeds": [0, 3]})
    assert fit(project, "unet", capsys) == 4
    first = files(project, "unet")
    assert {name.split("/")[0] for name in first} == {"real-0", "real-3", "perlin-0", "perlin-3", "fit.json"}
    assert len(first) == 9
    assert first["real-0/weights.safetensors"] != first["real-3/weights.safetensors"]
    assert fit(project, "unet", capsys) == 0
    assert files(project, "unet") == first
    assert not list((project / ".anosynth" / "tmp").iterdir())


def test_an_arm_with_another_share_of_synthetic_images_is_fitted_anew_and_the_others_are_not(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(project, "unet", capsys) == 2
    first = files(project, "unet")
    perlin = {"real_normals": True, "real_pairs": True, "methods": ["perlin"], "synthetic_ratio": 1.0}
    change(project, "arms", {"perlin": perlin})
    assert fit(project, "unet", capsys) == 1
    second = files(project, "unet")
    assert second["real-0/weights.safetensors"] == first["real-0/weights.safetensors"]
    assert second["perlin-0/weights.safetensors"] != first["perlin-0/weights.safetensors"]
    change(project, "arms", {"perlin": {**perlin, "synthetic_ratio": 0.5}})
    assert fit(project, "unet", capsys) == 0  # the detector's own share, said by the arm
    assert files(project, "unet")["perlin-0/weights.safetensors"] == first["perlin-0/weights.safetensors"]


def test_after_a_crash_only_the_missing_fits_are_made_and_the_bytes_are_those_of_an_unbroken_run(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(project, "unet", capsys) == 2
    whole = files(project, "unet")
    perlin = read_fits(Layout(project).detector("washer", "unet")).arms["perlin"].fingerprints[0]
    shutil.rmtree(project / "models")
    for path in (project / ".anosynth" / "store" / "blobs" / "detectors" / perlin).iterdir():
        if path.name == "detector.json":  # written last: without it the fit does not count
            path.unlink()
    assert fit(project, "unet", capsys) == 1
    assert files(project, "unet") == whole


def test_a_change_refits_what_it_shapes_and_nothing_else(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(project, "unet", capsys)
    change(project, "fit_detector", {"seeds": [0, 1]})
    assert fit(project, "unet", capsys) == 2
    unet = {"kind": "unet", "arms": ["real", "perlin"], "channels": 4, "steps": 4, "batch_size": 2, "size_px": 64}
    change(project, "detectors", {"unet": unet})
    assert fit(project, "unet", capsys) == 4
    assert fit(project, "patchcore", capsys) == 4
    change(project, "fit_detector", {"normals": "train"})
    assert fit(project, "patchcore", capsys) == 4


def test_fit_json_says_what_each_arm_was_trained_on(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(project, "unet", capsys)
    fits = read_fits(Layout(project).detector("washer", "unet"))
    assert fits.arms["real"].counts == {"real_normals": 4, "real_pairs": 2}
    assert fits.arms["perlin"].counts == {"real_normals": 4, "real_pairs": 2, "pairs_perlin": 5}
    assert fits.arms["perlin"].licence == "CC0-1.0"
    bundles = [data for name, data in files(project, "unet").items() if name.endswith("detector.json")]
    assert [json.loads(data)["licence"] for data in bundles] == ["CC0-1.0"] * 2
    assert set(fits.arms["perlin"].digests) == {"real_normals", "real_pairs", "pairs_perlin/scratch"}
    fit(project, "patchcore", capsys)
    fits = read_fits(Layout(project).detector("washer", "patchcore"))
    assert fits.arms["real"].counts == {"real_normals": 4}
    assert fits.arms["normals"].counts == {"real_normals": 4, "synthetic_normals": 5}
    change(project, "fit_detector", {"normals": "train"})
    fit(project, "patchcore", capsys)
    assert read_fits(Layout(project).detector("washer", "patchcore")).arms["real"].counts == {"real_normals": 6}


def test_a_detector_that_compares_with_text_has_the_licence_of_its_projection_too(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(project, "detectors", {"winclip": {"kind": "winclip", "arms": ["real"]}})
    params = load_params(project / "params.yaml")
    base = build_aligned(params.aligned, compute=params.compute)
    path = tmp_path / "projection.safetensors"
    widths = [level.shape[-1] for level in base.patch_levels([np.zeros((64, 64, 3), np.uint8)])]
    weights = [np.ones((width + 1, 384), np.float32) for width in widths]
    write_projection(path, weights, base_identity=base.identity, licence="CC-BY-NC-SA-4.0")
    change(project, "aligned", {"projection": str(path)})
    for detector, licence in (("winclip", "CC-BY-NC-SA-4.0"), ("patchcore", "CC0-1.0")):
        fit(project, detector, capsys)
        assert read_fits(Layout(project).detector("washer", detector)).arms["real"].licence == licence
        assert json.loads(files(project, detector)["real-0/detector.json"])["licence"] == licence


def test_an_arm_without_a_pool_in_this_category_ends_in_one_sentence(project: Path) -> None:
    pair = {"category": "washer", "defect": "scratch", "method": "cutpaste"}
    other = {"category": "tile", "defect": "crack", "method": "perlin"}
    change(
        project,
        "grid",
        {
            "categories": ["washer", "tile"],
            "pairs": {"washer-scratch-cutpaste": pair, "tile-crack-perlin": other},
        },
    )
    change(project, "objects", {"tile": {"name": "ceramic tile"}})
    with pytest.raises(ParamsError, match=r"arms\.perlin: the method 'perlin' has no pool .* category washer"):
        call(fit_detector.run, project, category="washer", detector="unet")
    assert not Layout(project).detector("washer", "unet").exists()


def test_a_shot_that_leaks_into_the_test_images_stops_the_fit(project: Path) -> None:
    path = Layout(project).shots("washer")
    lock = read_lock(path)
    met = next(sealed for sealed in lock.sealed if sealed.role == "test")
    leaking = replace(lock.normal[0], record=replace(lock.normal[0].record, group=met.group))
    write_lock(replace(lock, normal=(leaking, *lock.normal[1:])), path)
    with pytest.raises(DataError, match=rf"same group as {met.path} \(test\): a leak"):
        call(fit_detector.run, project, category="washer", detector="unet")


def test_training_logs_one_json_object_per_logged_step(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="anosynth.detectors.training"):
        call(fit_detector.run, project, category="washer", detector="unet")
    lines = [json.loads(record.message) for record in caplog.records if record.name == "anosynth.detectors.training"]
    assert [line["step"] for line in lines] == [0, 2, 0, 2]
    assert lines[0]["name"] == "unet on washer, arm real, seed 0"


def test_fit_json_with_damage_is_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(project, "patchcore", capsys)
    folder = Layout(project).detector("washer", "patchcore")
    for text, why in (("{", "damaged"), ('{"version": 9}', "of version 9"), ('{"version": 1, "arms": {}}', "damaged")):
        (folder / "fit.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=rf"{why}.*dvc repro fit_detector@patchcore-washer"):
            read_fits(folder)
