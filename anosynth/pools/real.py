"""The real images that synthetic ones are made from, with what has to be passed on about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from anosynth.errors import DataError
from anosynth.imaging import resize_image, resize_mask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class RealNormal:
    """A real normal image that defects are put into, or that textures are cut from.

    Attributes:
        image: uint8 RGB [H, W, 3].
        sha256: digest of its pixels, the record's identity.
        licence: of the image.
    """

    image: NDArray[np.uint8]
    sha256: str
    licence: str


@dataclass(frozen=True, eq=False)
class RealPair:
    """A real anomalous shot.

    Attributes:
        image: uint8 RGB [H, W, 3].
        mask: uint8 [H, W] in {0, 255}, not empty.
        sha256: digest of its pixels, the record's identity.
        licence: of the image.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    sha256: str
    licence: str

    def __post_init__(self) -> None:
        if self.mask.shape != self.image.shape[:2]:
            raise DataError(
                f"shot {self.sha256[:12]}: the mask is {list(self.mask.shape)}, the image {list(self.image.shape[:2])}"
            )
        if not self.mask.any():
            raise DataError(
                f"shot {self.sha256[:12]}: the mask is empty; an anomalous shot shows its defect, so mend the mask"
            )


def resize_normals(normals: Iterable[RealNormal], *, size_px: int) -> tuple[RealNormal, ...]:
    """Bring normal images to size_px x size_px."""
    size = (size_px, size_px)
    return tuple(replace(normal, image=resize_image(normal.image, size_px=size)) for normal in normals)


def resize_pairs(pairs: Iterable[RealPair], *, size_px: int) -> tuple[RealPair, ...]:
    """Bring shots to size_px x size_px; a defect thinner than one output pixel keeps one (`resize_mask`)."""
    size = (size_px, size_px)
    return tuple(
        replace(pair, image=resize_image(pair.image, size_px=size), mask=resize_mask(pair.mask, size_px=size))
        for pair in pairs
    )
