"""Say what a file or folder of the project is and what it holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from anosynth.errors import DataError, ShardError
from anosynth.imaging import decode_image, decode_mask
from anosynth.looking.sheet import Tile, evenly
from anosynth.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from anosynth.shards.read import read_verdicts
from anosynth.shards.write import FINGERPRINT_KEY, JOB_KEY, MADE_WITH_KEY
from anosynth.sources.index import VERSION_KEY as INDEX_KEY
from anosynth.sources.index import IndexImages, read_records
from anosynth.sources.lock import read_lock

LOCK_NAME = "shots.lock.json"
ADAPTER_NAME = "adapter.json"

Kind = Literal["pool", "shard", "verdicts", "index", "lock", "adapter"]


def kind_of(path: Path) -> tuple[Kind, Path]:
    """Tell what lies at a path; a folder stands for the manifest, lock or adapter in it.

    Raises:
        DataError: if nothing is there or it is nothing of this project.
    """
    if path.is_dir():
        names: dict[str, Kind] = {MANIFEST_NAME: "pool", LOCK_NAME: "lock", ADAPTER_NAME: "adapter"}
        for name, kind in names.items():
            if (path / name).exists():
                return kind, path / name
        raise DataError(f"{path} holds none of {', '.join(names)}; name a pool, a lock, an adapter or a Parquet file")
    if not path.exists():
        raise DataError(f"{path} does not exist; name a pool, a lock, an adapter or a Parquet file")
    if path.name == MANIFEST_NAME:
        return "pool", path
    if path.name == LOCK_NAME:
        return "lock", path
    if path.name == ADAPTER_NAME or path.suffix == ".safetensors":
        return "adapter", path.with_name(ADAPTER_NAME)
    schema = _parquet_schema(path)
    about = schema.metadata or {}
    if JOB_KEY in about:
        return "shard", path
    if INDEX_KEY in about:
        return "index", path
    if {"sample_id", "accepted", "reason"} <= set(schema.names):
        return "verdicts", path
    raise DataError(f"{path} is a Parquet file, but no shard, index or verdict table of this project")


def describe(path: Path) -> list[str]:
    """Return a few lines on what a path holds.

    Raises:
        AnosynthError: if it is nothing of this project, or damaged.
    """
    kind, file = kind_of(path)
    match kind:
        case "pool":
            return _describe_pool(read_manifest(file.parent), file.parent)
        case "shard":
            return _describe_shard(file)
        case "verdicts":
            reasons = Counter(verdict.reason or "kept" for verdict in read_verdicts(file).values())
            return [f"verdicts {file}", *_counted(reasons)]
        case "index":
            return _describe_index(file)
        case "lock":
            return _describe_lock(file)
        case "adapter":
            return _describe_adapter(file)


def tiles(path: Path, *, at_most: int) -> list[Tile]:
    """Images of a pool, shard or index for a contact sheet, evenly spaced.

    Raises:
        DataError: if the path holds no images.
    """
    kind, file = kind_of(path)
    if kind == "pool":
        manifest = read_manifest(file.parent)
        return list(_shard_tiles([file.parent / info.name for info in manifest.shards], at_most))
    if kind == "shard":
        return list(_shard_tiles([file], at_most))
    if kind == "index":
        images = IndexImages(file)
        records = [images.records[at] for at in evenly(len(images.records), at_most=at_most)]
        return [
            Tile(
                images.image(record),
                images.mask(record) if record.defect and not record.is_image_level else None,
                f"{record.role} {record.defect or 'normal'} {Path(record.path).name}",
            )
            for record in records
        ]
    raise DataError(f"{path} is a {kind} and holds no images; a contact sheet is made of a pool, a shard or an index")


def _shard_tiles(paths: Sequence[Path], at_most: int) -> Iterator[Tile]:
    starts, total = [], 0
    for path in paths:
        starts.append(total)
        total += pq.read_metadata(path).num_rows
    wanted = evenly(total, at_most=at_most)
    for path, start in zip(paths, starts, strict=True):
        file = pq.ParquetFile(path, page_checksum_verification=True)
        for group in range(file.num_row_groups):
            rows = range(start, start + file.metadata.row_group(group).num_rows)
            if any(at in rows for at in wanted):
                table = _read_group(path, file, group)
                for at in (at for at in wanted if at in rows):
                    yield _tile(table.slice(at - start, 1).to_pylist()[0])
            start = rows.stop


def _read_group(path: Path, file: pq.ParquetFile, group: int) -> pa.Table:
    try:
        return file.read_row_group(group, columns=["sample_id", "mask_area", "image", "mask"])
    except (OSError, pa.ArrowException) as error:
        raise ShardError(f"{path} is damaged ({error}); run: python -m anosynth verify {path.parent}") from error


def _tile(row: dict[str, dict[str, bytes] | None]) -> Tile:
    name, image, mask = str(row["sample_id"]), row["image"], row["mask"]
    assert image is not None
    area = "" if mask is None else f"  {100 * float(str(row['mask_area'])):.1f} %"
    return Tile(
        decode_image(image["bytes"], name=name).image,
        None if mask is None else decode_mask(mask["bytes"], name=name),
        name.rsplit("/", 1)[-1] + area,
    )


def _describe_pool(manifest: Manifest, folder: Path) -> list[str]:
    lines = [
        f"pool {folder}",
        f"  {manifest.rows} rows in {len(manifest.shards)} shards, "
        f"{sum(info.bytes for info in manifest.shards) / 1e6:.1f} MB",
        f"  made by {manifest.stage} (algorithm {manifest.algorithm}, profile {manifest.profile}), "
        f"{manifest.created_by}, {manifest.device_class}",
        f"  category {manifest.category}, defect {manifest.defect or '-'}, method {manifest.method}, "
        f"seed {manifest.seed}, batches of {manifest.batch_size}",
        f"  licence {manifest.licence}",
        f"  plan {manifest.plan}",
    ]
    lines += [f"  upstream {name}: {digest}" for name, digest in sorted(manifest.upstream.items())]
    lines += [f"  {name}: {json.dumps(value)}" for name, value in sorted(manifest.shape.items())]
    lines += [f"  {info.name}: {info.rows} rows, {info.bytes / 1e6:.1f} MB, {info.blake2}" for info in manifest.shards]
    return [*lines, f"  remade by: {manifest.remake}"]


def _describe_shard(path: Path) -> list[str]:
    metadata = pq.read_metadata(path)
    about = metadata.metadata
    job = json.loads(about[JOB_KEY])
    made_with = json.loads(about[MADE_WITH_KEY])
    return [
        f"shard {path}",
        f"  {metadata.num_rows} rows in {metadata.num_row_groups} row groups, {path.stat().st_size / 1e6:.1f} MB",
        f"  samples [{job['start']}, {job['stop']}) of {job['pool']}/{job['category']}/{job['defect'] or '-'}/"
        f"{job['method']}, shard {job['shard']}, seed {job['seed']}",
        f"  fingerprint {about[FINGERPRINT_KEY].decode()}",
        f"  plan {job['plan']}",
        f"  made by {job['stage']}, algorithm {job['algorithm']}",
        f"  made with {', '.join(f'{name} {version}' for name, version in sorted(made_with.items()))}",
        *(f"  upstream {name}: {digest}" for name, digest in sorted(job["upstream"].items())),
        *(f"  {name}: {json.dumps(value)}" for name, value in sorted({**job["compute"], **job["shape"]}.items())),
    ]


def _describe_index(path: Path) -> list[str]:
    records = read_records(path)
    counts = Counter(f"{record.role}, {record.defect or 'normal'}" for record in records)
    sizes = Counter(f"{record.width} x {record.height} px" for record in records)
    licences = Counter(record.licence for record in records)
    groups = len({record.group for record in records})
    return [f"index {path}: {len(records)} images in {groups} groups", *_counted(counts), *_counted(sizes | licences)]


def _describe_lock(path: Path) -> list[str]:
    lock = read_lock(path)
    lines = [f"lock {path}: {lock.category}, chosen by {lock.method}, seed {lock.seed}"]
    for name, shots in (("normal", lock.normal), *sorted(lock.anomalous.items())):
        lines.append(f"  {len(shots)} {name}")
        lines += [f"    {shot.rank}: {shot.record.path}" for shot in shots]
    roles = Counter[str](one.role for one in lock.sealed)
    return [*lines, "  sealed:", *_counted(roles)]


def _describe_adapter(path: Path) -> list[str]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); train the adapter again") from error
    size = sum(file.stat().st_size for file in path.parent.glob("*.safetensors"))
    lines = [f"adapter {path.parent}: {size / 1e6:.2f} MB of weights"]
    return [*lines, *(f"  {name}: {json.dumps(value)}" for name, value in sorted(facts.items()))]


def _counted(counts: Counter[str]) -> list[str]:
    return [f"  {count} {name}" for name, count in sorted(counts.items())]


def _parquet_schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} is neither a manifest, a lock, an adapter nor a readable Parquet file ({error})"
        ) from error
