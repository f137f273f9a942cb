"""What the examples that measure cell by cell share: files of cells, and pieces of their command lines."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from anosynth.errors import DataError, ParamsError
from anosynth.params import BackboneSpec, EmbeddedBackbone, PretrainedBackbone

Taken = TypeVar("Taken")


def read_cell(path: Path, take: Callable[[Mapping[str, Any]], Taken | None]) -> Taken | None:
    """What `take` finds in a cell's file; None if there is no file.

    Args:
        path: of the cell.
        take: given the file's values; None where they are of other settings.

    Raises:
        DataError: if the file is no cell.
    """
    if not path.exists():
        return None
    try:
        return take(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: not a cell that this script wrote; remove it and run again") from None


def write_cell(path: Path, values: Mapping[str, object]) -> None:
    """Write a cell that is there whole or not at all."""
    write_text(path, json.dumps(values, sort_keys=True, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def at_least(least: int, *, multiple_of: int = 1) -> Callable[[str], int]:
    """A type for argparse: whole numbers from `least` on."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least or int(text) % multiple_of:
            rest = f", a multiple of {multiple_of}" if multiple_of > 1 else ""
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}{rest}")
        return int(text)

    return read


def read_backbone(text: str) -> BackboneSpec | None:
    """Turn --backbone into a spec; empty is none.

    Raises:
        ParamsError: if it is no folder.
    """
    if not text:
        return None
    if text == "embedded":
        return EmbeddedBackbone(kind="embedded")
    if not Path(text).is_dir():
        raise ParamsError(f"--backbone {text}: no such folder, and not the word embedded")
    return PretrainedBackbone(kind="pretrained", path=str(Path(text).resolve()))
