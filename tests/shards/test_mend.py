"""The command that an error message names does mend the damage, although store, pool and cache are one file."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

MAKE = """
from anosynth.shards.manifest import seal
from anosynth.shards.store import ShardStore
from tests.shards.small_pools import make_jobs, make_samples

store, jobs = ShardStore("store"), make_jobs(8)
for job in jobs:
    if job.fingerprint not in store:
        store.put(job, make_samples(job))
seal(jobs, store, "data/pairs/washer/scratch/perlin")
"""
STAGES = """
stages:
  generate_pairs:
    foreach: {washer-scratch-perlin: {}}
    do:
      cmd: python make.py
      outs: [data/pairs/washer/scratch/perlin]
"""
CONFIG = """
[core]
    no_scm = true
[cache]
    type = "hardlink,copy"
"""


def _run(command: str, folder: Path, repository: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(repository)}
    ran = subprocess.run(
        shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return f"{ran.returncode} {ran.stdout}{ran.stderr}"


@pytest.mark.slow
def test_the_command_in_the_message_mends_a_shard_that_rotted_on_disk(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "make.py").write_text(MAKE)
    (tmp_path / "dvc.yaml").write_text(STAGES)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(CONFIG)
    assert _run("dvc repro -q", tmp_path, repository).startswith("0")
    shard = tmp_path / "data/pairs/washer/scratch/perlin/pairs-00001.parquet"
    whole, times = shard.read_bytes(), shard.stat()
    assert times.st_nlink == 3  # store, DVC's cache and the pool
    mode = times.st_mode
    shard.chmod(0o644)
    with shard.open("r+b") as file:
        file.seek(400)
        file.write(bytes([whole[400] ^ 16]))
    shard.chmod(mode)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))  # nobody was told: mode and time are as before

    told = _run("python -m anosynth verify data", tmp_path, repository)
    assert told.startswith("1")
    found = re.search(r"is damaged .*; run: (dvc repro \S+)", told)
    assert found is not None, told
    assert _run(found[1], tmp_path, repository).startswith("0")

    assert shard.read_bytes() == whole
    assert _run("python -m anosynth verify data", tmp_path, repository).startswith("0")
