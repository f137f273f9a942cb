"""From a path or hub id in params.yaml to a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from anosynth.diffusion.folder import INDEX, PARTS
from anosynth.errors import BackboneError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ANSWER_S = 10.0


def local_folder(path: str, *, root: Path) -> Path:
    """Return the folder of a backbone, fetching it from the hub if `path` is no folder but reads like a hub id.

    Only safetensors, JSON and text files of the five parts are fetched; no code and no pickles.

    Args:
        path: absolute, relative to `root`, or "owner/name".
        root: where relative paths start.

    Raises:
        BackboneError: if there is no such folder and no such model within reach.
    """
    folder = root / path
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(path):
        raise BackboneError(f"backbone.path: the folder {folder} does not exist")
    kinds = ("*.safetensors", "*.json", "*.txt", "*.model")
    try:
        fetched = snapshot_download(
            path,
            allow_patterns=[INDEX, *(f"{part}/{kind}" for part in PARTS for kind in kinds)],
            etag_timeout=_ANSWER_S,
        )
    except (OSError, HFValidationError, ValueError) as error:
        raise BackboneError(
            f"backbone.path: {path} is neither a folder (looked for {folder}) nor a model that can be fetched from the "
            f"hub here ({type(error).__name__}); give the path of a downloaded diffusers folder"
        ) from error
    return Path(fetched)
