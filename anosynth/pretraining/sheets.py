"""What both parts of the evaluation draw with: round trips, contact sheets, checkpoints in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anosynth.diffusion.latent import LatentDiffusion

Image8 = NDArray[np.uint8]
SIZE_PX = 128


def round_trip(backbone: LatentDiffusion, images: Sequence[Image8]) -> Image8:
    """Encode and decode, uint8 [B, H, W, 3]."""
    return backbone.decode(backbone.encode(images))


def sheet(images: Sequence[Image8], columns: int) -> Image8:
    """Images of one size in a grid, white where there is none."""
    height, width = images[0].shape[:2]
    grid = np.full((-(-len(images) // columns) * height, columns * width, 3), 255, np.uint8)
    for index, image in enumerate(images):
        y, x = divmod(index, columns)
        grid[y * height : (y + 1) * height, x * width : (x + 1) * width] = image
    return grid


class MemoryStore:
    """Checkpoints of one evaluation, kept in memory."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def put_blob(self, key: str, data: bytes) -> None:
        """Keep bytes under a key."""
        self._blobs[key] = data

    def get_blob(self, key: str) -> bytes | None:
        """Bytes last kept under a key, or None."""
        return self._blobs.get(key)
