"""Contact sheets: many small images on one picture, masks drawn as outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anosynth.imaging import resize_image, resize_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE_PX = 160
GAP_PX = 4
CAPTION_PX = 14
COLUMNS = 8
OUTLINE_RGB = (255, 0, 200)
PAPER, INK = 255, 40


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture of a sheet.

    Attributes:
        image: uint8 RGB [H, W, 3].
        mask: uint8 [H, W] in {0, 255}, or None.
        caption: a few words below it.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None
    caption: str


def contact_sheet(tiles: Sequence[Tile], *, columns: int = COLUMNS, tile_px: int = TILE_PX) -> NDArray[np.uint8]:
    """Lay out tiles row by row, each fitted into a square, its mask outlined just outside the foreground.

    Args:
        tiles: at least one.
        columns: tiles per row.
        tile_px: longer side of a tile.

    Returns:
        uint8 RGB [H, W, 3], W = columns tiles with gaps (fewer if there are fewer tiles).
    """
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    step_x, step_y = tile_px + GAP_PX, tile_px + CAPTION_PX + GAP_PX
    paper = np.full((rows * step_y + GAP_PX, columns * step_x + GAP_PX, 3), PAPER, dtype=np.uint8)
    corners = [(GAP_PX + at // columns * step_y, GAP_PX + at % columns * step_x) for at in range(len(tiles))]
    for tile, (top, left) in zip(tiles, corners, strict=True):
        picture = outlined(tile.image, tile.mask, size_px=tile_px)
        paper[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    drawn = Image.fromarray(paper)
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(size=10)
    for tile, (top, left) in zip(tiles, corners, strict=True):
        pen.text((left, top + tile_px + 1), _shortened(tile.caption, font, tile_px), fill=(INK,) * 3, font=font)
    return np.array(drawn)


def outlined(image: NDArray[np.uint8], mask: NDArray[np.uint8] | None, *, size_px: int) -> NDArray[np.uint8]:
    """Fit an image into a square of `size_px` and draw a line of one pixel around the foreground of its mask."""
    height, width = image.shape[:2]
    scale = size_px / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = resize_image(image, size_px=size).copy()
    if mask is not None:
        inside = np.pad(resize_mask(mask, size_px=size) > 0, 1)
        near = inside.copy()
        for axis in (0, 1):
            near |= np.roll(inside, 1, axis) | np.roll(inside, -1, axis)
        small[(near & ~inside)[1:-1, 1:-1]] = OUTLINE_RGB
    return small


def evenly(count: int, *, at_most: int) -> list[int]:
    """At most `at_most` positions of [0, count), evenly spaced, the first always among them."""
    if count <= at_most:
        return list(range(count))
    return [at * count // at_most for at in range(at_most)]


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> str:
    while text and font.getlength(text) > width_px:
        text = text[:-1]
    return text
