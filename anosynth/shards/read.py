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
from anosynth.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from anosynth.shards.plan import fingerprint_of, job_from_json
from anosynth.shards.rows import Row, decode_row
from anosynth.shards.schema import REQUIRED_COLUMNS, SCHEMA, SCHEMA_VERSION, huggingface_metadata
from anosynth.shards.write import JOB_KEY, VERSION_KEY, digest_footer

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


class OpenShard:
    """One opened shard file; made by `ShardReader.open`.

    A page is compared with its checksum when it is first read through this object; later reads trust it.

    Attributes:
        where: path of the file, for messages.
        file: the Parquet file.
    """

    def __init__(self, folder: Folder, manifest: Manifest, shard: int) -> None:
        self._folder, self._info, self._remake = folder, manifest.shards[shard], manifest.remake
        self.where = folder.label(self._info.name)
        size = folder.size(self._info.name)
        if size is None:
            raise ShardError(f"{self.where} is missing; run: {self._remake}")
        if size != self._info.bytes:
            raise self.damaged(f"{size} bytes, manifest.json says {self._info.bytes}")
        with folder.open_file(self._info.name) as file:
            if digest_footer(file) != self._info.footer:
                raise self.damaged("its footer differs from manifest.json")
        self._trusted: set[tuple[int, str]] = set()
        try:
            self.file = self._parquet(checked=True)
            self._unchecked = self._parquet(checked=False)
        except (OSError, pa.ArrowException) as error:
            raise self.damaged(str(error)) from error
        version = (self.file.metadata.metadata or {}).get(VERSION_KEY, b"").decode()
        if version != str(SCHEMA_VERSION):
            raise ShardError(
                f"{self.where} has schema version {version!r}, but this program reads version {SCHEMA_VERSION}; "
                f"run: {self._remake}"
            )
        if self.file.metadata.num_rows != self._info.rows:
            raise self.damaged(f"{self.file.metadata.num_rows} rows, manifest.json says {self._info.rows}")

    @property
    def num_groups(self) -> int:
        """Number of row groups."""
        return int(self.file.num_row_groups)

    def damaged(self, why: str) -> ShardError:
        """Mark the file as not to be trusted; return the error that says how it is harmed and what mends it."""
        self._folder.distrust(self._info.name)
        return ShardError(f"{self.where} is damaged ({why}); run: {self._remake}")

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Read columns of one row group; ShardError if a page is not what was written."""
        wanted = {(group, name) for name in columns}
        file = self._unchecked if wanted <= self._trusted else self.file
        try:
            table = file.read_row_group(group, columns=list(columns))
            if file is self.file:
                table.validate(full=True)  # page headers carry no checksum
        except (OSError, pa.ArrowException) as error:
            raise self.damaged(str(error)) from error
        self._trusted |= wanted
        return table

    def check_digest(self) -> None:
        """Hash the whole file; ShardError if it is not what the manifest promises."""
        if self._folder.local is not None:
            found = digest_file(self._folder.local / self._info.name)
        else:
            found = digest_bytes(self._folder.read(self._info.name))
        if found != self._info.blake2:
            raise self.damaged("its hash differs from manifest.json")

    def _parquet(self, *, checked: bool) -> pq.ParquetFile:
        local = self._folder.local
        if local is not None:
            return pq.ParquetFile(local / self._info.name, memory_map=True, page_checksum_verification=checked)
        return pq.ParquetFile(self._folder.open_file(self._info.name), page_checksum_verification=checked)


class ShardReader:
    """The shards of one sealed pool, opened one at a time.

    Args:
        folder: local path or fsspec URL of the pool.

    Attributes:
        manifest: of the pool.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Folder.open(folder)
        self.manifest = read_manifest(folder)

    def __len__(self) -> int:
        """Number of shards."""
        return len(self.manifest.shards)

    def open(self, shard: int) -> OpenShard:
        """Open a shard.

        Raises:
            ShardError: if it is missing, unreadable or of another schema version, or if its size or row count differs
                from the manifest.
        """
        return OpenShard(self._folder, self.manifest, shard)

    def strangers(self) -> list[str]:
        """Paths of files in the folder that the manifest does not promise."""
        promised = {info.name for info in self.manifest.shards} | {MANIFEST_NAME}
        return [self._folder.label(name) for name in self._folder.names("") if name not in promised]


def read_samples(folder: str | Path, *, keep: Collection[str] | None = None) -> Iterator[Sample]:
    """Yield the samples of a sealed pool in order, one row group in memory at a time.

    Every page that is read is compared with its checksum, so that no damaged pixel gets through.

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
    for number in range(len(reader)):
        shard = reader.open(number)
        for group in range(shard.num_groups):
            if wanted is not None and wanted.isdisjoint(shard.read(group, ["sample_id"])["sample_id"].to_pylist()):
                continue
            for row in shard.read(group, SCHEMA.names).to_pylist():
                if wanted is None or row["sample_id"] in wanted:
                    yield _decode(shard, row)


def read_rows(folder: str | Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of a sealed pool as one table, rows in order; image bytes are touched only if asked for.

    Args:
        folder: local path or fsspec URL of the pool.
        columns: names of `schema.SCHEMA`.

    Raises:
        ShardError: as `read_samples`.
        ValueError: if a column does not exist.
    """
    unknown = [name for name in columns if name not in SCHEMA.names]
    if unknown:
        raise ValueError(f"no such columns: {', '.join(unknown)}; there are {', '.join(SCHEMA.names)}")
    reader = ShardReader(folder)
    shards = (reader.open(number) for number in range(len(reader)))
    tables = [shard.read(group, columns) for shard in shards for group in range(shard.num_groups)]
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
    problems = [f"{path} is not in manifest.json" for path in reader.strangers()]
    seen: set[str] = set()
    for number in range(len(reader)):
        try:
            problems += _verify_shard(reader.open(number), reader.manifest, reader.manifest.job(number), seen)
        except AnosynthError as error:
            problems.append(str(error))
    return problems


def _decode(shard: OpenShard, row: Row) -> Sample:
    try:
        return decode_row(row, where=shard.where)
    except (DataError, ValueError) as error:
        raise shard.damaged(str(error)) from error


def _verify_shard(shard: OpenShard, manifest: Manifest, planned: ShardJob, seen: set[str]) -> list[str]:
    """Problems of one shard; adds its ids to `seen`."""
    shard.check_digest()
    problems = []
    if fingerprint_of(planned) != planned.fingerprint:
        problems.append(f"{shard.where}: its fingerprint is not that of its job; run: {manifest.remake}")
    if _footer_job(shard) != planned:
        problems.append(f"{shard.where}: the job in its footer is not the one in manifest.json; run: {manifest.remake}")
    if not shard.file.schema_arrow.equals(SCHEMA):
        problems.append(f"{shard.where}: its columns are not those of schema version {SCHEMA_VERSION}")
        return problems
    rows = (row for group in range(shard.num_groups) for row in shard.read(group, SCHEMA.names).to_pylist())
    for row, spec in zip(rows, planned.specs(), strict=True):
        name = row["sample_id"]
        empty = [column for column in REQUIRED_COLUMNS if row[column] is None]
        if empty:
            problems.append(f"{shard.where}: {name}: {', '.join(empty)} must not be null; run: {manifest.remake}")
            continue
        if name in seen:
            problems.append(f"{shard.where}: {name} stands twice")
        seen.add(name)
        try:
            found = _contradictions(row, _decode(shard, row), spec, planned)
        except ShardError as error:
            problems.append(str(error))
            continue
        problems += [f"{shard.where}: {name}: {text}" for text in found]
    return problems


def _footer_job(shard: OpenShard) -> ShardJob:
    try:
        return job_from_json(json.loads(shard.file.metadata.metadata[JOB_KEY]))
    except (KeyError, ValueError) as error:
        raise shard.damaged(f"its footer has no job: {error}") from error


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
