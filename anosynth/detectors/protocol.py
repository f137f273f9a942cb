"""What a detector is: fitted on labelled images, asked about unlabelled ones, saved and loaded without loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from anosynth.samples import Prediction, check_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One training image.

    Attributes:
        name: what to call it in errors: a record's path or a sample's id.
        image: uint8 RGB [H, W, 3].
        mask: uint8 [H, W] in {0, 255} with foreground and background; None for a normal image.
        synthetic: True if a generator made it.
        defect: slug of the defect type; None for a normal image, or where nobody asks.
        free: True if a generator drew it from noise alone: no real image says where its part lies.
    """

    name: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None
    synthetic: bool
    defect: str | None = None
    free: bool = False

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            raise ValueError(f"{self.name}: image must be uint8 [H, W, 3], got {self.image.dtype} {self.image.shape}")
        if self.mask is not None:
            check_mask(self.mask, self.image.shape[:2], self.name)


class Detector(Protocol):
    """The one shape of every detector, that of scikit-learn.

    Scores and maps point one way: higher is more anomalous. Their scale is the detector's own.
    """

    def fit(self, normals: Sequence[LabelledImage], pairs: Sequence[LabelledImage]) -> None:
        """Learn from normal images and from pairs of an anomalous image and its mask.

        Args:
            normals: images without a mask; at least one.
            pairs: images with a mask. A one-class detector ignores them.

        Raises:
            DataError: if the detector needs a kind of image that is not there.
            TrainingError: if training diverges.
        """
        ...

    def predict(self, images: Iterable[tuple[str, NDArray[np.uint8]]]) -> Iterator[Prediction]:
        """Judge images lazily, in order.

        Args:
            images: (id, uint8 RGB [H, W, 3]) of any sizes.

        Returns:
            One prediction per image, with a map of the image's own size. It depends on that image alone.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the fitted state into an existing folder: `detector.json` and `weights.safetensors`."""
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; predictions are then equal to the last bit.

        Raises:
            BackboneError: if the files are missing, damaged, or of a detector with other settings.
        """
        ...
