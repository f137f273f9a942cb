import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from anosynth.features import inception, lpips
from anosynth.params import load_params
from anosynth.sources.lock import open_shots
from tasks import measure
from tasks._bind import main
from tests.features.random_weights import inception_state, write_lpips
from tests.tasks.measured import POOL_ROWS, call, change, make_measured


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_measured(tmp_path_factory.mktemp("measure") / "project")


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "project"))


def read(path: Path) -> dict:  # type: ignore[type-arg]
    return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_every_pool_is_measured_beside_the_real_shots(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = call(measure.run, project, category="washer")
    first = layout.measures("washer").read_bytes()
    found = json.loads(first)
    assert set(found["pools"]) == {"normals", "scratch/perlin", "scratch/cutpaste"}
    assert set(found["real_shots"]) == {"normals", "scratch"}
    assert found["judge"]["model"] == "lite2"
    assert found["judge"]["identity"]
    for name, pool in found["pools"].items():
        assert (pool["samples"], pool["images"]) == (POOL_ROWS, POOL_ROWS - 1)  # the drawn pools have one refused each
        assert pool["kid_lite"]["value"] is not None
        assert ("kid_lite_crops" in pool) == ("masks" in pool) == (name != "normals")
        shots = 4 if name == "normals" else 2
        assert len(pool["ic_lpips_lite"]["cluster_sizes"]) == shots
        assert sum(pool["ic_lpips_lite"]["cluster_sizes"]) == pool["images"]
        assert pool["memorization"]["samples"] == POOL_ROWS
        assert (pool["memorization"]["ceiling"] is None) == (name == "normals")
        assert pool["ic_lpips_lite"]["passes"] <= pool["images"] + shots + shots * 50
    assert "3 pools of washer against held_out real images" in capsys.readouterr().out
    call(measure.run, project, category="washer")
    assert layout.measures("washer").read_bytes() == first


def test_the_reference_holds_no_shot_and_no_test_image_unless_asked_for(project: Path) -> None:
    layout = call(measure.run, project, category="washer")
    shots = open_shots(layout.shots("washer"), layout.index("washer"))
    chosen = {shot.record.sha256 for shot in shots.lock.shots}
    held_out = [r for r in shots.images.records if r.role != "test" and r.sha256 not in chosen]
    test = [r for r in shots.images.records if r.role == "test"]
    found = read(layout.measures("washer"))["pools"]
    assert found["normals"]["reference_images"] == sum(r.defect is None for r in held_out)
    assert found["scratch/perlin"]["reference_images"] == sum(r.defect == "scratch" for r in held_out)
    change(project, "measure", {"reference": "test"})
    found = read(call(measure.run, project, category="washer").measures("washer"))["pools"]
    assert found["normals"]["reference_images"] == sum(r.defect is None for r in test)
    assert found["scratch/perlin"]["reference_images"] == sum(r.defect == "scratch" for r in test)


def test_the_judge_is_no_network_that_the_detectors_use(project: Path) -> None:
    params = load_params(project / "params.yaml")
    assert params.measure.features.model != params.features.model


def test_published_networks_add_their_figures_and_hashes_and_change_no_other(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inception, "INPUT_PX", 75)
    monkeypatch.setattr(lpips, "INPUT_PX", 64)
    plain = read(call(measure.run, project, category="washer").measures("washer"))
    assert "published" not in plain
    torch.save(inception_state(), project / "fid.pth")
    folder = write_lpips(project / "weights", "alex")
    change(project, "measure", {"inception": "fid.pth", "lpips": "weights", "lpips_trunk": "alex"})
    found = read(call(measure.run, project, category="washer").measures("washer"))

    def sha256(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    assert found.pop("published") == {
        "inception": {"sha256": sha256(project / "fid.pth")},
        "lpips": {
            "trunk": "alex",
            "sha256": {name: sha256(folder / name) for name in ("alexnet.pth", "lin_alex.pth")},
        },
    }
    for pool in found["pools"].values():
        assert pool.pop("fid")["value"] > 0
        assert pool.pop("inception_score")["reason"].startswith("the Inception score needs at least 10 images")
        inside = pool.pop("ic_lpips")
        assert (inside["value"] > 0) == (pool["ic_lpips_lite"]["value"] > 0)  # some of the drawn pools are copies
        assert inside["cluster_sizes"]
        assert inside["passes"] <= pool["images"] + len(inside["cluster_sizes"])
    for shots in found["real_shots"].values():
        assert shots.pop("fid")["value"] > 0
        assert shots.pop("inception_score")["value"] is None
    assert found == plain


def test_a_wrong_weight_file_ends_the_stage_with_one_sentence(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "fid.pth").write_text("no tensors", encoding="utf-8")
    for value, ending in (("none.pth", "does not exist"), ("fid.pth", "is no file of tensors")):
        change(project, "measure", {"inception": value})
        with pytest.raises(SystemExit) as caught:
            main(measure.run, ["--category", "washer", "--root", str(project)])
        assert caught.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"measure: measure.inception: {project / value} {ending}")
