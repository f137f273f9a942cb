"""One run through each front door, shared by all tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.toy import clone


@dataclass(frozen=True)
class Ran:
    """A process that ended.

    Attributes:
        code: exit code.
        said: both streams.
        seconds: wall time.
    """

    code: int
    said: str
    seconds: float


def run(arguments: Sequence[str], root: Path, **environment: str) -> Ran:
    """Run `python ARGUMENTS` in a folder, with this environment's programs first in PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env={**os.environ, "PATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Ran(done.returncode, done.stdout, time.monotonic() - started)


def read_lock(root: Path) -> dict[str, object]:
    """The parsed dvc.lock: what counts, where the order of its entries does not."""
    lock = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))
    assert isinstance(lock, dict)
    return lock


@pytest.fixture(scope="session")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the checkout with tiny parameters; nothing has run in it."""
    return clone(tmp_path_factory.mktemp("cloned") / "project")


@pytest.fixture(scope="session")
def reproduced(cloned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the clone, after `dvc repro`."""
    root = tmp_path_factory.mktemp("reproduced") / "project"
    shutil.copytree(cloned, root)
    ran = run(["-m", "dvc", "repro"], root)
    assert ran.code == 0, ran.said
    return root


@pytest.fixture(scope="session")
def flowed(cloned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another copy, after the flow, every pool filled in two parts."""
    root = tmp_path_factory.mktemp("flowed") / "project"
    shutil.copytree(cloned, root)
    ran = run(["-m", "flows.pipeline"], root, PREFECT_HOME=str(tmp_path_factory.mktemp("prefect")))
    assert ran.code == 0, ran.said
    return root
