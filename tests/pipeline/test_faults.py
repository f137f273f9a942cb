"""Wrong input and sudden death: one sentence, an exit code, and nothing half-made."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anosynth.fingerprint import digest_file
from tests.pipeline.conftest import run
from tests.toy import toy_params, write_params

pytestmark = pytest.mark.slow

PERLIN = ["-m", "tasks.generate_pairs", "--category", "washer", "--defect", "scratch", "--method", "perlin"]


def prepared(reproduced: Path, folder: Path, overrides: dict[str, object] | None = None) -> Path:
    """A folder that holds what generate_pairs declares, and an empty store."""
    for name in ("data/index", "data/shots"):
        shutil.copytree(reproduced / name, folder / name)
    write_params(folder, toy_params(overrides))
    return folder


def pool(folder: Path) -> dict[str, str]:
    sealed = folder / "data" / "pairs" / "washer" / "scratch" / "perlin"
    return {path.name: digest_file(path) for path in sorted(sealed.glob("*"))}


def test_a_stage_killed_half_way_leaves_no_output_and_ends_with_the_bytes_of_an_unbroken_run(
    reproduced: Path, tmp_path: Path
) -> None:
    long = {"generate_pairs": {"n": 400, "shard_rows": 10}}
    broken, unbroken = (prepared(reproduced, tmp_path / name, long) for name in ("broken", "unbroken"))
    process = subprocess.Popen([sys.executable, *PERLIN], cwd=broken, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    commits = broken / ".anosynth" / "store" / "commits"
    deadline = time.monotonic() + 120
    while process.poll() is None and len(list(commits.glob("*.json"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    done = len(list(commits.glob("*.json")))
    assert 3 <= done < 40
    assert not (broken / "data" / "pairs").exists()

    again = run(PERLIN, broken)
    assert again.code == 0, again.said
    assert f"{40 - done} made now" in again.said
    assert run(PERLIN, unbroken).code == 0
    assert len(pool(broken)) == 41
    assert pool(broken) == pool(unbroken)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "tasks.index", "--category", "nut"], "index: --category nut: not in grid.categories of params.yaml"),
        ([*PERLIN[:-1], "cutmix"], "generate_pairs: --method cutmix: not in methods of params.yaml"),
        (["-m", "tasks.index"], "the following arguments are required: --category"),
        (["-m", "tasks.index", "--category", "washer", "--root", "nowhere"], "params.yaml does not exist; run the"),
    ],
)
def test_a_wrong_command_ends_with_exit_code_2_and_one_sentence(
    toy_project: Path, arguments: list[str], message: str
) -> None:
    ran = run(arguments, toy_project)
    assert ran.code == 2
    assert message in ran.said
    assert "Traceback" not in ran.said


def test_a_stage_without_its_input_says_what_is_missing(toy_project: Path) -> None:
    for arguments in (PERLIN, ["-m", "tasks.screen", "--category", "washer"], ["-m", "tasks.report"]):
        ran = run(arguments, toy_project)
        assert ran.code == 2, ran.said
        assert "Traceback" not in ran.said
        assert "dvc repro" in ran.said
