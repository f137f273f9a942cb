"""What both parts of the evaluation draw with: round trips and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anosynth.diffusion.latent import LatentDiffusion

Image8 = NDArray[np.uint8]
SIZE_PX = 128
MEMORY = "memory://evaluation/store"
"""URL of a shard store that keeps the checkpoints of one evaluation and leaves with the process."""


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
