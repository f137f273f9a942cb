"""What a source yields: one real image with its name, its place in the source's own split, and how to read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from anosynth.errors import DataError

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class SourceItem:
    """One real image before it is decoded, hashed and given a role.

    Attributes:
        path: file path relative to the source's root, POSIX separators, any Unicode.
        category: slug of the product.
        defect: slug of the defect type; None for a normal image.
        part: the folder or column of the source's own split; None if the source has no split of its own.
        group: items of one group are never split; the path where no groups file says otherwise.
        licence: licence text of the image, never empty.
        read_image: returns the bytes of the image file; may raise OSError.
        read_mask: returns the bytes of the mask file; None for a normal image and for a mask that is missing.
        mask_path: path of the mask relative to the root, or where it was expected; None for a normal image.
        image_level: an anomalous image of a source that labels whole images: it has no mask, and that is no mistake.
    """

    path: str
    category: str
    defect: str | None
    part: Part | None
    group: str
    licence: str
    read_image: Callable[[], bytes]
    read_mask: Callable[[], bytes] | None
    mask_path: str | None
    image_level: bool = False

    def __post_init__(self) -> None:
        if self.part is not None and self.part not in PARTS:
            raise DataError(f"{self.path}: the split is {self.part!r}; allowed are {', '.join(PARTS)}")
        if self.defect is None and self.read_mask is not None:
            raise DataError(f"{self.path}: a normal image has the mask {self.mask_path}; remove it or name its defect")
        if self.image_level and (self.defect is None or self.read_mask is not None or self.mask_path is not None):
            raise DataError(f"{self.path}: labelled as a whole image, so it must be anomalous and have no mask")
