"""Prove a project's data: locks against indexes, pools against manifests, provenance against the sealed test images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anosynth.errors import AnosynthError, ShardError
from anosynth.layout import Layout
from anosynth.params import Params
from anosynth.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from anosynth.shards.read import read_rows, read_verdicts, verify_folder
from anosynth.sources.lock import ShotsLock, open_shots


@dataclass(frozen=True)
class Finding:
    """What was found about one thing.

    Attributes:
        what: path of the pool, lock or table.
        summary: what it holds, if it is whole.
        problems: one sentence each; empty if it is whole.
    """

    what: str
    summary: str
    problems: tuple[str, ...]

    def lines(self) -> list[str]:
        """One line if all is well, else one line per problem."""
        if not self.problems:
            return [f"ok       {self.what}: {self.summary}"]
        return [f"PROBLEM  {problem}" for problem in self.problems]


def verify_project(layout: Layout, params: Params) -> Iterator[Finding]:
    """Prove every lock, pool and verdict table that the grid of params.yaml names.

    A pool must be whole (`shards.read.verify_folder`), be the one its path says, and name no val or test image among
    what its samples were made from. A verdict table, once there, must judge every sample of its category.
    """
    for category in params.grid.categories:
        lock_path = layout.shots(category)
        lock, finding = _verify_lock(lock_path, layout.index(category))
        yield finding
        pools: list[tuple[Path, str | None, str | None]] = [(layout.normals(category), None, None)]
        pools += [
            (layout.pairs(category, key.defect, key.method), key.defect, key.method)
            for key in params.grid.pair_keys(category)
        ]
        ids: set[str] = set()
        all_read = True
        for folder, defect, method in pools:
            finding = verify_pool(folder)
            if finding.problems:
                all_read = False
            else:
                manifest = read_manifest(folder)
                named = (manifest.category, manifest.defect, manifest.method if method is not None else None)
                problems = [] if named == (category, defect, method) else [_misplaced(folder, manifest)]
                if lock is not None:
                    problems += _sealed_parents(folder, manifest, lock)
                ids.update(read_rows(folder, ["sample_id"])["sample_id"].to_pylist())
                finding = Finding(finding.what, finding.summary, tuple(problems))
            yield finding
        if layout.verdicts(category).exists():
            yield _verify_verdicts(layout.verdicts(category), ids, all_read=all_read)


def verify_folders(folder: Path) -> Iterator[Finding]:
    """Prove the pool in a folder, or all pools below it.

    Raises:
        ShardError: if there is no shard and no manifest in or below the folder.
    """
    found = {path.parent for name in (MANIFEST_NAME, "*.parquet") for path in folder.rglob(name)}
    pools = sorted(path for path in found if (path / MANIFEST_NAME).exists() or _has_shards(path))
    if not pools:
        raise ShardError(f"{folder} holds no pool ({MANIFEST_NAME} and shards); name a folder below data/")
    for pool in pools:
        yield verify_pool(pool)


def verify_pool(folder: Path) -> Finding:
    """Prove one sealed pool; see `shards.read.verify_folder`."""
    problems = verify_folder(folder)
    if problems:
        return Finding(str(folder), "", tuple(problems))
    manifest = read_manifest(folder)
    size = sum(info.bytes for info in manifest.shards)
    summary = f"{manifest.rows} rows in {len(manifest.shards)} shards, {size / 1e6:.1f} MB, {manifest.licence}"
    return Finding(str(folder), summary, ())


def _verify_lock(lock_path: Path, index_path: Path) -> tuple[ShotsLock | None, Finding]:
    try:
        lock = open_shots(lock_path, index_path).lock
    except AnosynthError as error:
        return None, Finding(str(lock_path), "", (str(error),))
    anomalous = sum(len(shots) for shots in lock.anomalous.values())
    summary = f"{len(lock.normal)} normal and {anomalous} anomalous shots, none of {len(lock.sealed)} sealed images"
    return lock, Finding(str(lock_path), summary, ())


def _sealed_parents(folder: Path, manifest: Manifest, lock: ShotsLock) -> list[str]:
    """Samples that were made from a val or test image."""
    sealed = {one.sha256: one for one in lock.sealed}
    table = read_rows(folder, ["sample_id", "parent_id", "shot_ids"])
    problems = []
    for row in table.to_pylist():
        for source in (row["parent_id"], *row["shot_ids"]):
            if source in sealed:
                one = sealed[source]
                problems.append(
                    f"{folder}: {row['sample_id']} was made from {one.path}, which is a {one.role} image; "
                    f"run: {manifest.remake}"
                )
    return problems


def _misplaced(folder: Path, manifest: Manifest) -> str:
    return f"{folder} holds another pool, that of {manifest.remake.removeprefix('dvc repro ')}; run: {manifest.remake}"


def _verify_verdicts(path: Path, ids: set[str], *, all_read: bool) -> Finding:
    """Compare verdicts with the samples of a category; verdicts on unknown samples count if all pools could be read."""
    try:
        verdicts = read_verdicts(path)
    except AnosynthError as error:
        return Finding(str(path), "", (str(error),))
    remake = f"run: dvc repro screen@{path.stem}"
    problems = []
    if missing := sorted(ids - verdicts.keys()):
        problems.append(f"{path}: {len(missing)} samples have no verdict, the first is {missing[0]}; {remake}")
    if all_read and (strange := sorted(verdicts.keys() - ids)):
        problems.append(f"{path}: {len(strange)} verdicts are on no sample, the first on {strange[0]}; {remake}")
    kept = sum(verdict.keep for verdict in verdicts.values())
    return Finding(str(path), f"{kept} of {len(verdicts)} samples kept", tuple(problems))


def _has_shards(folder: Path) -> bool:
    return any(folder.glob("normals-*.parquet")) or any(folder.glob("pairs-*.parquet"))
