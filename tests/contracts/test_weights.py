"""The weights that the repository carries stay small, in the package and in its history."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

MEGABYTE = 1_000_000
FOLDER_MB = 40
HISTORY_MB = 100
CLONE_MB = 150


def _git(repository: Path, *arguments: str, given: str = "") -> str:
    return subprocess.run(
        ["git", *arguments], cwd=repository, input=given, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def objects(repository: Path) -> list[tuple[str, int, int, str]]:
    """(kind, bytes, bytes as stored, path) of every object that any branch or tag reaches."""
    try:
        shallow = _git(repository, "rev-parse", "--is-shallow-repository").strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no git checkout: there is no history to measure")
    if shallow != "false":
        pytest.skip("a shallow clone: its history is not all there")
    listed = _git(repository, "rev-list", "--objects", "--all")
    layout = "--batch-check=%(objecttype) %(objectsize) %(objectsize:disk) %(rest)"
    lines = _git(repository, "cat-file", layout, given=listed).splitlines()
    found = []
    for line in lines:
        kind, size, stored, path = line.split(" ", 3)
        found.append((kind, int(size), int(stored), path))
    assert len(found) == len(listed.splitlines()) > 1000
    return found


def test_all_weights_of_the_history_take_at_most_100_mb(objects: list[tuple[str, int, int, str]]) -> None:
    weights = [size for kind, size, _, path in objects if kind == "blob" and path.endswith(".safetensors")]
    assert len(weights) >= 2
    assert sum(weights) <= HISTORY_MB * MEGABYTE


def test_a_clone_takes_less_than_150_mb(repository: Path, objects: list[tuple[str, int, int, str]]) -> None:
    tracked = [repository / name for name in _git(repository, "ls-files", "-z").split("\0") if name]
    checkout = sum(path.stat().st_size for path in tracked if path.is_file())
    assert checkout > MEGABYTE
    assert sum(stored for _, _, stored, _ in objects) + checkout < CLONE_MB * MEGABYTE


def test_the_shipped_backbone_takes_at_most_40_mb(repository: Path) -> None:
    files = [path for path in (repository / "anosynth" / "embedded").rglob("*") if path.is_file()]
    assert sum(path.suffix == ".safetensors" for path in files) == 2, "the text encoder is named, not copied"
    assert sum(path.stat().st_size for path in files) <= FOLDER_MB * MEGABYTE
