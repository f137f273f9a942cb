"""Data sets that come inside an installed Python package: where its folder lies, found without importing it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from anosynth.errors import DataError


def package_folder(module: str, *, distribution: str, extra: str) -> Path:
    """Return the folder of an installed package; nothing of it is run.

    Args:
        module: its top-level module.
        distribution: its name for pip, for the error.
        extra: our optional extra that brings it, for the error.

    Raises:
        DataError: if it is not installed.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise DataError(
            f"the package {distribution} is not installed: run pip install 'anosynth[{extra}]' (its pins are in "
            "constraints/), or set source.root to a folder of the same files"
        )
    return Path(spec.origin).parent
