"""Read sealed pools and verdicts: samples, metadata columns, and the proof that a folder keeps its promises."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anosynth.errors import AnosynthError, DataError, ShardError
from anosynth.fingerprint import digest_bytes, digest_file
from anosynth.imaging import decode_image
from anosynth.samples import Sample, SampleSpec, Verdict
from anosynth.shards.folder import Folder, room_for
from anosynth.shards.manifest import ShardInfo, read_manifest
from anosynth.shards.plan import fingerprint_of, job_from_json
from anosynth.shards.rows import Row, decode_row
from anosynth.shards.schema import IMAGE_COLUMNS, REQUIRED_COLUMNS, SCHEMA, SCHEMA_VERSION, huggingface_metadata
from anosynth.shards.write import JOB_KEY, VERSION_KEY

if TYPE_CHECKING:
    from anosynth.samples import ShardJob

VERDICT_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string()),
        pa.field("accepted", pa.bool_()),
        pa.field("reason", pa.string()),
        pa.field(
            "measures",
            pa.list_(pa.struct([pa.field("name", pa.string()), pa.field("value", pa.float64())])),
        ),
    ]
)


class ShardReader:
    """The shards of one sealed pool, opened one at a time and checked when opened.

    Args:
        folder: local path or fsspec URL of the pool.

    Attributes:
        manifest: of the pool.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Folder.open(folder)
        self.manifest = read_manifest(folder)

    def where(self, shard: int) -> str:
        """Path of a shard, for messages."""
        return self._folder.label(self.manifest.shards[shard].name)

    def damaged(self, shard: int, why: str) -> ShardError:
        """The error that says which shard is harmed, how, and what remakes it."""
        return ShardError(f"{self.where(shard)} is damaged ({why}); run: {self.manifest.remake}")

    def open(self, shard: int, *, check_bytes: bool) -> pq.ParquetFile:
        """Open a shard's Parquet file.

        Args:
            shard: position in the manifest.
            check_bytes: hash the whole file against the manifest first; else only its size and row count are compared.

        Raises:
            ShardError: if it is missing, differs from the manifest, or has another schema version.
        """
        info = self.manifest.shards[shard]
        size = self._folder.size(info.name)
        if size is None:
            raise ShardError(f"{self.where(shard)} is missing; run: {self.manifest.remake}")
        if size != info.bytes:
            raise self.damaged(shard, f"{size} bytes, manifest.json says {info.bytes}")
        if check_bytes and self._digest(info) != info.blake2:
            raise self.damaged(shard, "its hash differs from manifest.json")
        try:
            local = self._folder.local
            if local is not None:
                file = pq.ParquetFile(local / info.name, memory_map=True)
            else:
                file = pq.ParquetFile(self._folder.open_file(info.name))
        except (OSError, pa.ArrowException) as error:
            raise self.damaged(shard, str(error)) from error
        version = (file.metadata.metadata or {}).get(VERSION_KEY, b"").decode()
        if version != str(SCHEMA_VERSION):
            raise ShardError(
                f"{self.where(shard)} has schema version {version!r}, but this program reads version "
                f"{SCHEMA_VERSION}; run: {self.manifest.remake}"
            )
        if file.metadata.num_rows != info.rows:
            raise self.damaged(shard, f"{file.metadata.num_rows} rows, manifest.json says {info.rows}")
        return file

    def read(self, shard: int, file: pq.ParquetFile, group: int, columns: Sequence[str]) -> pa.Table:
        """Read columns of one row group; a group that cannot be read is reported as damage."""
        try:
            return file.read_row_group(group, columns=list(columns))
        except (OSError, pa.ArrowException) as error:
            raise self.damaged(shard, str(error)) from error

    def _digest(self, info: ShardInfo) -> str:
        if self._folder.local is not None:
            return digest_file(self._folder.local / info.name)
        return digest_bytes(self._folder.read(info.name))


def read_samples(folder: str | Path, *, keep: Collection[str] | None = None) -> Iterator[Sample]:
    """Yield the samples of a sealed pool in order, one row group in memory at a time.

    Every shard is hashed before its first sample is yielded, so that no damaged pixel gets through.

    Args:
        folder: local path or fsspec URL of the pool.
        keep: sample ids to yield, for example those that screening accepted; None yields all. Ids of other pools are
            allowed. Row groups without a wanted id are not read.

    Raises:
        ShardError: naming the shard and the command that remakes it, if the pool is unfinished, damaged or of another
            version.
    """
    reader = ShardReader(folder)
    wanted = None if keep is None else frozenset(keep)
    for shard in range(len(reader.manifest.shards)):
        file = reader.open(shard, check_bytes=True)
        for group in range(file.num_row_groups):
            if wanted is not None:
                ids = reader.read(shard, file, group, ["sample_id"])["sample_id"].to_pylist()
                if wanted.isdisjoint(ids):
                    continue
            for row in reader.read(shard, file, group, SCHEMA.names).to_pylist():
                if wanted is None or row["sample_id"] in wanted:
                    yield _decode(reader, shard, row)


def read_rows(folder: str | Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of a sealed pool as one table, rows in order; image bytes are touched only if asked for.

    Args:
        folder: local path or fsspec URL of the pool.
        columns: names of `schema.SCHEMA`.

    Raises:
        ShardError: as `read_samples`; files are compared by size and row count, hashed only if images are read.
        ValueError: if a column does not exist.
    """
    unknown = [name for name in columns if name not in SCHEMA.names]
    if unknown:
        raise ValueError(f"no such columns: {', '.join(unknown)}; there are {', '.join(SCHEMA.names)}")
    reader = ShardReader(folder)
    has_images = any(name in IMAGE_COLUMNS for name in columns)
    tables = []
    for shard in range(len(reader.manifest.shards)):
        file = reader.open(shard, check_bytes=has_images)
        tables += [reader.read(shard, file, group, columns) for group in range(file.num_row_groups)]
    return pa.concat_tables(tables).unify_dictionaries().select(list(columns))


def write_verdicts(path: Path, verdicts: Iterable[Verdict]) -> None:
    """Write what screening decided, one row per sample, in the order given.

    Args:
        path: Parquet file to create or replace at once.
        verdicts: unique sample ids.

    Raises:
        DataError: if a sample has two verdicts.
        ShardError: if the disk is full.
    """
    rows: dict[str, dict[str, object]] = {}
    for verdict in verdicts:
        if verdict.sample_id in rows:
            raise DataError(f"{path}: {verdict.sample_id} has two verdicts; every sample is judged once")
        measures = [{"name": name, "value": float(value)} for name, value in sorted(verdict.measures.items())]
        rows[verdict.sample_id] = {
            "sample_id": verdict.sample_id,
            "accepted": verdict.keep,
            "reason": verdict.reason,
            "measures": measures,
        }
    about = {VERSION_KEY: str(SCHEMA_VERSION).encode(), b"huggingface": huggingface_metadata(VERDICT_SCHEMA)}
    table = pa.Table.from_pylist(list(rows.values()), schema=VERDICT_SCHEMA.with_metadata(about))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    with room_for("the verdicts", place=str(path)):
        Folder.open(path.parent).replace(path.name, sink.getvalue().to_pybytes())


def read_verdicts(path: Path) -> dict[str, Verdict]:
    """Read what `write_verdicts` wrote, by sample id, in the same order.

    Raises:
        ShardError: if the file is missing, unreadable or of another version.
    """
    remake = f"dvc repro screen@{path.stem}"
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise ShardError(f"{path} is missing; run: {remake}") from None
    except (OSError, pa.ArrowException) as error:
        raise ShardError(f"{path} is damaged ({error}); run: {remake}") from error
    version = (table.schema.metadata or {}).get(VERSION_KEY, b"").decode()
    if version != str(SCHEMA_VERSION):
        raise ShardError(
            f"{path} has schema version {version!r}, but this program reads version {SCHEMA_VERSION}; run: {remake}"
        )
    verdicts = {}
    for row in table.to_pylist():
        measures = {item["name"]: item["value"] for item in row["measures"]}
        verdicts[row["sample_id"]] = Verdict(row["sample_id"], row["reason"], measures)
    return verdicts


def verify_folder(folder: str | Path) -> list[str]:
    """Prove a sealed pool: manifest, files, hashes, footers, ids, seeds, pixels, masks, licences.

    Returns:
        One sentence per problem; empty if the pool is what its manifest promises. Every image is decoded.
    """
    try:
        reader = ShardReader(folder)
    except AnosynthError as error:
        return [str(error)]
    problems = _strangers(reader, folder)
    seen: set[str] = set()
    for shard in range(len(reader.manifest.shards)):
        try:
            problems += _verify_shard(reader, shard, seen)
        except AnosynthError as error:
            problems.append(str(error))
    return problems


def _decode(reader: ShardReader, shard: int, row: Row) -> Sample:
    try:
        return decode_row(row, where=reader.where(shard))
    except (DataError, ValueError) as error:
        raise reader.damaged(shard, str(error)) from error


def _strangers(reader: ShardReader, folder: str | Path) -> list[str]:
    promised = {info.name for info in reader.manifest.shards} | {"manifest.json"}
    place = Folder.open(folder)
    return [f"{place.label(name)} is not in manifest.json" for name in place.names("") if name not in promised]


def _verify_shard(reader: ShardReader, shard: int, seen: set[str]) -> list[str]:
    """Problems of one shard; adds its ids to `seen`."""
    manifest, where = reader.manifest, reader.where(shard)
    file = reader.open(shard, check_bytes=True)
    planned = manifest.job(shard)
    problems = []
    if fingerprint_of(planned) != planned.fingerprint:
        problems.append(f"{where}: its fingerprint is not that of its job; run: {manifest.remake}")
    if _footer_job(reader, shard, file) != planned:
        problems.append(f"{where}: the job in its footer is not the one in manifest.json; run: {manifest.remake}")
    if not file.schema_arrow.equals(SCHEMA):
        problems.append(f"{where}: its columns are not those of schema version {SCHEMA_VERSION}")
        return problems
    specs = iter(planned.specs())
    for group in range(file.num_row_groups):
        for row in reader.read(shard, file, group, SCHEMA.names).to_pylist():
            name = row["sample_id"]
            empty = [column for column in REQUIRED_COLUMNS if row[column] is None]
            if empty:
                problems.append(f"{where}: {name}: {', '.join(empty)} must not be null; run: {manifest.remake}")
                next(specs)
                continue
            if name in seen:
                problems.append(f"{where}: {name} stands twice")
            seen.add(name)
            try:
                sample = _decode(reader, shard, row)
            except ShardError as error:
                problems.append(str(error))
                next(specs)
                continue
            problems += [f"{where}: {name}: {text}" for text in _contradictions(row, sample, next(specs), planned)]
    return problems


def _footer_job(reader: ShardReader, shard: int, file: pq.ParquetFile) -> ShardJob:
    try:
        return job_from_json(json.loads(file.metadata.metadata[JOB_KEY]))
    except (KeyError, ValueError) as error:
        raise reader.damaged(shard, f"its footer has no job: {error}") from error


def _contradictions(row: Row, sample: Sample, spec: SampleSpec, job: ShardJob) -> list[str]:
    found = []
    if sample.spec != spec:
        found.append(f"the plan says {spec.sample_id} with seed {spec.seed}, found seed {sample.spec.seed}")
    if row["label"] != int(job.pool == "pairs"):
        found.append(f"label is {row['label']} in the pool {job.pool}")
    if (row["height"], row["width"]) != sample.image.shape[:2]:
        found.append(f"size is {row['height']} x {row['width']}, its image is {list(sample.image.shape[:2])}")
    if abs(float(str(row["mask_area"])) - sample.mask_area) > 1e-6:
        found.append(f"mask_area is {row['mask_area']}, its mask covers {sample.mask_area:.6f}")
    if sample.mask is not None:
        stored = decode_image(row["mask"]["bytes"], name=spec.sample_id).image[:, :, 0]  # type: ignore[index]
        if not np.array_equal(stored, sample.mask):
            found.append(f"mask values are {np.unique(stored)[:4].tolist()}, they must be 0 and 255")
    if row["plan"] != job.plan:
        found.append("its plan is another one")
    if not sample.provenance.licence:
        found.append("it has no licence")
    return found
