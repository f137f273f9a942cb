"""Image and pixel metrics of anomaly detection: exact from ranks in memory, or streamed through a histogram.

Scores point one way everywhere: higher is more anomalous. Ties count as ties. A metric that its input does not define
(no anomalous item, no normal item) is NaN, never 0 and never an exception, so that resampling code can go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.metrics import ranking
from anosynth.metrics.ranking import Groups, Totals
from anosynth.metrics.regions import MAX_REGIONS, region_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

MVTEC_MAX_FPR = 0.3
_BLOCK_BINS = 1 << 14
_SIGN = np.int32(-(1 << 31))


@dataclass(frozen=True)
class ImageMetrics:
    """Metrics over images, each in [0, 1] or NaN where undefined."""

    auroc: float
    ap: float
    f1_max: float


@dataclass(frozen=True)
class PixelMetrics:
    """Metrics over pixels (AUPRO: over regions), each in [0, 1] or NaN where undefined."""

    auroc: float
    ap: float
    f1_max: float
    aupro: float


def image_metrics(scores: NDArray[np.floating], anomalous: NDArray[np.bool_]) -> ImageMetrics:
    """Compute AUROC, average precision (step-wise, no interpolation) and the greatest F1, exact with ties.

    Args:
        scores: one per image, [N], finite; higher is more anomalous.
        anomalous: bool [N].

    Raises:
        ValueError: if shapes differ or a score is not finite.
    """
    groups = ranking.ranked(scores, anomalous)
    totals = ranking.total([groups])
    return ImageMetrics(
        auroc=ranking.roc_area([groups], totals).value,
        ap=ranking.average_precision([groups], totals).value,
        f1_max=ranking.f1_max([groups], totals).value,
    )


def pixel_metrics(
    maps: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.uint8]], *, max_fpr: float = MVTEC_MAX_FPR
) -> PixelMetrics:
    """Compute the pixel metrics exactly, by sorting all pixels at once: O(pixels) memory, for small sets and tests.

    Args:
        maps: anomaly maps, [H, W] each; sizes may differ between images.
        masks: ground truth of the same sizes; 0 is background.
        max_fpr: integration limit of AUPRO in (0, 1].

    Raises:
        ValueError: if sizes differ or a value is not finite.
    """
    scores, positive, weights = [np.zeros(0, np.float32)], [np.zeros(0, np.bool_)], [np.zeros(0, np.int64)]
    for anomaly_map, mask in zip(maps, masks, strict=True):
        _check_sizes(anomaly_map, mask)
        foreground, weight, _ = region_weights(mask)
        per_pixel = np.zeros(mask.size, np.int64)
        per_pixel[foreground] = weight
        scores.append(np.asarray(anomaly_map).ravel())
        positive.append(np.asarray(mask).ravel() != 0)
        weights.append(per_pixel)
    blocks = [ranking.ranked(np.concatenate(scores), np.concatenate(positive), np.concatenate(weights))]
    totals = ranking.total(blocks)
    return PixelMetrics(
        auroc=ranking.roc_area(blocks, totals).value,
        ap=ranking.average_precision(blocks, totals).value,
        f1_max=ranking.f1_max(blocks, totals).value,
        aupro=ranking.pro_area(blocks, totals, max_fpr=max_fpr).value,
    )


class PixelHistogram:
    """Pixel metrics of any number of images in constant memory: a mergeable histogram over float32 bit patterns.

    The bits of a float32, taken as an integer with the sign handled, rise with the value. Their top `bits` bits name
    the bin: 1 sign bit, 8 exponent bits, the rest mantissa, so bins are relative: at 20 bits a bin spans 2**-11 of its
    value wherever the value lies, and no range has to be known beforehand. Three int64 counts per bin are kept:
    background pixels, foreground pixels, and region weight (`regions.region_weights`). Integers make `update` and
    `merge` exactly commutative and associative: any order, any cut over workers gives equal results to the last bit.

    Pixels in one bin are treated as tied, which is the only approximation; `error_bounds` bounds its effect from the
    counts themselves. It is exact for maps stored in bfloat16 from 16 bits on and in float16 from 19.

    Memory: 24 bytes * 2**bits (24 MiB at 20 bits), the temporaries of one image, and 2 MiB while a result is taken.
    """

    def __init__(self, *, bits: int = 20) -> None:
        """Start empty.

        Args:
            bits: log2 of the number of bins, 10 to 24.
        """
        if not 10 <= bits <= 24:
            raise ValueError(f"bits is {bits}; a histogram has 2**10 to 2**24 bins")
        self.bits = bits
        self.num_images = 0
        self.num_regions = 0
        self._background = np.zeros(1 << bits, np.int64)
        self._foreground = np.zeros(1 << bits, np.int64)
        self._hits = np.zeros(1 << bits, np.int64)

    def update(self, anomaly_map: NDArray[np.float32], mask: NDArray[np.uint8]) -> None:
        """Add one image.

        Args:
            anomaly_map: float32 [H, W], finite; higher is more anomalous.
            mask: [H, W]; 0 is background; all 0 for a normal image.

        Raises:
            ValueError: if sizes differ, the map is not float32, or a value is not finite.
        """
        _check_sizes(anomaly_map, mask)
        if anomaly_map.dtype != np.float32:
            raise ValueError(f"an anomaly map is float32, got {anomaly_map.dtype}")
        if not np.isfinite(anomaly_map).all():
            raise ValueError("an anomaly map must be finite")
        foreground, weights, num_regions = region_weights(mask)
        bins = self._bins(anomaly_map)
        np.add.at(self._background, bins, 1)
        if foreground.size:
            hit = bins[foreground]
            np.subtract.at(self._background, hit, 1)
            np.add.at(self._foreground, hit, 1)
            np.add.at(self._hits, hit, weights)
        self._count(1, num_regions)

    def merge(self, other: PixelHistogram) -> None:
        """Add everything another histogram has seen; `other` stays as it is.

        Raises:
            ValueError: if the numbers of bins differ.
        """
        if other.bits != self.bits:
            raise ValueError(f"histograms of 2**{self.bits} and 2**{other.bits} bins cannot be merged")
        self._background += other._background
        self._foreground += other._foreground
        self._hits += other._hits
        self._count(other.num_images, other.num_regions)

    def result(self, *, max_fpr: float = MVTEC_MAX_FPR) -> PixelMetrics:
        """Compute the metrics of everything seen so far."""
        return self._measure(max_fpr, 0)

    def error_bounds(self, *, max_fpr: float = MVTEC_MAX_FPR) -> PixelMetrics:
        """Bound |result - exact value| of each metric, whatever the true order inside the bins."""
        return self._measure(max_fpr, 1)

    def precision_recall(self, *, points: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return recall and precision [K <= points] over pixels for a plot; see `ranking.precision_recall`."""
        return ranking.precision_recall(self._blocks(), self._totals(), points=points)

    def used(self) -> tuple[NDArray[np.int64], Groups]:
        """Return the bins that hold pixels, ascending, int64 [K], and what they hold, int64 [K] each."""
        bins = np.flatnonzero(self._background | self._foreground)
        return bins, Groups(self._foreground[bins], self._background[bins], self._hits[bins])

    def flagged_from(self, threshold: float) -> tuple[int, int, int]:
        """Count what a threshold flags, to the width of a bin: the whole bin of `threshold` is flagged.

        Returns:
            Foreground pixels flagged, background pixels flagged, foreground pixels in all.
        """
        first = int(self._bins(np.array([threshold], np.float32))[0])
        return int(self._foreground[first:].sum()), int(self._background[first:].sum()), int(self._foreground.sum())

    def lower_edge(self, bin_index: int) -> float:
        """Return the least value of a bin, the threshold that flags it and everything above."""
        key = np.array([bin_index << (32 - self.bits)], np.uint32)
        raw = np.where(key >> np.uint32(31), key ^ np.uint32(1 << 31), ~key).astype(np.uint32)
        return float(raw.view(np.float32)[0])

    def _measure(self, max_fpr: float, which: int) -> PixelMetrics:
        totals = self._totals()
        return PixelMetrics(
            auroc=ranking.roc_area(self._blocks(), totals)[which],
            ap=ranking.average_precision(self._blocks(), totals)[which],
            f1_max=ranking.f1_max(self._blocks(), totals)[which],
            aupro=ranking.pro_area(self._blocks(), totals, max_fpr=max_fpr)[which],
        )

    def _bins(self, values: NDArray[np.float32]) -> NDArray[np.intp]:
        raw = np.add(values, np.float32(0.0)).ravel().view(np.int32)  # adding 0 turns -0.0 into 0.0
        raw ^= (raw >> 31) | _SIGN  # negative: flip all bits; else: flip the sign; now unsigned order = float order
        keys = raw.view(np.uint32)
        keys >>= np.uint32(32 - self.bits)
        return keys.astype(np.intp)

    def _blocks(self) -> Iterator[Groups]:
        for stop in range(1 << self.bits, 0, -_BLOCK_BINS):
            block = slice(max(stop - _BLOCK_BINS, 0), stop)
            background, foreground = self._background[block][::-1], self._foreground[block][::-1]
            used = np.flatnonzero(background | foreground)
            if used.size:
                yield Groups(foreground[used], background[used], self._hits[block][::-1][used])

    def _totals(self) -> Totals:
        return Totals(int(self._foreground.sum()), int(self._background.sum()), int(self._hits.sum()))

    def _count(self, num_images: int, num_regions: int) -> None:
        self.num_images += num_images
        self.num_regions += num_regions
        if self.num_regions > MAX_REGIONS:
            raise ValueError(f"more than {MAX_REGIONS} anomalous regions: are the masks noise?")


def _check_sizes(anomaly_map: NDArray[np.float32], mask: NDArray[np.uint8]) -> None:
    if anomaly_map.ndim != 2 or mask.shape != anomaly_map.shape:
        raise ValueError(
            f"map and mask must be [H, W] of one size, got {list(anomaly_map.shape)} and {list(mask.shape)}"
        )
