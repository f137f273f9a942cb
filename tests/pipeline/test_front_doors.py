"""`dvc repro` and the flow run the same stages and leave the same record."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.pipeline.conftest import read_lock, run
from tests.toy import toy_params, write_params

NUM_STAGES = 19  # fifteen stages of dvc.yaml, of which four have two instances

pytestmark = pytest.mark.slow


def tracked_changes(root: Path) -> list[str]:
    listed = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def test_both_front_doors_leave_the_same_record(reproduced: Path, flowed: Path) -> None:
    by_dvc, by_flow = read_lock(reproduced), read_lock(flowed)
    assert by_dvc == by_flow
    stages = by_dvc["stages"]
    assert isinstance(stages, dict)
    assert len(stages) == NUM_STAGES


def test_a_second_repro_does_nothing(reproduced: Path) -> None:
    before = (reproduced / "dvc.lock").read_bytes()
    ran = run(["-m", "dvc", "repro"], reproduced)
    assert ran.code == 0
    assert "Data and pipelines are up to date." in ran.said
    assert "Running stage" not in ran.said
    assert (reproduced / "dvc.lock").read_bytes() == before


def test_a_second_flow_does_nothing(flowed: Path, tmp_path: Path) -> None:
    before = (flowed / "dvc.lock").read_bytes()
    ran = run(["-m", "flows.pipeline"], flowed, PREFECT_HOME=str(tmp_path))
    assert ran.code == 0, ran.said
    assert (flowed / "dvc.lock").read_bytes() == before
    assert "Running stage" not in ran.said
    assert len(re.findall(r"Stage '\S+' didn't change, skipping", ran.said)) == NUM_STAGES


def test_git_sees_the_record_and_nothing_else(reproduced: Path, flowed: Path) -> None:
    for root in (reproduced, flowed):
        assert tracked_changes(root) == ["?? dvc.lock"]


def test_store_cache_and_workspace_share_one_copy_of_a_shard(reproduced: Path) -> None:
    sealed = sorted((reproduced / "data" / "pairs").rglob("*.parquet"))
    assert len(sealed) >= 4
    cached = {path.stat().st_ino for path in (reproduced / ".dvc" / "cache").rglob("*") if path.is_file()}
    stored = {path.stat().st_ino for path in (reproduced / ".anosynth").rglob("*.parquet")}
    for path in sealed:
        assert path.stat().st_ino in cached & stored, path


def test_the_data_set_verifies_and_a_damaged_shard_is_found(reproduced: Path, tmp_path: Path) -> None:
    copy = tmp_path / "project"
    shutil.copytree(reproduced, copy, ignore=shutil.ignore_patterns(".git", ".dvc", ".anosynth"))
    sound = run(["-m", "anosynth", "verify"], copy)
    assert sound.code == 0, sound.said

    shard = sorted((copy / "data" / "pairs" / "washer" / "scratch" / "perlin").glob("*.parquet"))[1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.unlink()
    shard.write_bytes(data)
    damaged = run(["-m", "anosynth", "verify"], copy)
    assert damaged.code == 1
    assert "Traceback" not in damaged.said
    assert shard.name in damaged.said
    assert "dvc repro" in damaged.said

    reader = run(["-m", "tasks.screen", "--category", "washer"], copy)
    assert reader.code == 2
    assert "Traceback" not in reader.said
    assert shard.name in reader.said
    assert "generate_pairs@washer-scratch-perlin" in reader.said


def test_dvc_shows_metrics_and_plots(reproduced: Path) -> None:
    metrics = run(["-m", "dvc", "metrics", "show", "--json"], reproduced)
    assert metrics.code == 0, metrics.said
    found = json.loads(metrics.said.strip().splitlines()[-1])
    assert "pixel_ap" in json.dumps(found)
    plots = run(["-m", "dvc", "plots", "show", "--json", "--out", ".anosynth/plots"], reproduced)
    assert plots.code == 0, plots.said


def test_another_team_pulls_one_pool_of_a_tagged_version(reproduced: Path, tmp_path: Path) -> None:
    ours, theirs, pool = tmp_path / "ours", tmp_path / "theirs", "data/pairs/washer/scratch/perlin"
    shutil.copytree(reproduced, ours)
    assert run(["-m", "dvc", "remote", "add", "--default", "team", str(tmp_path / "remote")], ours).code == 0
    person = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["add", "--all"], [*person, "commit", "--quiet", "-m", "data v1"], ["tag", "data-v1"]):
        subprocess.run(["git", *command], cwd=ours, check=True)
    pushed = run(["-m", "dvc", "push"], ours)
    assert pushed.code == 0, pushed.said
    subprocess.run(["git", "clone", "--quiet", "--branch", "data-v1", str(ours), str(theirs)], check=True)
    pulled = run(["-m", "dvc", "pull", pool], theirs)
    assert pulled.code == 0, pulled.said
    files = {path.name: path.read_bytes() for path in (theirs / pool).iterdir()}
    assert files == {path.name: path.read_bytes() for path in (reproduced / pool).iterdir()}
    assert len(files) == 3
    got = run(["-m", "dvc", "get", str(ours), pool, "--rev", "data-v1", "--out", str(tmp_path / "got")], tmp_path)
    assert got.code == 0, got.said
    assert {path.name: path.read_bytes() for path in (tmp_path / "got").iterdir()} == files


def test_one_changed_detector_parameter_reruns_only_what_depends_on_it(flowed: Path) -> None:
    params = toy_params()
    params["detectors"]["unet"]["steps"] += 1  # type: ignore[index]
    write_params(flowed, params)
    ran = run(["-m", "dvc", "repro"], flowed)
    assert ran.code == 0, ran.said
    assert re.findall(r"Running stage '(\S+)'", ran.said) == [
        "check_params", "fit_detector@unet-washer", "evaluate@unet-washer", "shortcut@washer", "report",
    ]  # fmt: skip


def refused_by_dvc(root: Path, params: dict[str, object]) -> str:
    write_params(root, params)
    ran = run(["-m", "dvc", "repro"], root)
    assert ran.code not in (0, 2)  # 255, DVC's own code for any failed stage; the stage itself ended with 2
    assert "failed to reproduce 'check_params': failed to run: python -m tasks.check_params, exited with 2" in ran.said
    assert re.findall(r"Running stage '(.+)'", ran.said) == ["check_params"]
    return ran.said


def with_category(name: str) -> dict[str, object]:
    params = toy_params()
    grid, objects = params["grid"], params["objects"]
    assert isinstance(grid, dict)
    assert isinstance(objects, dict)
    grid["categories"].append(name)
    objects[name] = objects["washer"]
    pair = {"category": "washer", "defect": "`touch pwned`", "method": "perlin", "z;touch pwned": 1}
    grid["pairs"]["y; touch pwned"] = pair
    return params


def outputs(root: Path) -> dict[Path, int]:
    """Every file that a stage made, save the note of the gate, with the time it was last written."""
    made = (path for folder in ("data", "models", "results") for path in (root / folder).glob("*/**/*"))
    return {path: path.stat().st_mtime_ns for path in made if path.is_file()}


def test_hostile_names_are_refused_before_anything_runs_or_is_removed(reproduced: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(reproduced, root)
    before = outputs(root)
    assert len(before) >= 20
    said = refused_by_dvc(root, with_category("x; touch pwned"))
    assert "  grid.categories.1: is 'x; touch pwned'; a key is a slug" in said
    assert "y; touch pwned.z;touch pwned: unknown key" in said
    for stage in ("index@x; touch pwned", "generate_pairs@y; touch pwned", "fit_detector@unet-x; touch pwned"):
        assert run(["-m", "dvc", "repro", "--single-item", stage], root).code != 0
    flow = run(["-m", "flows.pipeline"], root)
    assert flow.code == 2
    assert "pipeline: params.yaml has " in flow.said
    assert run(["-m", "anosynth", "params"], root).code == 2
    assert outputs(root) == before
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", ["../../anosynth", "../../../outside"])
def test_a_name_that_climbs_out_of_its_folder_removes_nothing(reproduced: Path, tmp_path: Path, name: str) -> None:
    root = tmp_path / "project"
    shutil.copytree(reproduced, root)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x", encoding="utf-8")
    before = outputs(root)
    write_params(root, with_category(name))
    ran = run(["-m", "dvc", "repro"], root)  # DVC itself may see that the outputs overlap, before the gate runs
    assert ran.code != 0
    assert "Running stage 'index" not in ran.said
    assert outputs(root) == before
    assert (root / "anosynth" / "params.py").is_file()
    assert (outside / "precious").is_file()


def test_a_misspelt_section_stops_every_stage_with_all_errors_at_once(reproduced: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(reproduced, root)
    params = toy_params({"image": {"size_px": 65}})
    params["scren"] = params.pop("screen")
    said = refused_by_dvc(root, params)
    assert "params.yaml has 3 errors:" in said
    for line in ("  image.size_px: is 65; ", "  screen: missing; ", "  scren: unknown key; "):
        assert line in said
    assert "Traceback" not in said


def test_make_repro_looks_at_params_first_so_that_its_exit_code_is_2(repository: Path) -> None:
    recipe = (repository / "Makefile").read_text(encoding="utf-8").split("\nrepro:")[1].split("\n\n")[0]
    assert recipe.index("anosynth params") < recipe.index("dvc repro")


def test_the_clone_ran_what_dvc_yaml_says(reproduced: Path) -> None:
    lock = read_lock(reproduced)["stages"]
    assert isinstance(lock, dict)
    written = yaml.safe_load((reproduced / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert {name.partition("@")[0] for name in lock} == set(written)
