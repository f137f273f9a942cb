"""Tiles of images that are cut up: the strip is decoded once for all its tiles, the tile is encoded when it is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anosynth.errors import DataError
from anosynth.imaging import decode_image, encode_png

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Strips:
    """Decodes image files and keeps the last one: tiles are read one after the other."""

    def __init__(self, *, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._last: tuple[Path, NDArray[np.uint8]] | None = None

    def pixels(self, path: Path) -> NDArray[np.uint8]:
        """Return uint8 [H, W] of a grey file, uint8 [H, W, 3] of any other.

        Raises:
            OSError: if the file cannot be read.
            DataError: if it is no image, damaged or too large.
        """
        if self._last is None or self._last[0] != path:
            decoded = decode_image(path.read_bytes(), name=str(path), max_pixels=self._max_pixels)
            grey = decoded.converted_from in ("grey", "1-bit")
            self._last = path, np.ascontiguousarray(decoded.image[:, :, 0]) if grey else decoded.image
        return self._last[1]

    def foreground(self, path: Path) -> NDArray[np.bool_]:
        """Return where a mask file is not 0, [H, W]: the published rules count every value above 0."""
        pixels = self.pixels(path)
        return (pixels if pixels.ndim == 2 else pixels.max(axis=2)) > 0


@dataclass(frozen=True)
class ImageTile:
    """Reads one rectangle of an image file as a PNG.

    Attributes:
        strips: decodes the file.
        path: the file.
        size_px: height and width that the file must have.
        top, bottom, left, right: rows [top, bottom) and columns [left, right).
    """

    strips: Strips
    path: Path
    size_px: tuple[int, int]
    top: int
    bottom: int
    left: int
    right: int

    def __call__(self) -> bytes:
        """Return the tile's PNG."""
        pixels = self.strips.pixels(self.path)
        if pixels.shape[:2] != self.size_px:
            height, width = pixels.shape[:2]
            raise DataError(
                f"{self.path}: {width} x {height} px, but its mask is {self.size_px[1]} x {self.size_px[0]} px; "
                "they must be equal"
            )
        return encode_png(pixels[self.top : self.bottom, self.left : self.right])


@dataclass(frozen=True)
class MaskTile:
    """Returns one rectangle of a mask as a PNG in {0, 255}.

    Attributes:
        foreground: [h, w] of the tile, not of the whole strip.
    """

    foreground: NDArray[np.bool_]

    def __call__(self) -> bytes:
        """Return the mask's PNG."""
        return encode_png(np.where(self.foreground, 255, 0).astype(np.uint8))
