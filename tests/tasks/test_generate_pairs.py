import shutil
from pathlib import Path

import numpy as np
import pytest

from anosynth.errors import DataError
from anosynth.layout import Layout
from anosynth.params import load_params
from anosynth.shards.manifest import read_manifest
from anosynth.shards.read import read_rows, read_samples, verify_folder
from anosynth.sources.lock import open_shots, read_lock, write_lock
from tasks import generate_pairs
from tasks._bind import bind, fill
from tests.tasks.measured import call, change, make_measured

KEYS = {"category": "washer", "defect": "scratch"}
ROWS = 6


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_measured(tmp_path_factory.mktemp("pairs") / "project")


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "project"))


def folder(layout: Layout, method: str) -> Path:
    return layout.pairs("washer", "scratch", method)


@pytest.mark.parametrize("method", ["perlin", "cutpaste"])
def test_a_pool_is_made_sealed_and_provable(project: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    layout = call(generate_pairs.run, project, **KEYS, method=method)
    place = folder(layout, method)
    assert f"generate_pairs: {ROWS} {method} pairs of washer with scratch in 2 shards (2 made now), in {place}" in (
        capsys.readouterr().out
    )
    assert verify_folder(place) == []
    shots = open_shots(layout.shots("washer"), layout.index("washer"))
    normal_ids = {shot.record.sha256 for shot in shots.lock.normal}
    samples = list(read_samples(place))
    assert [sample.spec.index for sample in samples] == list(range(ROWS))
    assert {sample.provenance.parent_id for sample in samples} <= normal_ids
    assert {sample.image.shape for sample in samples} == {(64, 64, 3)}
    assert read_manifest(place).licence == "CC0-1.0"


def test_the_arms_share_their_parents(project: Path) -> None:
    parents = []
    for method in ("perlin", "cutpaste"):
        layout = call(generate_pairs.run, project, **KEYS, method=method)
        parents.append(read_rows(folder(layout, method), ["parent_id"])["parent_id"].to_pylist())
    assert parents[0] == parents[1]
    assert len(set(parents[0])) == 4


def test_a_second_run_makes_nothing_and_a_larger_pool_only_what_is_new(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = call(generate_pairs.run, project, **KEYS, method="perlin")
    before = [sample.image for sample in read_samples(folder(layout, "perlin"))]
    call(generate_pairs.run, project, **KEYS, method="perlin")
    assert "(0 made now)" in capsys.readouterr().out
    change(project, "generate_pairs", {"n": ROWS + 3, "max_attempts": 50})
    call(generate_pairs.run, project, **KEYS, method="perlin")
    assert "in 3 shards (1 made now)" in capsys.readouterr().out
    after = [sample.image for sample in read_samples(folder(layout, "perlin"))]
    assert len(after) == ROWS + 3
    for old, new in zip(before, after[:ROWS], strict=True):
        np.testing.assert_array_equal(old, new)


def test_another_parameter_of_the_method_makes_another_pool(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = call(generate_pairs.run, project, **KEYS, method="perlin")
    plan = read_manifest(folder(layout, "perlin")).plan
    capsys.readouterr()
    change(project, "methods", {"perlin": {"kind": "perlin", "opacity": [0.5, 0.9]}})
    call(generate_pairs.run, project, **KEYS, method="perlin")
    assert "(2 made now)" in capsys.readouterr().out
    assert read_manifest(folder(layout, "perlin")).plan != plan


def test_a_slice_fills_the_store_and_seals_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(project, "generate_pairs", {"n": ROWS + 6})
    layout = Layout(project)
    sealed = (folder(layout, "perlin") / "manifest.json").read_bytes()
    arguments = fill(bind(generate_pairs.run), load_params(layout.params()), {**KEYS, "method": "perlin"})
    generate_pairs.run(layout=layout, only=slice(1, 3), **arguments)
    assert "2 of the 2 shards asked for were made now (perlin pairs of washer with scratch)" in capsys.readouterr().out
    assert (folder(layout, "perlin") / "manifest.json").read_bytes() == sealed
    generate_pairs.run(layout=layout, **arguments)
    assert "in 4 shards (2 made now)" in capsys.readouterr().out


def test_all_training_normals_may_be_parents_and_no_other(project: Path) -> None:
    change(project, "generate_pairs", {"n": 12, "parents": "train"})
    layout = call(generate_pairs.run, project, **KEYS, method="cutpaste")
    images = open_shots(layout.shots("washer"), layout.index("washer")).images
    allowed = {one.sha256 for one in images.records if one.role == "train" and one.defect is None}
    used = set(read_rows(folder(layout, "cutpaste"), ["parent_id"])["parent_id"].to_pylist())
    assert used == allowed
    assert len(allowed) > 4


def test_normals_that_repeat_a_shot_may_be_kept_from_being_parents(project: Path) -> None:
    change(project, "generate_pairs", {"n": 12, "parents": "unlike"})
    layout = Layout(project)
    # two shots of flat little washers hardly resemble each other, and every sound one resembles a shot more than that
    with pytest.raises(DataError, match=r"each of the 6 training normals .*; set generate_pairs\.parents to train"):
        call(generate_pairs.run, project, **KEYS, method="cutpaste")
    lock = read_lock(layout.shots("washer"))
    write_lock(type(lock)(lock.category, lock.method, lock.seed, lock.normal, {}, lock.sealed), layout.shots("washer"))
    call(generate_pairs.run, project, **KEYS, method="perlin")  # without a shot there is nothing to repeat
    images = open_shots(layout.shots("washer"), layout.index("washer")).images
    allowed = {one.sha256 for one in images.records if one.role == "train" and one.defect is None}
    assert set(read_rows(folder(layout, "perlin"), ["parent_id"])["parent_id"].to_pylist()) == allowed


def test_cutpaste_without_anomalous_shots_says_what_to_do_and_perlin_works(project: Path) -> None:
    layout = Layout(project)
    lock = read_lock(layout.shots("washer"))
    emptied = type(lock)(lock.category, lock.method, lock.seed, lock.normal, {}, lock.sealed)
    write_lock(emptied, layout.shots("washer"))
    sealed = (folder(layout, "cutpaste") / "manifest.json").read_bytes()
    with pytest.raises(DataError, match=r"washer, scratch: method 'cutpaste' cuts real defects and there are no"):
        call(generate_pairs.run, project, **KEYS, method="cutpaste")
    assert (folder(layout, "cutpaste") / "manifest.json").read_bytes() == sealed
    call(generate_pairs.run, project, **KEYS, method="perlin")
    assert verify_folder(folder(layout, "perlin")) == []
