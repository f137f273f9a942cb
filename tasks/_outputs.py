"""Output folders that appear whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anosynth.layout import STORE_FOLDER, Layout


@contextmanager
def whole_folder(layout: Layout, path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends without an error it takes the place of `path`.

    It is filled outside of every output, so that a killed stage leaves nothing that another stage would read.
    """
    scratch = layout.root / STORE_FOLDER / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        fresh = Path(temporary) / path.name
        fresh.mkdir()
        yield fresh
        if path.exists():
            shutil.rmtree(path)
        fresh.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write JSON with sorted keys; equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
