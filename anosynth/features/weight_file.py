"""Published network weights that lie on the disk: read without running code, held against the layout they must have."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from anosynth.errors import BackboneError

SUFFIXES = (".safetensors", ".pth")
# What torch.load raises for files that are no weights, or hold more than tensors.
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError)
_NAMED = 3


@dataclass(frozen=True, eq=False)
class WeightFile:
    """The tensors of a file by their keys, and the file's SHA-256 in hexadecimal."""

    path: Path
    tensors: Mapping[str, Tensor]
    sha256: str

    def match(
        self, shapes: Mapping[str, tuple[int, ...]], *, setting: str, wanted: str, optional: Container[str] = ()
    ) -> dict[str, Tensor]:
        """Return the tensors as float32, if they are exactly the keys and sizes asked for.

        Args:
            shapes: size by key.
            optional: keys that may be in the file and are not returned.
            setting: value of params.yaml that named the file, for the message.
            wanted: which file it should be, for the message.

        Raises:
            BackboneError: one sentence with what is missing, not expected or of another size.
        """
        needed = {key: shape for key, shape in shapes.items() if key not in optional}
        missing = [key for key in needed if key not in self.tensors]
        foreign = [key for key in self.tensors if key not in needed and key not in optional]
        sizes = [
            f"{key} {list(self.tensors[key].shape)} instead of {list(shape)}"
            for key, shape in needed.items()
            if key in self.tensors and tuple(self.tensors[key].shape) != shape
        ]
        found = (("missing", missing), ("not expected", foreign), ("of another size", sizes))
        problems = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in found if keys]
        if problems:
            raise BackboneError(f"{setting}: {self.path} is not {wanted}; keys are {', '.join(problems)}")
        return {key: self.tensors[key].float() for key in needed}


def read_weights(path: Path, *, setting: str) -> WeightFile:
    """Read a file of tensors by key: safetensors by its suffix, else a state dict that torch saved.

    Args:
        path: local file.
        setting: value of params.yaml that named it, for messages.

    Raises:
        BackboneError: if it is missing, a folder, or holds anything but tensors by name.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise BackboneError(f"{setting}: {path} {found}; name a local weight file (none is downloaded), or null")
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, *_UNREADABLE) as error:
        raise BackboneError(
            f"{setting}: {path} is no file of tensors ({path.stat().st_size} bytes, {type(error).__name__})"
        ) from error
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise BackboneError(f"{setting}: {path} is no state dict; it must hold tensors by name and nothing else")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return WeightFile(path, tensors, digest)


def weights_in(folder: Path, stem: str, *, setting: str) -> WeightFile:
    """Read <stem>.safetensors or <stem>.pth of a folder; exactly one of them must be there.

    Raises:
        BackboneError: if the folder has none or both, or as `read_weights` does.
    """
    there = [folder / f"{stem}{suffix}" for suffix in SUFFIXES if (folder / f"{stem}{suffix}").is_file()]
    if len(there) != 1:
        names = " and ".join(f"{stem}{suffix}" for suffix in SUFFIXES)
        raise BackboneError(
            f"{setting}: of {names} the folder {folder} holds {'both' if there else 'neither'}; it must hold one of "
            f"them (none is downloaded), or set {setting} to null"
        )
    return read_weights(there[0], setting=setting)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:_NAMED]) + (", ..." if len(keys) > _NAMED else "")
