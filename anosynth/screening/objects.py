"""Where the inspected object is in a synthetic sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from anosynth.features.foreground import segment_object
from anosynth.imaging import resize_image
from anosynth.samples import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ObjectMasks:
    """The object's outline in samples: the parent's, where a sample was made on a real image, else the sample's own.

    The parent shows the object whole; in the sample a piece of it may be missing, and the mask lies right there.
    """

    def __init__(self, real_image: Callable[[str], NDArray[np.uint8] | None]) -> None:
        """Remember how to get a real image, uint8 RGB [H, W, 3], by its sha256; None if there is no such image."""
        self._real_image = real_image
        self._known: dict[tuple[str, int, int], NDArray[np.uint8]] = {}

    def mask(self, sample: Sample) -> NDArray[np.uint8]:
        """The object in a sample, uint8 [H, W] in {0, 255}; all 255 for a surface that fills the frame."""
        parent_id = sample.provenance.parent_id
        if parent_id is None:
            return segment_object(sample.image)
        height, width = sample.image.shape[:2]
        key = (parent_id, height, width)
        if key not in self._known:
            parent = self._real_image(parent_id)
            if parent is None:
                return segment_object(sample.image)
            self._known[key] = segment_object(resize_image(parent, size_px=(height, width)))
        return self._known[key]
