"""A sealed pool: its shards under stable names and, written last, the manifest that promises what they hold."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anosynth import __version__
from anosynth.errors import ShardError
from anosynth.licences import most_restrictive
from anosynth.samples import Pool, ShardJob
from anosynth.shards.folder import Folder, room_for
from anosynth.shards.plan import stage_key
from anosynth.shards.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from anosynth.shards.store import ShardStore

MANIFEST_NAME = "manifest.json"
DEFAULT_PROFILE = "default"


@dataclass(frozen=True)
class ShardInfo:
    """One shard of a sealed pool.

    Attributes:
        name: file name in the folder, for example "pairs-00003.parquet".
        rows: samples in it.
        bytes: size of the file.
        blake2: digest of the file (`fingerprint.digest_file`).
        footer: digest of its footer (`write.digest_footer`), cheap enough to check whenever it is opened.
        fingerprint: of the job that made it.
    """

    name: str
    rows: int
    bytes: int
    blake2: str
    footer: str
    fingerprint: str


@dataclass(frozen=True)
class Manifest:
    """What a sealed pool holds and where it came from. Nothing in it depends on the time or the machine's name.

    Attributes:
        schema_version: of the rows, see `schema.SCHEMA_VERSION`.
        stage, pool, category, defect, method, seed, batch_size: as in `ShardJob`.
        rows: samples in the pool, the sum over its shards.
        shards: in order of their samples.
        plan: digest of everything but the sample ranges.
        shape, compute, upstream, algorithm: what that digest was made of, as in `ShardJob`.
        profile: name of the generation profile, the entry "profile" of `shape`, or "default".
        licence: the most restrictive licence of all rows.
        device_class: the kind of machine that computed the pixels.
        created_by: name and version of this program.
    """

    schema_version: int
    stage: str
    pool: Pool
    category: str
    defect: str | None
    method: str
    seed: int
    batch_size: int
    rows: int
    shards: tuple[ShardInfo, ...]
    plan: str
    shape: Mapping[str, object]
    compute: Mapping[str, object]
    upstream: Mapping[str, str]
    algorithm: int
    profile: str
    licence: str
    device_class: str
    created_by: str

    @property
    def remake(self) -> str:
        """The command that makes the pool again."""
        return f"dvc repro {stage_key(self.stage, category=self.category, defect=self.defect, method=self.method)}"

    def job(self, shard: int) -> ShardJob:
        """The job of one shard, rebuilt from the manifest alone."""
        start = sum(info.rows for info in self.shards[:shard])
        return ShardJob(
            pool=self.pool,
            category=self.category,
            defect=self.defect,
            method=self.method,
            shard=shard,
            start=start,
            stop=start + self.shards[shard].rows,
            batch_size=self.batch_size,
            seed=self.seed,
            stage=self.stage,
            fingerprint=self.shards[shard].fingerprint,
            plan=self.plan,
            shape=self.shape,
            compute=self.compute,
            upstream=self.upstream,
            algorithm=self.algorithm,
        )


def seal(jobs: Sequence[ShardJob], store: ShardStore, folder: str | Path) -> Manifest:
    """Lay out a finished pool: link its shards from the store in order, then write manifest.json.

    Files are hard links where store and folder share a file system, copies elsewhere. What an earlier run left in the
    folder is removed first, manifest before shards, so a folder with a manifest is always whole. No existing file is
    opened for writing.

    Args:
        jobs: all jobs of one plan, in order.
        store: holds every shard.
        folder: local path or fsspec URL of the pool's folder; it need not exist.

    Returns:
        The manifest as written.

    Raises:
        ShardError: if a shard is missing in the store or damaged, if shards were computed on different kinds of
            machine, or if the disk is full.
        ValueError: if `jobs` is empty or not one plan in order.
    """
    _check_one_plan(jobs)
    first = jobs[0]
    key = stage_key(first.stage, category=first.category, defect=first.defect, method=first.method)
    target = Folder.open(folder)
    records = [store.record(job) for job in jobs]
    classes = {record.device_class for record in records}
    if len(classes) > 1:
        raise ShardError(
            f"{target.url}: the shards of {key} were computed on different kinds of machine "
            f"({', '.join(sorted(classes))}), whose bytes need not agree; give each kind its own store "
            "(--store, ANOSYNTH_STORE) and run the stage again"
        )
    infos = []
    with room_for(f"the pool of {key}", place=target.url):
        _clear(target, first.pool)
        for job, record in zip(jobs, records, strict=True):
            info = record.info(job)
            store.lay_out(job, target, info.name)
            infos.append(info)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            stage=first.stage,
            pool=first.pool,
            category=first.category,
            defect=first.defect,
            method=first.method,
            seed=first.seed,
            batch_size=first.batch_size,
            rows=sum(info.rows for info in infos),
            shards=tuple(infos),
            plan=first.plan,
            shape=first.shape,
            compute=first.compute,
            upstream=first.upstream,
            algorithm=first.algorithm,
            profile=str(first.shape.get("profile", DEFAULT_PROFILE)),
            licence=most_restrictive(licence for record in records for licence in record.licences),
            device_class=classes.pop(),
            created_by=f"anosynth {__version__}",
        )
        target.replace(MANIFEST_NAME, manifest_bytes(manifest))
    return manifest


def manifest_bytes(manifest: Manifest) -> bytes:
    """The text of manifest.json: sorted keys, two spaces of indentation, UTF-8."""
    return (json.dumps(asdict(manifest), indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check manifest.json of a sealed pool.

    Raises:
        ShardError: if it is missing, unreadable, of another schema version, or contradicts itself; the text names the
            command that remakes the pool.
    """
    place = Folder.open(folder)
    label = place.label(MANIFEST_NAME)
    remake = remake_command(folder)
    try:
        value = json.loads(place.read(MANIFEST_NAME))
    except FileNotFoundError:
        raise ShardError(f"{label} is missing, so the pool is not finished; run: {remake}") from None
    except (OSError, ValueError) as error:
        raise ShardError(f"{label} is unreadable ({error}); run: {remake}") from error
    if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION:
        found = value.get("schema_version") if isinstance(value, dict) else type(value).__name__
        raise ShardError(
            f"{label} has schema version {found!r}, but this program reads version {SCHEMA_VERSION}; run: {remake}"
        )
    try:
        shards = tuple(ShardInfo(**info) for info in value.pop("shards"))
        manifest = Manifest(shards=shards, **value)
    except (TypeError, KeyError) as error:
        raise ShardError(f"{label} has wrong fields ({error}); run: {remake}") from error
    if manifest.rows != sum(info.rows for info in shards) or not shards:
        raise ShardError(f"{label} promises {manifest.rows} rows, but its shards do not add up to it; run: {remake}")
    return manifest


def remake_command(folder: str | Path) -> str:
    """The command that makes a pool again, guessed from its path when there is no manifest to ask."""
    parts = Path(os.path.abspath(str(folder))).parts  # noqa: PTH100 - does not resolve links
    if len(parts) >= 4 and parts[-4] == "pairs":
        category, defect, method = parts[-3:]
        return "dvc repro " + stage_key("generate_pairs", category=category, defect=defect, method=method)
    if len(parts) >= 2 and parts[-2] == "normals":
        return f"dvc repro generate_normals@{parts[-1]}"
    return "dvc repro"


def _check_one_plan(jobs: Sequence[ShardJob]) -> None:
    if not jobs:
        raise ValueError("a pool is sealed from at least one job")
    at = 0
    for shard, job in enumerate(jobs):
        if job.shard != shard or job.start != at or job.plan != jobs[0].plan:
            raise ValueError(
                f"job {shard} is shard {job.shard} from sample {job.start}; jobs must be one plan in order"
            )
        at = job.stop


def _clear(target: Folder, pool: Pool) -> None:
    target.remove(MANIFEST_NAME)
    for name in target.names(""):
        if name.startswith(f"{pool}-") and name.endswith(".parquet"):
            target.remove(name)
