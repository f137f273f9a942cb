"""Pictures of a part that always lies the same way, and what people do to copies of them."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Picture = NDArray[np.uint8]


def washer(seed: int, *, side: int = 96) -> Picture:
    """A ring under a fixed light whose only individual feature is its grain (3 grey levels) and the camera's noise."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    radius = np.hypot(x, y)
    ring = (radius < 0.40) & (radius > 0.14)
    print_on_it = ring & (np.abs(np.sin(6 * np.arctan2(y, x))) > 0.8) & (np.abs(radius - 0.3) < 0.05)
    sharp = 40.0 + ring * (150 + 25 * np.cos(np.arctan2(y, x))) - 60 * print_on_it
    grain = gaussian_filter(rng.normal(size=(side, side)), 1.2)
    shade = gaussian_filter(sharp, 0.7) + ring * 3 * grain / grain.std() + rng.normal(0, 1.5, (side, side))
    return np.repeat(np.clip(shade, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def reencoded(picture: Picture) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=90)
    return np.asarray(Image.open(buffer))


def shifted(rows: int, columns: int) -> Callable[[Picture], Picture]:
    """Move the content; the border is repeated."""

    def move(picture: Picture) -> Picture:
        height, width = picture.shape[:2]
        from_rows = np.clip(np.arange(height) - rows, 0, height - 1)
        from_columns = np.clip(np.arange(width) - columns, 0, width - 1)
        return picture[from_rows][:, from_columns]

    return move


def brightened(factor: float) -> Callable[[Picture], Picture]:
    return lambda picture: np.clip(picture * factor + 0.5, 0, 255).astype(np.uint8)


def halved(picture: Picture) -> Picture:
    small = Image.fromarray(picture).resize((picture.shape[1] // 2, picture.shape[0] // 2), Image.Resampling.BOX)
    return np.asarray(small)


def all_at_once(picture: Picture) -> Picture:
    return reencoded(brightened(0.9)(shifted(3, -2)(picture)))


# Every kind of copy that the leak check promises to find.
COPIES: dict[str, Callable[[Picture], Picture]] = {
    "reencoded": reencoded,
    "brighter": brightened(1.1),
    "darker": brightened(0.9),
    "shifted 1": shifted(1, -1),
    "shifted 3": shifted(-3, 2),
    "shifted 8": shifted(8, 8),
    "mirrored": lambda picture: picture[:, ::-1],
    "turned": lambda picture: np.rot90(picture),
    "all at once": all_at_once,
}
