"""A groups file: which images show the same thing (part, position, lot) and must never be split."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from anosynth.errors import DataError
from anosynth.sources.files import relative_name
from anosynth.sources.items import SourceItem
from anosynth.sources.table import path_inside, read_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Groups:
    """A groups file as read.

    Attributes:
        file: the CSV (or Parquet) file.
        by_path: image or mask path relative to the source's root, Unicode NFC -> group.
    """

    file: Path
    by_path: dict[str, str]


def read_groups(file: Path, *, root: Path) -> Groups:
    """Read a file with the columns path and group; further columns are ignored.

    A path is relative to the folder that the file lies in. Rows may name masks too: their group must then be that of
    their image. A row that names no file is counted in a warning: it does no harm, since every image must be covered.

    Raises:
        DataError: if the file cannot be read, lies outside root, has an empty field or contradicts itself.
    """
    rows = read_rows(file, required=("path", "group"))
    if not file.is_relative_to(root):
        raise DataError(f"{file}: the groups file lies outside {root}; source.groups is relative to source.root")
    by_path: dict[str, str] = {}
    unknown = []
    for number, row in enumerate(rows, start=2):
        if not row["path"] or not row["group"]:
            raise DataError(f"{file}: line {number} has an empty path or group; fill it or remove the line")
        inside = path_inside(file.parent, row["path"], file)
        name = _key(relative_name(file.parent / inside, root))
        if by_path.setdefault(name, row["group"]) != row["group"]:
            raise DataError(f"{file}: {row['path']} is in the groups {by_path[name]!r} and {row['group']!r}; keep one")
        if not (file.parent / inside).exists():
            unknown.append(row["path"])
    if unknown:
        logger.warning("%s: %d rows name no file, the first is %s", file, len(unknown), unknown[0])
    return Groups(file, by_path)


def with_groups(items: Iterable[SourceItem], groups: Groups) -> tuple[SourceItem, ...]:
    """Return the items, each with its group from the file.

    Raises:
        DataError: if an image is not in the file, or a mask is there under another group than its image.
    """
    grouped, missing = [], []
    for item in items:
        group = groups.by_path.get(_key(item.path))
        if group is None:
            missing.append(item.path)
            continue
        of_mask = groups.by_path.get(_key(item.mask_path), group) if item.mask_path is not None else group
        if of_mask != group:
            raise DataError(
                f"{groups.file}: {item.path} is in group {group!r} but its mask {item.mask_path} in {of_mask!r}; "
                "correct one of the two lines"
            )
        grouped.append(replace(item, group=group))
    if missing:
        raise DataError(
            f"{groups.file}: {len(missing)} images have no group, the first is {missing[0]} (paths in the file are "
            "relative to its own folder); add them, or set source.groups to null"
        )
    return tuple(grouped)


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", path)
