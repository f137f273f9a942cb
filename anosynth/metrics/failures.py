"""The test images a detector gets most wrong, and a picture of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.imaging import resize_image, resize_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

PICTURE_HEIGHT_PX = 192
_GAP_PX = 4


@dataclass(frozen=True, eq=False)
class Failure:
    """One test image with its answer.

    Attributes:
        path: of the image in its source.
        defect: None for a normal image.
        score: higher is more anomalous.
        image, mask, anomaly_map: uint8 [H, W, 3], uint8 [H, W] and float32 [H, W]; the mask is None where nobody knows
            what is anomalous in the image.
    """

    path: str
    defect: str | None
    score: float
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None
    anomaly_map: NDArray[np.float32]


class MostWrong:
    """Keeps the `count` normal images with the highest and the `count` anomalous ones with the lowest scores.

    Nothing else is kept, so the memory does not grow with the test set. Ties go to the lower path.
    """

    def __init__(self, count: int) -> None:
        """Keep up to `count` images of each kind; 0 keeps none."""
        self._count = count
        self._alarms: list[Failure] = []
        self._misses: list[Failure] = []
        self._low, self._high = np.inf, -np.inf

    def add(self, answer: Failure) -> None:
        """Consider one image."""
        self._low = min(self._low, float(answer.anomaly_map.min()))
        self._high = max(self._high, float(answer.anomaly_map.max()))
        kept = self._misses if answer.defect is not None else self._alarms
        kept.append(answer)
        sign = 1.0 if answer.defect is not None else -1.0
        kept.sort(key=lambda one: (sign * one.score, one.path))
        del kept[self._count :]

    @property
    def false_alarms(self) -> tuple[Failure, ...]:
        """Normal images, most anomalous first."""
        return tuple(self._alarms)

    @property
    def misses(self) -> tuple[Failure, ...]:
        """Anomalous images, most normal first."""
        return tuple(self._misses)

    @property
    def map_range(self) -> tuple[float, float]:
        """Least and greatest value of all maps seen: one scale for all pictures."""
        return float(self._low), float(self._high)


def picture(failure: Failure, *, map_range: tuple[float, float]) -> NDArray[np.uint8]:
    """Draw image, mask (grey where there is none) and anomaly map side by side, uint8 [192, W, 3].

    Args:
        failure: what to draw.
        map_range: map values drawn black and white.
    """
    height, width = failure.image.shape[:2]
    size = (PICTURE_HEIGHT_PX, max(1, round(PICTURE_HEIGHT_PX * width / height)))
    low, high = map_range
    level = (failure.anomaly_map - low) / max(high - low, 1e-12)
    plane = np.full(size, 128, np.uint8) if failure.mask is None else resize_mask(failure.mask, size_px=size)
    mask = np.repeat(plane[:, :, None], 3, axis=2)
    gap = np.full((PICTURE_HEIGHT_PX, _GAP_PX, 3), 128, np.uint8)
    panels = [resize_image(failure.image, size_px=size), gap, mask, gap, resize_image(_heat(level), size_px=size)]
    return np.concatenate(panels, axis=1)


def _heat(level: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[0, 1] -> black, red, yellow, white: uint8 [H, W, 3]."""
    ramps = np.clip(3.0 * level[:, :, None] - np.arange(3.0), 0.0, 1.0)
    return np.rint(255.0 * ramps).astype(np.uint8)
