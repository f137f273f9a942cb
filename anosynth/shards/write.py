"""Rows into one Parquet file: small row groups, image bytes as they are, metadata columns compressed.

Image and mask columns are already compressed, so they are written without compression, dictionary and statistics;
row groups are small (64 rows, at most 16 MiB) because a byte column is read by whole row groups. Every page carries its
checksum, so that a reader of one row group notices harm without reading the file.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from anosynth import __version__
from anosynth.fingerprint import DIGEST_BYTES, canonical_json, digest_bytes
from anosynth.samples import ShardJob
from anosynth.shards.plan import job_to_json
from anosynth.shards.rows import Row
from anosynth.shards.schema import (
    IMAGE_COLUMNS,
    METADATA_COLUMNS,
    ROW_GROUP_BYTES,
    ROW_GROUP_ROWS,
    SCHEMA,
    SCHEMA_VERSION,
    huggingface_metadata,
)

FINGERPRINT_KEY = b"anosynth.fingerprint"
JOB_KEY = b"anosynth.job"
VERSION_KEY = b"anosynth.schema_version"
MADE_WITH_KEY = b"anosynth.made_with"

_TAIL_BYTES = 8  # length of the footer, then PAR1
_LEAVES = {"shot_ids": "shot_ids.list.element"}
_PLAIN = [_LEAVES.get(name, name) for name in METADATA_COLUMNS] + [f"{name}.path" for name in IMAGE_COLUMNS]
_BYTES = [f"{name}.bytes" for name in IMAGE_COLUMNS]
_COMPRESSION = {**dict.fromkeys(_PLAIN, "zstd"), **dict.fromkeys(_BYTES, "none")}
_LIBRARIES = ("diffusers", "numpy", "pillow", "pyarrow", "torch")


def footer(job: ShardJob, *, device_class: str) -> dict[bytes, bytes]:
    """What a shard says about itself: fingerprint, job with parameter values, versions, device, column types.

    Args:
        job: the job whose samples the file holds.
        device_class: the kind of machine that computed them; bytes are promised per kind.
    """
    made_with = {"anosynth": __version__, "device_class": device_class, "python": platform.python_version()}
    for library in _LIBRARIES:
        made_with[library] = metadata.version(library)
    return {
        FINGERPRINT_KEY: job.fingerprint.encode(),
        JOB_KEY: canonical_json(job_to_json(job)),
        VERSION_KEY: str(SCHEMA_VERSION).encode(),
        MADE_WITH_KEY: canonical_json(made_with),
        b"huggingface": huggingface_metadata(),
    }


class DigestWriter:
    """A file to write to that knows the digest of what went through it (`fingerprint.digest_file` of the whole).

    Args:
        file: takes the bytes; closing it is the caller's business.

    Attributes:
        num_bytes: written so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.blake2b(digest_size=DIGEST_BYTES)
        self.num_bytes = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        """Hash the bytes and pass them on."""
        self._digest.update(data)
        self.num_bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Pass the flush on."""
        self._file.flush()

    def close(self) -> None:
        """Take no more bytes."""
        self.closed = True

    def hexdigest(self) -> str:
        """Digest of the bytes written so far, 32 hexadecimal characters."""
        return self._digest.hexdigest()


def write_rows(file: BinaryIO | DigestWriter, rows: Iterable[Row], *, about: dict[bytes, bytes]) -> int:
    """Write rows as a Parquet file, one row group in memory at a time.

    Args:
        file: where to; it is visible while it grows, so it is a temporary one.
        rows: rows of `schema.SCHEMA`, see `rows.encode_row`.
        about: metadata of the footer.

    Returns:
        Number of rows. Equal rows and metadata give equal bytes with one pyarrow version.

    Raises:
        OSError: if the disk does not take them.
    """
    schema = SCHEMA.with_metadata(about)
    count = 0
    pending: list[Row] = []
    pending_bytes = 0
    with pq.ParquetWriter(
        file,
        schema,
        compression=_COMPRESSION,
        use_dictionary=_PLAIN,
        write_statistics=_PLAIN,
        write_batch_size=ROW_GROUP_ROWS,  # one page per column and row group: faster to read than pages of 1 MiB
        write_page_checksum=True,
    ) as writer:
        for row in rows:
            size = image_bytes(row)
            if pending and (len(pending) == ROW_GROUP_ROWS or pending_bytes + size > ROW_GROUP_BYTES):
                writer.write_batch(_emptied(pending, schema))
                pending_bytes = 0
            pending.append(row)
            pending_bytes += size
            count += 1
        if pending:
            writer.write_batch(_emptied(pending, schema))
    return count


def to_batch(rows: Sequence[Row], schema: pa.Schema) -> pa.RecordBatch:
    """Turn rows into one record batch of the given schema."""
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        columns.append(_files(values, field.type) if field.name in IMAGE_COLUMNS else pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def digest_footer(file: BinaryIO) -> str:
    """Digest of a Parquet file's footer, which says where the pages lie; "" if the file has none.

    Pages carry checksums and the footer does not, so its digest stands in the manifest.

    Args:
        file: open for reading, seekable.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _TAIL_BYTES, 0))
    tail = file.read(_TAIL_BYTES)
    length = int.from_bytes(tail[:4], "little") + _TAIL_BYTES
    if length > size or not tail.endswith(b"PAR1"):
        return ""
    file.seek(size - length)
    return digest_bytes(file.read(length))


def image_bytes(row: Row) -> int:
    """Bytes of a row's image, part and mask files: nearly all it takes."""
    files = (row[name] for name in IMAGE_COLUMNS)
    return sum(len(file["bytes"]) for file in files if isinstance(file, dict))


def _emptied(pending: list[Row], schema: pa.Schema) -> pa.RecordBatch:
    """Turn rows into a batch and let go of them, so that their bytes are in memory once while they are written."""
    batch = to_batch(pending, schema)
    pending.clear()
    return batch


def _files(values: Sequence[object], kind: pa.StructType) -> pa.StructArray:
    present = [value if isinstance(value, dict) else {"bytes": None, "path": None} for value in values]
    return pa.StructArray.from_arrays(
        [pa.array([value[leaf] for value in present], kind.field(leaf).type) for leaf in ("bytes", "path")],
        fields=[kind.field("bytes"), kind.field("path")],
        mask=pa.array([value is None for value in values]),
    )
