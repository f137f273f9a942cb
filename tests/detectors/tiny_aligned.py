"""A tiny encoder of images and text: colours and edges of cells, and words that name brightness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anosynth.imaging import resize_image

GRID = 8
SIDE = 64
CELL = SIDE // GRID
ABNORMAL = ("damaged", "flaw", "defect", "damage", "broken")


class TinyAligned:
    """Fits `features.aligned.AlignedFeatures`: two levels of cell statistics, a text space of three axes."""

    temperature = 10.0
    levels = 2
    text_levels = (0, 1)
    local_levels = (0, 1)

    def __init__(self, identity: str = "tiny") -> None:
        self.identity = identity

    def patch_levels(self, images: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], ...]:
        """Level 0: mean colour of a cell and 1; level 1: its 4 quarters' grey levels and 1; all of length 1."""
        small = np.stack([resize_image(image, size_px=(SIDE, SIDE)) for image in images]).astype(np.float64) / 255.0
        cells = small.reshape(len(images), GRID, CELL, GRID, CELL, 3).transpose(0, 1, 3, 2, 4, 5)
        colour = cells.mean(axis=(3, 4))
        half = CELL // 2
        quarters = cells.mean(axis=5).reshape(len(images), GRID, GRID, 2, half, 2, half).mean(axis=(4, 6))
        flat = quarters.reshape(len(images), GRID, GRID, 4)
        return tuple(_unit(np.concatenate([level, np.ones_like(level[..., :1])], axis=-1)) for level in (colour, flat))

    def project(self, level: int, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Text axes: brightness, its opposite, and how far the cell is from grey."""
        assert level in (0, 1)
        bright = patches[..., :-1].mean(axis=-1)
        return _unit(np.stack([bright, 1.0 - bright, np.full_like(bright, 0.1)], axis=-1))

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """The mean of level 0 in the text space."""
        return self.project(0, self.patch_levels(images)[0].mean(axis=(1, 2)))

    def embed_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Abnormal words lie at the dark end; every further word turns the vector a little."""
        rows = []
        for prompt in prompts:
            words = prompt.lower().split()
            dark = any(word in ABNORMAL for word in words) and "without" not in words
            rows.append([0.0 if dark else 1.0, 1.0 if dark else 0.0, 0.01 * sum(map(len, words))])
        return _unit(np.array(rows))


def _unit(values: NDArray[np.floating]) -> NDArray[np.float32]:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)
