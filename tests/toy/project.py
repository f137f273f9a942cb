"""Build a tiny project: the committed params.yaml made small, alone in a folder or in a clone of the checkout."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).parent.parent.parent

# What differs from the committed params.yaml; a section is merged one level deep.
SMALL: dict[str, dict[str, object]] = {
    "compute": {"threads": 1},
    "image": {"size_px": 64},
    # Without dualanodiff: the toy backbone draws noise, and no mask is sure in noise.
    "grid": {
        "pairs": {
            f"washer-scratch-{method}": {"category": "washer", "defect": "scratch", "method": method}
            for method in ("perlin", "cutpaste")
        }
    },
    "backbone": {"kind": "toy", "seed": 0},
    "source": {
        "size_px": 64,
        "num_train_normal": 8,
        "num_test_normal": 4,
        "num_train_anomalous": 4,
        "num_test_anomalous": 4,
    },
    "features": {"size_px": 64},
    "aligned": {"size_px": 64},
    "select_shots": {"normal": 4, "anomalous": 2},
    "personalize_normals": {
        "lr": 1.0e-4,
        "steps": 4,
        "batch_size": 2,
        "prior_images": 2,
        "checkpoint_every": 2,
        "log_every": 2,
    },
    "generate_normals": {"n": 6, "shard_rows": 3, "batch_size": 2, "steps": 2},
    "generate_pairs": {"n": 6, "shard_rows": 3, "batch_size": 2},
    "screen": {"max_normal_distance": None},
    "arms": {
        "real": {"real_normals": True, "real_pairs": True, "synthetic_normals": False, "methods": []},
        "perlin": {"real_normals": True, "real_pairs": True, "synthetic_normals": False, "methods": ["perlin"]},
        "normals": {"real_normals": True, "real_pairs": True, "synthetic_normals": True, "methods": []},
    },
    "detectors": {
        "patchcore": {"kind": "patchcore", "arms": ["real", "normals"], "coreset_ratio": 0.5, "neighbours": 2},
        "unet": {
            "kind": "unet",
            "arms": ["real", "perlin"],
            "channels": 4,
            "steps": 3,
            "batch_size": 2,
            "lr": 1.0e-3,
            "normal_ratio": 0.5,
            "size_px": 64,
            "synthetic_ratio": 0.5,
        },
    },
    "fit_detector": {"seeds": [0]},
    "round_trip": {"n": 4, "shard_rows": 2, "batch_size": 2, "steps": 4, "strength": 0.5},
    "measure": {
        "features": {"kind": "embedded", "model": "lite2", "size_px": 64, "levels": [1, 2, 3, 4]},
        "neighbours": 2,
        "subsets": 4,
    },
    "classify": {"arms": ["real", "perlin"], "views": 2},
    "evaluate": {"histogram_bits": 12},
}


def toy_params(overrides: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return the committed params.yaml made small; `overrides` are merged one level deep, or replace a plain value."""
    params = yaml.safe_load((CHECKOUT / "params.yaml").read_text(encoding="utf-8"))
    del params["arms"]["dualanodiff"]
    for changes in (SMALL, overrides or {}):
        for section, values in deepcopy(dict(changes)).items():
            if isinstance(values, Mapping) and isinstance(params.get(section), dict):
                params[section] = {**params[section], **values}
            else:
                params[section] = values
    assert isinstance(params, dict)
    return params


def write_params(folder: Path, params: Mapping[str, object]) -> Path:
    """Write params.yaml into a folder."""
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(dict(params), sort_keys=False), encoding="utf-8")
    return path


def make_project(folder: Path, overrides: Mapping[str, object] | None = None) -> Path:
    """Make a folder that holds the tiny params.yaml and nothing else: enough to call stages in process."""
    folder.mkdir(parents=True)
    write_params(folder, toy_params(overrides))
    return folder


def clone(folder: Path, overrides: Mapping[str, object] | None = None) -> Path:
    """Copy the checkout's files, tracked or about to be, into a repository of their own, with the tiny params.yaml.

    dvc.lock is left out: the clone has run nothing yet.
    """
    listed = _git(CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        source, target = CHECKOUT / name, folder / name
        if source.is_file() and name != "dvc.lock":
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    write_params(folder, toy_params(overrides))
    _git(folder, "init", "--quiet")
    _git(folder, "add", "--all")
    _git(folder, "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "-m", "toy project")
    return folder


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout
