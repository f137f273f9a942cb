"""Foreground masks that somebody else made: a folder that mirrors the source, one mask per image."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from anosynth.errors import DataError
from anosynth.imaging import decode_image, resize_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")


def read_foreground(folder: Path, path: str, *, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Read where the object is in one image, from a folder of masks by any tool (U2-Net, SAM, by hand).

    Args:
        folder: mirrors the source: the mask of `a/b/000.png` is `a/b/000` with any image suffix.
        path: of the image, relative to its source's root, as in its record.
        size_px: (height, width) of the image.

    Returns:
        uint8 [H, W] in {0, 255}. Soft masks are cut at the middle, values 0 and 1 are read too, other sizes are
        resized without mixing values.

    Raises:
        DataError: if there is no mask, it is unreadable, or it shows no object.
    """
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{path}: the path of an image is relative to its source and does not leave it")
    stem = folder.joinpath(*relative.parts).with_suffix("")
    file = next((found for suffix in SUFFIXES if (found := stem.with_name(stem.name + suffix)).is_file()), None)
    if file is None:
        raise DataError(
            f"{folder} has no foreground mask for {path} ({stem.name}.png or another image suffix is expected in "
            f"{stem.parent}); add it, or leave the folder out to have objects segmented"
        )
    grey = decode_image(file.read_bytes(), name=str(file)).image.mean(axis=2)
    mask = np.where(grey >= (128.0 if grey.max() > 1.0 else 0.5), 255, 0).astype(np.uint8)
    if not mask.any():
        raise DataError(f"{file}: the foreground mask is empty; it must cover the object")
    return mask if mask.shape == size_px else resize_mask(mask, size_px=size_px)
