"""Files of a source's folders: which ones count as images, in which order, under which name."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from anosynth.errors import DataError

# What people leave beside their images. Any other file that is not hidden must be an image.
_TEXT = {".htm", ".html", ".ini", ".log", ".md", ".md5", ".sha256", ".txt", ".xml", ".yaml", ".yml", ".toml"}
_TABLES = {".csv", ".db", ".json", ".jsonl", ".parquet", ".tsv", ".xlsx", ".docx", ".pdf"}
NON_IMAGE_SUFFIXES = frozenset(_TEXT | _TABLES)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that compares runs of digits as numbers, so that "10.png" comes after "9.png".

    Equal numbers written differently ("07", "7") are told apart last, so the order is total.
    """
    parts = re.split(r"(\d+)", unicodedata.normalize("NFC", name))
    key = [(0, int(part), "") if at % 2 else (1, 0, part) for at, part in enumerate(parts)]
    return (*key, (2, 0, name))


def list_images(folder: Path, *, what: str) -> list[Path]:
    """Return the image files of one folder in natural order.

    Hidden entries and files with a suffix in `NON_IMAGE_SUFFIXES` are passed over. Every other file counts as an
    image; whether it is one shows when it is decoded.

    Args:
        folder: the folder, not searched recursively.
        what: what it should hold, for the error, such as "normal training images of bottle".

    Raises:
        DataError: if the folder is missing, or holds a folder (its images would be lost in silence).
    """
    if not folder.is_dir():
        there = ", ".join(list_folders(folder.parent)) if folder.parent.is_dir() else ""
        hint = f"; folders beside it: {there}" if there else ""
        raise DataError(f"{folder}: no such folder, it should hold the {what}{hint}; check source in params.yaml")
    images = []
    for entry in folder.iterdir():
        if entry.name.startswith(".") or entry.suffix.lower() in NON_IMAGE_SUFFIXES:
            continue
        if entry.is_dir():
            raise DataError(f"{entry}: a folder among the {what}; images lie directly in {folder.name}, so move them")
        images.append(entry)
    return sorted(images, key=lambda entry: natural_key(entry.name))


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; renamed to `path` at the end, removed if anything goes wrong.

    Raises:
        DataError: if the file cannot be written, for example because the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be written ({error}); free some space or correct the folder") from error


def list_folders(folder: Path) -> list[str]:
    """Return the names of the folders inside `folder` that are not hidden, in natural order."""
    names = (entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted(names, key=natural_key)


def relative_name(path: Path, root: Path) -> str:
    """Return `path` relative to `root` with POSIX separators."""
    return path.relative_to(root).as_posix()
