"""Fitted detectors of one category: kept in the store by what shaped them, laid out by arm and seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from anosynth.detectors.state import SETTINGS_FILE, WEIGHTS_FILE
from anosynth.errors import DataError
from anosynth.shards.store import ShardStore

VERSION = 1
FITS_FILE = "fit.json"


@dataclass(frozen=True)
class ArmFits:
    """One arm, fitted with every seed.

    Attributes:
        counts: training images by where they come from; see `arms.ArmData`.
        digests: identity of every part of the training data.
        licence: the most restrictive licence of the training images.
        fingerprints: seed -> digest of everything that shaped the fitted detector.
    """

    counts: Mapping[str, int]
    digests: Mapping[str, str]
    licence: str
    fingerprints: Mapping[int, str]


@dataclass(frozen=True)
class Fits:
    """All fits of one detector on one category.

    Attributes:
        category, detector: slugs.
        spec: the detector's entry in params.yaml.
        normals: "shots" or "train": which real normals were allowed.
        arms: by name, in the order of params.yaml.
    """

    category: str
    detector: str
    spec: Mapping[str, object]
    normals: str
    arms: Mapping[str, ArmFits]


def fit_folder(folder: Path, *, arm: str, seed: int) -> Path:
    """Where the detector of one arm and seed lies inside the detector's folder."""
    return folder / f"{arm}-{seed}"


def restore(store: ShardStore, fingerprint: str, folder: Path) -> bool:
    """Write a fitted detector from the store into an existing folder; False if the store does not have it."""
    settings = store.get_blob(_key(fingerprint, SETTINGS_FILE))
    weights = store.get_blob(_key(fingerprint, WEIGHTS_FILE)) if settings is not None else None
    if settings is None or weights is None:
        return False
    (folder / WEIGHTS_FILE).write_bytes(weights)
    (folder / SETTINGS_FILE).write_bytes(settings)
    return True


def keep(store: ShardStore, fingerprint: str, folder: Path) -> None:
    """Put a saved detector into the store; the settings go last, so that a fit is there whole or not at all."""
    for name in (WEIGHTS_FILE, SETTINGS_FILE):
        store.put_blob(_key(fingerprint, name), (folder / name).read_bytes())


def state_licence(folder: Path, licence: str) -> None:
    """Name in a saved detector the licence of its training images, so that it may travel alone.

    It stands in detector.json beside the settings, which `state.read_state` compares; a detector without it opens too.
    """
    path = folder / SETTINGS_FILE
    head = {**json.loads(path.read_text(encoding="utf-8")), "licence": licence}
    path.write_text(json.dumps(head, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_fits(fits: Fits, folder: Path) -> None:
    """Write fit.json: what each arm was trained on."""
    value = {"version": VERSION, **asdict(fits)}
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / FITS_FILE).write_text(text + "\n", encoding="utf-8")


def read_fits(folder: Path) -> Fits:
    """Read fit.json.

    Raises:
        DataError: if it is missing, damaged or of another version.
    """
    path = folder / FITS_FILE
    mend = f"run: dvc repro fit_detector@{folder.name}-{folder.parent.name}"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        version = value.pop("version")
        if version != VERSION:
            raise DataError(f"{path}: of version {version}, this program reads {VERSION}; {mend}")
        arms = {
            name: ArmFits(**{**arm, "fingerprints": {int(seed): text for seed, text in arm["fingerprints"].items()}})
            for name, arm in value.pop("arms").items()
        }
        return Fits(arms=arms, **value)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {mend}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({error}); {mend}") from error


def _key(fingerprint: str, name: str) -> str:
    return f"detectors/{fingerprint}/{name}"
