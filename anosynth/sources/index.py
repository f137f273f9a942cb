"""The index: one Parquet file per category with a record and the bytes of every real image and mask."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anosynth.errors import DataError
from anosynth.fingerprint import digest_bytes, digest_pixels
from anosynth.imaging import MAX_PIXELS, decode_image, decode_mask, encode_png, perceptual_hash
from anosynth.samples import Record, Role
from anosynth.sources.items import SourceItem

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

VERSION = 1
VERSION_KEY = b"anosynth.index"
# A row group is what a random read costs: a few megabytes, and few rows where images are large.
GROUP_BYTES = 4 << 20
GROUP_ROWS = 16
LISTED_PROBLEMS = 20
# Bytes of these kinds are kept as they came; everything else is stored again as 8-bit RGB PNG.
KEPT_AS_IS = frozenset({"", "grey"})

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
        mask_bytes: a PNG of the mask in {0, 255}; None for a normal image.
    """

    record: Record
    image_bytes: bytes
    mask_bytes: bytes | None


@dataclass
class _Report:
    """What the examination of a category's files found."""

    problems: list[str] = field(default_factory=list)
    converted: dict[str, list[str]] = field(default_factory=dict)
    duplicates: list[tuple[str, str]] = field(default_factory=list)


def examine(
    items: Sequence[SourceItem], roles: Mapping[str, Role], *, max_pixels: int = MAX_PIXELS
) -> Iterator[IndexEntry]:
    """Decode, check and describe every image that has a role; problems are collected and told together at the end.

    Problems are: an unreadable, truncated, oversized or non-image file; a mask that is missing, unreadable, has grey
    levels, another size than its image, no foreground or nothing else; equal pixels under two roles, two labels or
    two masks. Equal pixels within one role and label are a duplicate: the first is kept, the others are counted in one
    warning. Conversions (16-bit, RGBA, palette, ...) are logged once per kind.

    Args:
        items: the images of one category.
        roles: path -> role (`split.assign_roles`); an image without a role is passed over.
        max_pixels: larger images are refused before they are decoded.

    Yields:
        One entry per image that is kept, in the order of `items`.

    Raises:
        DataError: after the last item, if there was any problem: the first 20 and how many there are.
    """
    report = _Report()
    seen: dict[str, tuple[SourceItem, str | None]] = {}
    for item in items:
        if item.path in roles:
            entry = _entry(item, roles[item.path], report, max_pixels=max_pixels)
            if entry is not None and _is_new(item, entry, roles, seen, report):
                yield entry
    for kind, paths in sorted(report.converted.items()):
        logger.info("%d image(s) converted from %s to 8-bit RGB, the first is %s", len(paths), kind, paths[0])
    if report.duplicates:
        kept, dropped = report.duplicates[0]
        logger.warning(
            "%d duplicate image(s) left out: %s has the pixels of %s%s",
            len(report.duplicates),
            dropped,
            kept,
            ", ..." if len(report.duplicates) > 1 else "",
        )
    if report.problems:
        count = len(report.problems)
        shown = [f"  {line}" for line in report.problems[:LISTED_PROBLEMS]]
        if count > LISTED_PROBLEMS:
            shown.append(f"  ... and {count - LISTED_PROBLEMS} more")
        raise DataError(f"{count} problem(s) in the files of {items[0].category}:\n" + "\n".join(shown))


def _entry(item: SourceItem, role: Role, report: _Report, *, max_pixels: int) -> IndexEntry | None:
    try:
        data = item.read_image()
        decoded = decode_image(data, name=item.path, max_pixels=max_pixels)
        mask = _mask(item, decoded.image.shape[:2])
    except DataError as error:
        report.problems.append(str(error))
        return None
    except OSError as error:
        report.problems.append(f"{error.filename or item.path}: cannot be read ({error.strerror or error})")
        return None
    if decoded.converted_from:
        report.converted.setdefault(decoded.converted_from, []).append(item.path)
    height, width = decoded.image.shape[:2]
    record = Record(
        path=item.path,
        category=item.category,
        defect=item.defect,
        mask_path=None if item.defect is None else item.mask_path,
        role=role,
        group=item.group,
        licence=item.licence,
        sha256=digest_pixels(decoded.image),
        phash=perceptual_hash(decoded.image),
        height=height,
        width=width,
    )
    image_bytes = data if decoded.converted_from in KEPT_AS_IS else encode_png(decoded.image)
    return IndexEntry(record, image_bytes, None if mask is None else encode_png(mask))


def _mask(item: SourceItem, size: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The decoded and checked mask; None for a normal image."""
    if item.defect is None:
        return None
    if item.read_mask is None:
        expected = f" (expected {item.mask_path})" if item.mask_path else ""
        raise DataError(f"{item.path}: an image with {item.defect} has no mask{expected}; add it or remove the image")
    name = item.mask_path or f"mask of {item.path}"
    mask = decode_mask(item.read_mask(), name=name)
    if mask.shape != size:
        raise DataError(
            f"{name}: the mask is {mask.shape[1]} x {mask.shape[0]} px but its image {item.path} is "
            f"{size[1]} x {size[0]} px; they must be equal"
        )
    if not mask.any():
        raise DataError(f"{name}: the mask is empty but {item.path} is filed under {item.defect}; draw it or move it")
    if mask.all():
        raise DataError(f"{name}: the mask covers the whole of {item.path}; it must leave some background")
    return mask


def _is_new(
    item: SourceItem,
    entry: IndexEntry,
    roles: Mapping[str, Role],
    seen: dict[str, tuple[SourceItem, str | None]],
    report: _Report,
) -> bool:
    mask = None if entry.mask_bytes is None else digest_bytes(entry.mask_bytes)
    other, other_mask = seen.setdefault(entry.record.sha256, (item, mask))
    if other is item:
        return True
    if roles[other.path] != roles[item.path]:
        report.problems.append(
            f"{other.path} ({roles[other.path]}) and {item.path} ({roles[item.path]}) have equal pixels in two roles: "
            "a leak; remove one of them"
        )
    elif other.defect != item.defect:
        report.problems.append(
            f"{other.path} ({other.defect or 'normal'}) and {item.path} ({item.defect or 'normal'}) have equal pixels "
            "under two labels; remove the wrong one"
        )
    elif other_mask != mask:
        report.problems.append(f"{other.path} and {item.path} have equal pixels but different masks; remove one")
    else:
        report.duplicates.append((other.path, item.path))
    return False


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    records: list[Record] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(
            temporary,
            SCHEMA,
            compression=dict.fromkeys(_METADATA_COLUMNS, "ZSTD") | {"image": "NONE", "mask": "NONE"},
            use_dictionary=_METADATA_COLUMNS,
            write_statistics=False,
        ) as writer:
            for group in _row_groups(entries):
                writer.write_table(_table(group))
                records.extend(entry.record for entry in group)
        temporary.replace(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be written ({error}); free some space or correct the folder") from error
    finally:
        temporary.unlink(missing_ok=True)
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
        """Return the mask of a record, uint8 [H, W] in {0, 255}; all 0 for a normal image."""
        if record.defect is None:
            return np.zeros((record.height, record.width), dtype=np.uint8)
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
