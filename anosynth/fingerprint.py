"""Digests that name things by what shaped them: values, bytes, pixels, files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIGEST_BYTES = 16


def canonical_json(value: object) -> bytes:
    """Encode a JSON value in the one way that is hashed: sorted keys, no spaces, no NaN, UTF-8.

    Raises:
        ValueError: if a number is not finite.
        TypeError: if the value is not JSON, keys of mappings included (1 and "1" would share a digest).
    """
    _check_keys(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _check_keys(value: object) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a key of a JSON object is a string, got {key!r}")
            _check_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_keys(inner)


def digest_value(value: object) -> str:
    """BLAKE2b-128 of a JSON value, 32 hexadecimal characters."""
    return digest_bytes(canonical_json(value))


def digest_bytes(data: bytes) -> str:
    """BLAKE2b-128 of bytes, 32 hexadecimal characters."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def digest_file(path: str | Path) -> str:
    """BLAKE2b-128 of a local file's bytes, read in blocks."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def digest_pixels(image: NDArray[np.uint8]) -> str:
    """SHA-256 of decoded pixels together with their shape: the identity of a picture, whatever its file format.

    Args:
        image: uint8, [H, W, 3] or [H, W].
    """
    if image.dtype != np.uint8:
        raise ValueError(f"pixels are hashed as uint8, got {image.dtype}")
    head = ("x".join(str(size) for size in image.shape) + ";").encode()
    return hashlib.sha256(head + np.ascontiguousarray(image).tobytes()).hexdigest()
