"""Bytes to pixels and back: decoding, encoding, resizing, value ranges, perceptual hash."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from anosynth.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_PIXELS = 200_000_000
PHASH_SIDE = 8


@dataclass(frozen=True)
class Decoded:
    """Pixels of an image file.

    Attributes:
        image: uint8 RGB [H, W, 3].
        converted_from: "" if the file was plain 8-bit RGB, else what it was ("16-bit", "RGBA", "palette", "grey", ...).
    """

    image: NDArray[np.uint8]
    converted_from: str


def decode_image(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode an image file of any common kind to 8-bit RGB.

    16-bit files are scaled from their full range [0, 65535]; alpha is dropped onto black-free colours
    (the colour planes are kept, the alpha plane is ignored); palettes are expanded; EXIF orientation is applied.

    Args:
        data: the file's bytes.
        name: what to call the file in errors.
        max_pixels: refuse larger images before they are decoded (decompression bombs).

    Raises:
        DataError: if the file is not an image, truncated, or too large.
    """
    opened = _open(data, name=name, max_pixels=max_pixels)
    mode = opened.mode
    try:
        opened.load()
        orientation = opened.getexif().get(0x0112, 1)
        if mode.startswith("I;16") or mode == "I":
            wide = np.asarray(opened).astype(np.int64)
            grey = np.clip((wide * 255 + 32767) // 65535, 0, 255).astype(np.uint8)
            image = np.repeat(grey[:, :, None], 3, axis=2)
            kind = "16-bit"
        elif mode == "RGB":
            image, kind = np.asarray(opened), ""
        elif mode == "RGBA":
            image, kind = np.asarray(opened)[:, :, :3], "RGBA"
        else:
            image, kind = np.asarray(opened.convert("RGB")), _MODE_NAMES.get(mode, mode)
        if orientation != 1:
            image, kind = _orient(image, orientation), kind or "EXIF orientation"
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{name}: the image is truncated or damaged ({error}); replace the file") from error
    return Decoded(np.ascontiguousarray(image), kind)


_MODE_NAMES = {"P": "palette", "L": "grey", "LA": "grey with alpha", "1": "1-bit", "CMYK": "CMYK", "F": "float"}


def _open(data: bytes, *, name: str, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image file ({len(data)} bytes); replace or remove it") from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{name}: too large to be an inspection image ({error}); at most {max_pixels} pixels"
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{name}: the image is truncated or damaged ({error}); replace the file") from error
    width, height = opened.size
    if width * height > max_pixels:
        raise DataError(f"{name}: {width} x {height} px is more than {max_pixels} pixels allowed; resize it")
    return opened


def _orient(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    flips = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}
    turns, mirror = flips.get(orientation, (0, False))
    turned = np.rot90(image, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirror else turned)


def decode_mask(data: bytes, *, name: str) -> NDArray[np.uint8]:
    """Decode a mask file to uint8 [H, W] in {0, 255}.

    A file with exactly two values, one of them 0, is read as background and foreground (so {0, 1} and {0, 255} work).

    Raises:
        DataError: if the file is not an image or has grey levels (a mask that was resized smoothly or saved as JPEG).
    """
    opened = _open(data, name=name, max_pixels=MAX_PIXELS)
    try:
        opened.load()
        if opened.mode in ("RGB", "RGBA", "CMYK"):
            planes = np.asarray(opened.convert("RGB"))
            levels = planes.max(axis=2)
        else:
            levels = np.asarray(opened).astype(np.int64)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{name}: the mask is truncated or damaged ({error}); replace the file") from error
    if levels.ndim == 3:
        levels = levels[:, :, 0]
    values = np.unique(levels)
    if values.size > 2 or (values.size == 2 and values[0] != 0):
        raise DataError(
            f"{name}: the mask has {values.size} grey levels ({values[:4].tolist()} ...); "
            "a mask holds 0 and one other value, so save it as PNG without smoothing"
        )
    return np.where(levels > 0, 255, 0).astype(np.uint8)


def encode_png(image: NDArray[np.uint8], *, compress_level: int = 1) -> bytes:
    """Encode uint8 [H, W, 3] or [H, W] as PNG; equal pixels give equal bytes with one Pillow version."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()


def encode_webp(image: NDArray[np.uint8]) -> bytes:
    """Encode uint8 RGB [H, W, 3] losslessly as WebP with the fastest effort: the default codec of shards."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="WEBP", lossless=True, quality=0, method=0, exact=True)
    return buffer.getvalue()


def resize_image(image: NDArray[np.uint8], *, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize uint8 RGB [H, W, 3] to (height, width): area average when shrinking, bicubic when growing."""
    height, width = size_px
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    how = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(image).resize((width, height), how))


def resize_mask(mask: NDArray[np.uint8], *, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a {0, 255} mask [H, W] to (height, width) by nearest neighbour; values stay {0, 255}.

    A foreground that would vanish (thinner than one output pixel) keeps the output pixel it covers most.
    """
    height, width = size_px
    if mask.shape == (height, width):
        return np.ascontiguousarray(mask)
    small = np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    if not small.any() and mask.any():
        share = np.asarray(Image.fromarray(mask).convert("F").resize((width, height), Image.Resampling.BOX))
        small[np.unravel_index(int(np.argmax(share)), share.shape)] = 255
    return small


def to_unit(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in [-1, 1]."""
    return np.moveaxis(image.astype(np.float32) / 127.5 - 1.0, -1, -3).copy()


def from_unit(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """float32 [..., 3, H, W] in [-1, 1] (clipped) -> uint8 [..., H, W, 3]."""
    scaled = np.rint((np.clip(pixels, -1.0, 1.0) + 1.0) * 127.5)
    return np.ascontiguousarray(np.moveaxis(scaled.astype(np.uint8), -3, -1))


def perceptual_hash(image: NDArray[np.uint8]) -> str:
    """64-bit perceptual hash: signs of the lowest 8 x 8 cosine coefficients against their median.

    The grey image is area-reduced to 32 x 32 first; the mean coefficient is left out of the median.

    Returns:
        16 hexadecimal characters. Similar pictures differ in few bits (`hamming_bits`), but the reverse is not true:
        aligned pictures of different parts can be as close.
    """
    side = 4 * PHASH_SIDE
    small = Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.float64)
    at = np.arange(side)
    basis = np.cos(np.pi * (2 * at[None, :] + 1) * at[:PHASH_SIDE, None] / (2 * side))
    low = (basis @ grey @ basis.T).ravel()
    bits = low > np.median(low[1:])
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"


def hamming_bits(first: str, second: str) -> int:
    """Number of differing bits of two hashes from `perceptual_hash`, 0 to 64."""
    return (int(first, 16) ^ int(second, 16)).bit_count()
