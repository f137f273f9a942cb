"""A backbone as a folder that needs nothing else: what `python -m anosynth export --format diffusers` writes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import assert_never

from anosynth.diffusion import toy
from anosynth.diffusion.embedded import FOLDER
from anosynth.diffusion.folder import copy_folder, write_folder
from anosynth.diffusion.hub import local_folder
from anosynth.errors import ParamsError
from anosynth.params import BackboneSpec, EmbeddedBackbone, PretrainedBackbone, ToyBackbone


def export_backbone(spec: BackboneSpec, target: Path, *, root: Path = Path()) -> None:
    """Write the backbone of params.yaml as a diffusers folder; it is complete or not there.

    `kind: pretrained` with its path opens it again, with equal results.

    Args:
        spec: which one.
        target: a folder that is not there yet.
        root: folder that relative paths of `spec` start from.

    Raises:
        ParamsError: if `target` is there already.
        BackboneError: if the backbone is incomplete.
    """
    if target.exists():
        raise ParamsError(f"{target} is there already; name a folder that does not exist, or delete it")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        match spec:
            case EmbeddedBackbone():
                copy_folder(FOLDER, temporary)
            case PretrainedBackbone():
                copy_folder(local_folder(spec.path, root=root), temporary)
            case ToyBackbone():
                write_folder(toy.build(spec.seed), temporary)
            case _:
                assert_never(spec)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
