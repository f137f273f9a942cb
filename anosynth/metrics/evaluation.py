"""Everything one fitted detector earns on one test set, gathered image by image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from anosynth.metrics.detection import PixelHistogram, image_metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1_max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")
METRICS = (*IMAGE_METRICS, *PIXEL_METRICS)


class Evaluation:
    """Image scores and pixel histograms, one histogram for the normal images and one per defect type.

    The metrics of one defect type are those of the normal images and the images of that type alone. Where an anomalous
    image has no mask, nobody knows which of its pixels are anomalous: pixel metrics that would need them are undefined.
    """

    def __init__(self, *, bits: int) -> None:
        """Start empty; `bits` is the log2 of the number of histogram bins."""
        self._bits = bits
        self._scores: list[tuple[str | None, float]] = []
        self._pixels: dict[str | None, PixelHistogram] = {}
        self._unmasked: set[str] = set()

    def add(
        self, *, defect: str | None, score: float, anomaly_map: NDArray[np.float32], mask: NDArray[np.uint8] | None
    ) -> None:
        """Add one image.

        Args:
            defect: its defect type; None for a normal image.
            score: of the image.
            anomaly_map: [H, W].
            mask: [H, W], all 0 for a normal image; None for an anomalous one without a mask.

        Raises:
            ValueError: if a normal image has no mask.
        """
        self._scores.append((defect, score))
        if defect not in self._pixels:
            self._pixels[defect] = PixelHistogram(bits=self._bits)
        if mask is not None:
            self._pixels[defect].update(anomaly_map, mask)
        elif defect is None:
            raise ValueError("the mask of a normal image is all 0, not missing")
        else:
            self._unmasked.add(defect)

    @property
    def defects(self) -> tuple[str, ...]:
        """The defect types seen, sorted."""
        return tuple(sorted(defect for defect in self._pixels if defect is not None))

    def has_masks(self, defect: str | None = None) -> bool:
        """Whether every anomalous image, or every one of a defect type, came with its mask."""
        return not self._unmasked if defect is None else defect not in self._unmasked

    def metrics(self, *, max_fpr: float, defect: str | None = None) -> dict[str, float]:
        """Return every metric of METRICS, NaN where undefined, over all images or over one defect type."""
        chosen = [(kind, score) for kind, score in self._scores if defect is None or kind in (None, defect)]
        scores = np.array([score for _, score in chosen])
        images = image_metrics(scores, np.array([kind is not None for kind, _ in chosen], dtype=np.bool_))
        found = dict(zip(IMAGE_METRICS, (images.auroc, images.ap, images.f1_max), strict=True))
        if not self.has_masks(defect):
            return found | dict.fromkeys(PIXEL_METRICS, np.nan)
        pixels = self.pixels(defect).result(max_fpr=max_fpr)
        return found | dict(zip(PIXEL_METRICS, (pixels.auroc, pixels.ap, pixels.f1_max, pixels.aupro), strict=True))

    def error_bounds(self, *, max_fpr: float) -> dict[str, float]:
        """Bound the error of each of PIXEL_METRICS over all images; see `PixelHistogram.error_bounds`.

        NaN where masks are missing.
        """
        if not self.has_masks():
            return dict.fromkeys(PIXEL_METRICS, np.nan)
        bounds = self.pixels().error_bounds(max_fpr=max_fpr)
        return dict(zip(PIXEL_METRICS, (bounds.auroc, bounds.ap, bounds.f1_max, bounds.aupro), strict=True))

    def pixels(self, defect: str | None = None) -> PixelHistogram:
        """Merge the histograms of all images with a mask, or of the normal ones and one defect type."""
        merged = PixelHistogram(bits=self._bits)
        for key, histogram in self._pixels.items():
            if defect is None or key in (None, defect):
                merged.merge(histogram)
        return merged


def json_numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    """Round to 6 decimals for a JSON file; a metric that is undefined becomes null."""
    return {name: None if np.isnan(value) else round(float(value), 6) for name, value in values.items()}
