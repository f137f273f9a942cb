"""The index: one Parquet file per category with a record and the bytes of every real image and mask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anosynth.errors import DataError
from anosynth.fingerprint import digest_pixels
from anosynth.imaging import decode_image, decode_mask
from anosynth.samples import Record
from anosynth.sources.files import written_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 1
VERSION_KEY = b"anosynth.index"
# A row group is what a random read costs: a few megabytes, and few rows where images are large.
GROUP_BYTES = 4 << 20
GROUP_ROWS = 16

_RECORD_FIELDS = [
    pa.field("path", pa.string(), nullable=False),
    pa.field("category", pa.string(), nullable=False),
    pa.field("defect", pa.string()),
    pa.field("mask_path", pa.string()),
    pa.field("role", pa.string(), nullable=False),
    pa.field("group", pa.string(), nullable=False),
    pa.field("licence", pa.string(), nullable=False),
    pa.field("sha256", pa.string(), nullable=False),
    pa.field("phash", pa.string(), nullable=False),
    pa.field("height", pa.int32(), nullable=False),
    pa.field("width", pa.int32(), nullable=False),
]
_BYTE_FIELDS = [pa.field("image", pa.binary(), nullable=False), pa.field("mask", pa.binary())]
SCHEMA = pa.schema([*_RECORD_FIELDS, *_BYTE_FIELDS], metadata={VERSION_KEY: str(VERSION).encode()})
_METADATA_COLUMNS = [column.name for column in _RECORD_FIELDS]


@dataclass(frozen=True)
class IndexEntry:
    """One row of the index.

    Attributes:
        record: what is known about the image.
        image_bytes: an image file: the original one if it is 8-bit RGB or grey, else a PNG of what it was converted to.
        mask_bytes: a PNG of the mask in {0, 255}; None for a normal image, and if `record.is_image_level`.
    """

    record: Record
    image_bytes: bytes
    mask_bytes: bytes | None


def write_index(path: Path, entries: Iterable[IndexEntry]) -> tuple[Record, ...]:
    """Write the index of one category, streaming; equal entries give equal bytes.

    Metadata columns are compressed (zstd, dictionary), image bytes are not (they are compressed already). The file
    appears whole or not at all: it is written beside its place and renamed.

    Args:
        path: of the Parquet file; its folder is made.
        entries: rows, consumed once; if they raise, nothing is left behind.

    Returns:
        The records written, in order.

    Raises:
        DataError: if the file cannot be written, for example because the disk is full.
    """
    records: list[Record] = []
    compression = dict.fromkeys(_METADATA_COLUMNS, "ZSTD") | {"image": "NONE", "mask": "NONE"}
    with (
        written_whole(path) as temporary,
        pq.ParquetWriter(
            temporary, SCHEMA, compression=compression, use_dictionary=_METADATA_COLUMNS, write_statistics=False
        ) as writer,
    ):
        for group in _row_groups(entries):
            writer.write_table(_table(group))
            records.extend(entry.record for entry in group)
    return tuple(records)


def _row_groups(entries: Iterable[IndexEntry]) -> Iterator[list[IndexEntry]]:
    group: list[IndexEntry] = []
    size = 0
    for entry in entries:
        group.append(entry)
        size += len(entry.image_bytes) + len(entry.mask_bytes or b"")
        if size >= GROUP_BYTES or len(group) == GROUP_ROWS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _table(entries: Sequence[IndexEntry]) -> pa.Table:
    columns: dict[str, list[object]] = {
        name: [getattr(entry.record, name) for entry in entries] for name in _METADATA_COLUMNS
    }
    columns["image"] = [entry.image_bytes for entry in entries]
    columns["mask"] = [entry.mask_bytes for entry in entries]
    return pa.table(columns, schema=SCHEMA)


def read_records(path: Path) -> tuple[Record, ...]:
    """Read the records of an index without touching the bytes of images.

    Raises:
        DataError: if the file is missing, damaged or of another version.
    """
    return IndexImages(path).records


class IndexImages:
    """The records of one category and, on demand, their pixels.

    Random access reads one row group of a few megabytes; the last one is kept, so a scan in order reads each once.
    Instances can be sent to worker processes: each opens the file again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._open()
        self._rows: dict[str, tuple[int, int]] = {}
        self._group: tuple[int, pa.Table] | None = None
        try:
            records = []
            for group in range(self._file.num_row_groups):
                table = self._file.read_row_group(group, columns=_METADATA_COLUMNS)
                for row, value in enumerate(table.to_pylist()):
                    records.append(Record(**value))
                    self._rows[value["path"]] = (group, row)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(str(error)) from error
        self.records: tuple[Record, ...] = tuple(records)

    def __reduce__(self) -> tuple[type[IndexImages], tuple[Path]]:
        return IndexImages, (self._path,)

    def image(self, record: Record) -> NDArray[np.uint8]:
        """Return the pixels of a record, uint8 RGB [H, W, 3].

        Raises:
            DataError: if the record is not in this index, or its pixels are not the ones that were indexed.
        """
        image = decode_image(self._cell(record, "image"), name=f"{self._path}: {record.path}").image
        if digest_pixels(image) != record.sha256:
            raise self._damaged(f"{record.path} has other pixels than its record says")
        return image

    def mask(self, record: Record) -> NDArray[np.uint8]:
        """Return the mask of a record, uint8 [H, W] in {0, 255}; all 0 for a normal image.

        Raises:
            DataError: if the record is anomalous and has no mask, or is not in this index.
        """
        if record.defect is None:
            return np.zeros((record.height, record.width), dtype=np.uint8)
        if record.is_image_level:
            raise DataError(
                f"{record.path}: {record.category} is labelled image by image, without masks, so {record.defect} makes "
                "no pairs; set real_pairs to false in its arms and leave the category out of grid.pairs"
            )
        return decode_mask(self._cell(record, "mask"), name=f"{self._path}: mask of {record.path}")

    def _cell(self, record: Record, column: str) -> bytes:
        if record.path not in self._rows:
            raise DataError(f"{self._path}: no image {record.path}; run: {self._mend()}")
        group, row = self._rows[record.path]
        if self._group is None or self._group[0] != group:
            try:
                self._group = group, self._file.read_row_group(group, columns=["image", "mask"])
            except (OSError, pa.ArrowException) as error:
                raise self._damaged(str(error)) from error
        data = self._group[1].column(column)[row].as_py()
        if not isinstance(data, bytes):
            raise self._damaged(f"{record.path} has no {column}")
        return data

    def _open(self) -> pq.ParquetFile:
        if not self._path.is_file():
            raise DataError(f"{self._path}: no such index; run: {self._mend()}")
        try:
            file = pq.ParquetFile(self._path)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(str(error)) from error
        version = (file.schema_arrow.metadata or {}).get(VERSION_KEY, b"none").decode()
        if version != str(VERSION) or file.schema_arrow.names != SCHEMA.names:
            raise DataError(
                f"{self._path}: an index of version {version}, this program reads {VERSION}; run: {self._mend()}"
            )
        return file

    def _mend(self) -> str:
        return f"dvc repro index@{self._path.stem}"

    def _damaged(self, why: str) -> DataError:
        return DataError(f"{self._path}: damaged ({why}); run: {self._mend()}")
