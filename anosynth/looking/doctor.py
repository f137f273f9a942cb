"""Examine the environment and the store: what is installed, whether it fits together, what lies about."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from PIL import features

from anosynth.errors import AnosynthError
from anosynth.layout import Layout
from anosynth.params import load_params
from anosynth.shards.folder import Folder
from anosynth.shards.prune import Usage, examine, referred_digests
from anosynth.shards.store import ShardStore

PYTHONS = ((3, 11), (3, 12))
FASTAPI_BELOW = (0, 151)
LOW_DISK_BYTES = 2_000_000_000
PACKAGES = (
    "anosynth",
    "numpy",
    "pillow",
    "pyarrow",
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "peft",
    "dvc",
)


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what.
        found: what was found.
        problem: what is wrong with it and what to do; "" if nothing.
    """

    name: str
    found: str
    problem: str = ""

    def line(self) -> str:
        """One line of the doctor's report."""
        mark = "PROBLEM" if self.problem else "ok"
        return f"{mark:<8} {self.name}: {self.found}{'; ' if self.problem and self.found else ''}{self.problem}"


def environment() -> list[Check]:
    """Look at Python, the packages that must fit together, the codecs, the processor and the accelerator."""
    version = sys.version_info[:2]
    problem = "" if version in PYTHONS else "Python 3.11 or 3.12 is needed"
    checks = [Check("python", f"{platform.python_version()} on {platform.machine()}", problem)]
    checks += [_package(name) for name in PACKAGES]
    checks.append(_torch_pair())
    checks.append(_prefect_pair())
    executable = shutil.which("dvc", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    checks.append(Check("dvc command", executable or "not found", "" if executable else "install the package dvc"))
    has_webp = bool(features.check("webp"))
    checks.append(
        Check(
            "webp", "yes" if has_webp else "no", "" if has_webp else "this Pillow cannot write shards; install a wheel"
        )
    )
    return checks


def project(layout: Layout) -> Check:
    """Look at params.yaml."""
    try:
        params = load_params(layout.params())
    except AnosynthError as error:
        return Check("params.yaml", "", str(error))
    return Check("params.yaml", f"{len(params.grid.categories)} categories, {len(params.grid.pairs)} pools of pairs")


def store(layout: Layout, *, grace_s: float) -> tuple[list[Check], Usage]:
    """Look at the store: what it holds, what nobody needs, whether commits are exclusive, room on the disk."""
    place = ShardStore(layout.store_url())
    folders = [layout.root / name for name in ("data", "models", "results")]
    usage = examine(place, referred_digests(folders), grace_s=grace_s)
    held = f"{usage.num_shards} shards, {usage.num_blobs} checkpoints and adapters, {usage.num_bytes / 1e6:.1f} MB"
    checks = [Check("store", f"{place.folder.url}: {held}")]
    if usage.unused or usage.temporary:
        found = (
            f"{len(usage.unused)} entries ({usage.unused_bytes / 1e6:.1f} MB), {len(usage.temporary)} temporary files"
        )
        checks.append(Check("unused", f"{found}; python -m anosynth doctor --prune deletes them"))
    if usage.young:
        checks.append(Check("young", f"{usage.young} entries are new and not part of a sealed result yet; kept"))
    if usage.num_shards or usage.num_blobs:
        checks.append(_exclusive_create(place.folder))
    free = _free_bytes(place.folder.local)
    if free is not None:
        problem = "" if free >= LOW_DISK_BYTES else "free some space: a stage that meets a full disk stops"
        checks.append(Check("disk", f"{free / 1e9:.1f} GB free", problem))
    return checks, usage


def _package(name: str) -> Check:
    try:
        return Check(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, "not installed", "run: make setup")


def _torch_pair() -> Check:
    """`torch` and `torchvision` must have been built for each other; a wrong pair fails when it is imported."""
    try:
        import torch
        import torchvision
    except (ImportError, RuntimeError) as error:
        return Check(
            "torch pair", "", f"torch and torchvision do not fit ({error}); install the pair of constraints.txt"
        )
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    capability = torch.backends.cpu.get_cpu_capability()
    return Check(
        "torch pair", f"torch {torch.__version__} with torchvision {torchvision.__version__}, {capability}, {cuda}"
    )


def _prefect_pair() -> Check:
    try:
        prefect, fastapi = metadata.version("prefect"), metadata.version("fastapi")
    except metadata.PackageNotFoundError as error:
        return Check("prefect pair", f"{error.name} is not installed", "run: make setup")
    major, minor = (int(part) for part in fastapi.split(".")[:2])
    problem = "" if (major, minor) < FASTAPI_BELOW else "this Prefect needs fastapi<0.151; install from constraints.txt"
    return Check("prefect pair", f"prefect {prefect} with fastapi {fastapi}", problem)


def _exclusive_create(folder: Folder) -> Check:
    """Create one small entry twice: the second time must be refused, or two workers could commit one shard."""
    name = f"probe-{secrets.token_hex(8)}"
    try:
        first, second = folder.create(name, b"1"), folder.create(name, b"2")
        kept = folder.read(name)
    finally:
        folder.remove(name)
    if first and not second and kept == b"1":
        return Check("exclusive create", "yes")
    return Check("exclusive create", "no", "this store overwrites; let only one process at a time fill it")


def _free_bytes(path: Path | None) -> int | None:
    while path is not None and not path.exists():
        path = path.parent if path != path.parent else None
    return None if path is None else shutil.disk_usage(path).free
