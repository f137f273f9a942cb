"""Small real folders in the layouts that sources read."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anosynth.imaging import encode_png
from anosynth.params import ObjectParams
from anosynth.sources.items import Part, SourceItem

SIDE = 24
BOTTLE = ObjectParams.model_validate({"name": "glass bottle"})


def picture(seed: int, *, height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    """A different image for every seed, uint8 RGB [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture_of(path: str) -> NDArray[np.uint8]:
    """The image that `item` gives a path."""
    return picture(zlib.crc32(path.encode()))


def spot(*, side: int = SIDE) -> NDArray[np.uint8]:
    """A mask with one square of foreground, uint8 [side, side]."""
    mask = np.zeros((side, side), dtype=np.uint8)
    mask[3:8, 4:9] = 255
    return mask


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def mvtec_tree(
    root: Path,
    *,
    category: str = "bottle",
    num_train: int = 4,
    num_test: int = 3,
    defects: dict[str, int] | None = None,
) -> Path:
    """An MVTec-shaped category; every image is different. Returns the category's folder."""
    folder = root / category
    seed = 0
    for part, count in (("train/good", num_train), ("test/good", num_test)):
        for at in range(count):
            write(folder / part / f"{at:03d}.png", encode_png(picture(seed := seed + 1)))
    for defect, count in ({"hole": 6} if defects is None else defects).items():
        for at in range(count):
            write(folder / "test" / defect / f"{at:03d}.png", encode_png(picture(seed := seed + 1)))
            write(folder / "ground_truth" / defect / f"{at:03d}_mask.png", encode_png(spot()))
    return folder


def item(
    path: str,
    *,
    defect: str | None = None,
    part: Part | None = "train",
    group: str | None = None,
    image: bytes | None = None,
    mask: bytes | None = None,
) -> SourceItem:
    """An item in memory."""
    data = encode_png(picture_of(path)) if image is None else image
    truth = mask if mask is not None else encode_png(spot())
    return SourceItem(
        path=path,
        category="bottle",
        defect=defect,
        part=part,
        group=group or path,
        licence="CC0-1.0",
        read_image=lambda: data,
        read_mask=None if defect is None else lambda: truth,
        mask_path=None if defect is None else f"masks/{path}",
    )


def paths(items: Sequence[SourceItem]) -> list[str]:
    return [item.path for item in items]
