"""The stage that trains pair adapters, and the pool that is drawn with one, in a folder of its own."""

import json
import shutil
from pathlib import Path

import pytest

from anosynth.diffusion.dual_adapters import read_dual
from anosynth.diffusion.latent import backbone_identity
from anosynth.errors import BackboneError, DataError
from anosynth.layout import Layout
from anosynth.params import load_params
from anosynth.pools.dual_terms import terms_from_json
from anosynth.shards.manifest import read_manifest
from anosynth.shards.read import read_samples, verify_folder
from anosynth.sources.lock import read_lock, write_lock
from tasks import generate_pairs, personalize_pairs
from tests.tasks.measured import call, change, make_measured

KEYS = {"category": "washer", "defect": "scratch"}
DUAL = {
    "kind": "dualanodiff",
    "rank": 2,
    "alpha": 2.0,
    "inner": 4,
    "steps": 3,
    "lr": 1e-2,
    "batch_size": 2,
    "views": 2,
    "key": "grey",
    "profile": "fast",
    "min_confidence": 0.0,
}
METHOD = {"washer-scratch-dual": {**KEYS, "method": "dual"}}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_measured(tmp_path_factory.mktemp("dual") / "project")
    params = load_params(root / "params.yaml")
    pairs = {key: pair.model_dump() for key, pair in params.grid.pairs.items()}
    change(root, "backbone", {"kind": "toy", "seed": 0})
    change(root, "methods", {"dual": DUAL})
    change(root, "grid", {"pairs": {**pairs, **METHOD}})
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "project"))


def train(project: Path) -> Layout:
    return call(personalize_pairs.run, project, **KEYS, method="dual")


@pytest.mark.parametrize("method", ["perlin", "cutpaste"])
def test_a_control_arm_learns_nothing_and_says_so(
    project: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = call(personalize_pairs.run, project, **KEYS, method=method)
    folder = layout.pair_adapter("washer", "scratch", method)
    assert (
        capsys.readouterr().out == f"personalize_pairs: {method} of washer with scratch: learns nothing, in {folder}\n"
    )
    assert [file.name for file in folder.iterdir()] == ["adapter.json"]
    assert json.loads((folder / "adapter.json").read_text()) == {"kind": method, "trained": False}


def test_an_adapter_of_the_shots_is_trained_once_and_draws_a_sealed_pool(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = train(project)
    folder = layout.pair_adapter("washer", "scratch", "dual")
    assert "3 steps on 2 shots, in" in capsys.readouterr().out
    adapter = read_dual(folder)
    lock = read_lock(layout.shots("washer"))
    terms = terms_from_json(adapter.terms)
    assert terms.shot_ids == {"scratch": tuple(shot.record.sha256 for shot in lock.anomalous["scratch"])}
    assert adapter.backbone == backbone_identity(load_params(layout.params()).backbone)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    shutil.rmtree(folder)
    train(project)
    assert "found in the store" in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files

    call(generate_pairs.run, project, **KEYS, method="dual")
    assert "generate_pairs: 6 dual pairs of washer with scratch in 2 shards (2 made now)" in capsys.readouterr().out
    place = layout.pairs("washer", "scratch", "dual")
    assert verify_folder(place) == []
    samples = list(read_samples(place))
    normal_ids = {shot.record.sha256 for shot in lock.normal}
    assert len(samples) == 6
    for sample in samples:
        assert sample.part is not None
        assert sample.provenance.adapter == adapter.digest
        assert sample.provenance.parent_id in normal_ids
    assert read_manifest(place).licence == "CC0-1.0"
    text = (place / "manifest.json").read_text()
    assert '"profile"' in text
    assert '"fast"' in text
    call(generate_pairs.run, project, **KEYS, method="dual")
    assert "(0 made now)" in capsys.readouterr().out


def test_a_value_of_drawing_keeps_the_adapter_and_a_value_of_training_does_not(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = train(project)
    digest = read_dual(layout.pair_adapter("washer", "scratch", "dual")).digest
    change(project, "methods", {"dual": {**DUAL, "strength": 0.7, "log_every": 1}})
    train(project)
    assert "found in the store" in capsys.readouterr().out
    assert read_dual(layout.pair_adapter("washer", "scratch", "dual")).digest == digest
    change(project, "methods", {"dual": {**DUAL, "lr": 1e-3, "shared": True}})
    train(project)
    assert read_dual(layout.pair_adapter("washer", "scratch", "dual")).digest != digest


def test_a_checkpoint_is_chosen_by_what_each_draws(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(project, "methods", {"dual": {**DUAL, "candidates": 2, "candidate_draws": 2}})
    layout = train(project)
    facts = read_dual(layout.pair_adapter("washer", "scratch", "dual")).facts
    told = facts["kept_by"]
    assert isinstance(told, dict)
    assert [point["step"] for point in told["curve"]] == [2, 3]
    assert f"{facts['kept_step']} steps on 2 shots" in capsys.readouterr().out
    change(project, "methods", {"dual": {**DUAL, "candidates": 2, "candidate_draws": 2, "strength": 0.7}})
    train(project)
    assert "found in the store" not in capsys.readouterr().out


def test_a_lora_of_the_text_encoder_is_trained_kept_and_draws_the_pool(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = {}
    for rank in (0, 2):
        change(project, "methods", {"dual": {**DUAL, "text_rank": rank, "candidates": 2, "candidate_draws": 2}})
        layout = train(project)
        adapter = read_dual(layout.pair_adapter("washer", "scratch", "dual"))
        assert adapter.shape.text_rank == rank
        assert sum(name.startswith("text:") for name in adapter.tensors) == (16 if rank else 0)
        call(generate_pairs.run, project, **KEYS, method="dual")
        assert "(2 made now)" in capsys.readouterr().out
        place = layout.pairs("washer", "scratch", "dual")
        assert verify_folder(place) == []
        drawn[rank] = list(read_samples(place))
        assert {sample.provenance.adapter for sample in drawn[rank]} == {adapter.digest}
    assert len(drawn[2]) == 6
    assert any(a.image.tobytes() != b.image.tobytes() for a, b in zip(drawn[0], drawn[2], strict=True))
    train(project)
    call(generate_pairs.run, project, **KEYS, method="dual")
    said = capsys.readouterr().out
    assert "found in the store" in said
    assert "(0 made now)" in said


def test_a_pool_is_not_drawn_with_the_adapter_of_another_backbone(project: Path) -> None:
    train(project)
    change(project, "backbone", {"kind": "toy", "seed": 1})
    with pytest.raises(BackboneError, match=r"trained on the backbone \w{12} and params\.yaml names \w{12}; run"):
        call(generate_pairs.run, project, **KEYS, method="dual")


def test_a_defect_without_shots_is_refused_before_anything_is_written(project: Path) -> None:
    layout = Layout(project)
    lock = read_lock(layout.shots("washer"))
    write_lock(type(lock)(lock.category, lock.method, lock.seed, lock.normal, {}, lock.sealed), layout.shots("washer"))
    with pytest.raises(
        DataError, match=r"washer, scratch: a pair adapter learns from anomalous shots and there are none; raise"
    ):
        train(project)
    assert not layout.pair_adapter("washer", "scratch", "dual").exists()


def test_without_an_adapter_the_pool_names_the_stage_that_trains_it(project: Path) -> None:
    with pytest.raises(BackboneError, match=r"adapter\.safetensors is missing; run the stage personalize_pairs"):
        call(generate_pairs.run, project, **KEYS, method="dual")
