"""A fitted detector on disk: tensors as safetensors, settings as JSON, bound by a digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from anosynth.errors import BackboneError
from anosynth.fingerprint import digest_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

STATE_VERSION = 1
SETTINGS_FILE = "detector.json"
WEIGHTS_FILE = "weights.safetensors"
STATE_FILES = (SETTINGS_FILE, WEIGHTS_FILE)

Settings = Mapping[str, str | int | float | bool]


def write_state(folder: Path, *, settings: Settings, tensors: Mapping[str, NDArray[np.generic]]) -> None:
    """Write the two files; equal state gives equal bytes."""
    weights = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
    head = {"version": STATE_VERSION, "settings": dict(settings), "weights": digest_bytes(weights)}
    (folder / WEIGHTS_FILE).write_bytes(weights)
    (folder / SETTINGS_FILE).write_text(json.dumps(head, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_state(folder: Path, *, settings: Settings) -> dict[str, NDArray[np.generic]]:
    """Read the tensors of a detector that was saved with these settings.

    Raises:
        BackboneError: if a file is missing or damaged, or if settings or version differ, naming the first that does.
    """
    again = "run: dvc repro fit_detector"
    try:
        head = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        weights = (folder / WEIGHTS_FILE).read_bytes()
    except FileNotFoundError as error:
        raise BackboneError(f"{error.filename} is missing; {again}") from None
    except ValueError as error:
        raise BackboneError(f"{folder / SETTINGS_FILE} is damaged ({error}); {again}") from error
    if not isinstance(head, dict) or head.get("version") != STATE_VERSION:
        raise BackboneError(f"{folder / SETTINGS_FILE} is not of version {STATE_VERSION}; {again}")
    found = head.get("settings", {})
    for name in sorted({*settings, *found}):
        if found.get(name) != settings.get(name):
            raise BackboneError(
                f"{folder}: the detector was fitted with {name} {found.get(name)!r}, "
                f"now it is {settings.get(name)!r}; {again}"
            )
    if digest_bytes(weights) != head.get("weights"):
        raise BackboneError(f"{folder / WEIGHTS_FILE} is damaged (its digest is not the recorded one); {again}")
    try:
        return load(weights)
    except SafetensorError as error:
        raise BackboneError(f"{folder / WEIGHTS_FILE} is not a safetensors file ({error}); {again}") from error
