"""Bytes to pixels and back: decoding, encoding, resizing, value ranges, perceptual hash."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from anosynth.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_PIXELS = 178_956_970  # Pillow's own limit; what it refuses to open, a larger value here could not let through
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

    16-bit files are scaled from their full range [0, 65535] (colour by its high bytes, grey rounded); alpha is ignored,
    not blended; palettes are expanded; EXIF orientation is applied; of several frames the first is read.

    Args:
        data: the file's bytes.
        name: what to call the file in errors.
        max_pixels: refuse larger images before they are decoded (decompression bombs).

    Raises:
        DataError: if the file is not an image, truncated, too large, or holds numbers without an agreed range
            (floating point, 32-bit integers above 65535).
    """
    opened = _open(data, name=name, max_pixels=max_pixels)
    mode, deep = opened.mode, any(_DEEP.search(str(tile[3])) for tile in getattr(opened, "tile", ()))
    try:
        opened.load()
        orientation = opened.getexif().get(0x0112, 1)
        planes = np.asarray(opened if mode in _AS_STORED else opened.convert("RGB"))
    except _DECODING_ERRORS as error:
        raise DataError(f"{name}: the image is truncated or damaged ({error}); replace the file") from error
    if mode == "F" or (mode == "I" and not (planes.min() >= 0 and planes.max() <= 65535)):
        raise DataError(f"{name}: its pixels are numbers without an agreed range (mode {mode}); save 8 or 16 bits")
    if mode.startswith("I"):
        grey = ((planes.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)
        image, kind = np.repeat(grey[:, :, None], 3, axis=2), "16-bit"
    else:
        image, kind = planes[:, :, :3], "16-bit" if deep else _MODE_NAMES.get(mode, mode)
    if orientation in _ORIENTATIONS:
        image, kind = _orient(image, orientation), kind or "EXIF orientation"
    return Decoded(np.ascontiguousarray(image), kind)


def image_size(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return height and width that an image file states, without decoding it; EXIF orientation is not applied.

    Raises:
        DataError: if the file is not an image, or states more than `max_pixels`.
    """
    opened = _open(data, name=name, max_pixels=max_pixels)
    return opened.height, opened.width


_AS_STORED = ("RGB", "RGBA", "F", "I", "I;16", "I;16L", "I;16B", "I;16N")
_MODE_NAMES = {"RGB": "", "P": "palette", "L": "grey", "LA": "grey with alpha", "1": "1-bit"}
_DEEP = re.compile(r"\b(?:RGB|RGBA|RGBX|L|LA|CMYK);16[BLN]\b")
# What Pillow's readers raise on bytes they cannot follow, beside its own UnidentifiedImageError (an OSError).
_DECODING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)


def _open(data: bytes, *, name: str, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image file ({len(data)} bytes); replace or remove it") from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{name}: too large to be an inspection image ({error}); at most {min(max_pixels, MAX_PIXELS)} pixels"
        ) from error
    except _DECODING_ERRORS as error:
        raise DataError(f"{name}: the image is truncated or damaged ({error}); replace the file") from error
    width, height = opened.size
    if width * height > max_pixels:
        raise DataError(f"{name}: {width} x {height} px is more than {max_pixels} pixels allowed; resize it")
    return opened


# EXIF orientation -> quarter turns against the clock, then whether left and right change places.
_ORIENTATIONS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}


def _orient(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    turns, mirror = _ORIENTATIONS[orientation]
    turned = np.rot90(image, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirror else turned)


def decode_mask(data: bytes, *, name: str) -> NDArray[np.uint8]:
    """Decode a mask file to uint8 [H, W] in {0, 255}.

    A file with exactly two values, one of them 0, is read as background and foreground (so {0, 1} and {0, 255} work).
    Colours count by their brightest plane, palettes by their colours, alpha not at all.

    Raises:
        DataError: if the file is not an image or has grey levels (a mask that was resized smoothly or saved as JPEG).
    """
    opened = _open(data, name=name, max_pixels=MAX_PIXELS)
    try:
        opened.load()
        single = opened.mode in ("1", "L", "F") or opened.mode.startswith("I")
        levels = np.asarray(opened) if single else np.asarray(opened.convert("RGB")).max(axis=2)
    except _DECODING_ERRORS as error:
        raise DataError(f"{name}: the mask is truncated or damaged ({error}); replace the file") from error
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

    A foreground that would vanish (thinner than one output pixel) keeps the output pixel it covers most, and so does a
    background.
    """
    height, width = size_px
    if mask.shape == (height, width):
        return np.ascontiguousarray(mask)
    small = np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    if (not small.any() and mask.any()) or (small.size > 1 and small.all() and not mask.all()):
        share = np.asarray(Image.fromarray(mask).convert("F").resize((width, height), Image.Resampling.BOX))
        at = int(np.argmin(share) if small.all() else np.argmax(share))
        small.flat[at] = 0 if small.all() else 255
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
