"""Text and pictures as HTML: everything that comes from data is escaped here."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from anosynth.imaging import resize_image, resize_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

THUMBNAIL_PX = 128
JPEG_QUALITY = 80
MASK_RGB = (255, 0, 200)

_CELLS = re.compile(r"(?<!\\)\|")


def text(value: object) -> str:
    """Escape a value for element text and quoted attributes."""
    return escape(str(value), quote=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, row_heads: int = 2) -> str:
    """Draw a table that scrolls sideways by itself; the first `row_heads` cells of a row are its heading."""
    cells = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    lines = []
    for row in rows:
        first = "".join(f'<th scope="row">{text(cell)}</th>' for cell in row[:row_heads])
        lines.append(f"<tr>{first}{''.join(f'<td>{_number(cell)}</td>' for cell in row[row_heads:])}</tr>")
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{text(caption)}"><table><caption>{text(caption)}'
        f"</caption><thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def from_markdown(markdown: str) -> str:
    """Write the report's own Markdown as HTML: headings of the second level, tables and paragraphs, nothing else.

    A table takes the heading above it as its caption.
    """
    parts, title = [], ""
    for block in filter(None, (block.strip() for block in markdown.split("\n\n"))):
        lines = block.splitlines()
        if block.startswith("## "):
            title = block.removeprefix("## ")
            parts.append(f"<h2>{text(title)}</h2>")
        elif block.startswith("| "):
            rows = [[cell.strip().replace("\\|", "|") for cell in _CELLS.split(line)[1:-1]] for line in lines]
            parts.append(table(rows[0], rows[2:], caption=title))
        else:
            parts.append(f"<p>{text(' '.join(lines))}</p>")
    return "".join(parts)


def _number(cell: str) -> str:
    """A value with its interval below it; anything else as it is."""
    value, bracket, interval = cell.partition(" [")
    if not bracket or not interval.endswith("]") or " " in value:
        return text(cell)
    return f'{text(value)} <span class="interval">[{text(interval)}</span>'


def photo(image: NDArray[np.uint8], *, alt: str, size_px: int = THUMBNAIL_PX) -> str:
    """An image as a small JPEG inside the page, longer side at most `size_px`; uint8 [H, W, 3]."""
    small = Image.fromarray(resize_image(image, size_px=_fitted(image.shape[0], image.shape[1], size_px)))
    written = io.BytesIO()
    small.save(written, "JPEG", quality=JPEG_QUALITY)
    return _picture("jpeg", written.getvalue(), small.width, small.height, alt)


def drawing(mask: NDArray[np.uint8], *, alt: str) -> str:
    """A mask as a small one-bit PNG inside the page; uint8 [H, W] in {0, 255}."""
    small = Image.fromarray(resize_mask(mask, size_px=_fitted(mask.shape[0], mask.shape[1]))).convert("1")
    written = io.BytesIO()
    small.save(written, "PNG", optimize=True)
    return _picture("png", written.getvalue(), small.width, small.height, alt)


def overlay(image: NDArray[np.uint8], mask: NDArray[np.uint8], *, alt: str) -> str:
    """An image with its mask tinted, as a small JPEG inside the page."""
    size = _fitted(image.shape[0], image.shape[1])
    small, inside = resize_image(image, size_px=size).copy(), resize_mask(mask, size_px=size) > 0
    small[inside] = (small[inside].astype(np.uint16) + np.array(MASK_RGB, np.uint16)) // 2
    return photo(small, alt=alt)


def _fitted(height: int, width: int, size_px: int = THUMBNAIL_PX) -> tuple[int, int]:
    scale = min(1.0, size_px / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _picture(kind: str, data: bytes, width: int, height: int, alt: str) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return f'<img src="{source}" width="{width}" height="{height}" alt="{text(alt)}" loading="lazy">'
