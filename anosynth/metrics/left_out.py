"""What a test set would say without each of its groups, or without each of its images: the input of `intervals`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from anosynth.metrics import ranking
from anosynth.metrics.detection import PixelHistogram, image_metrics
from anosynth.metrics.evaluation import IMAGE_METRICS, METRICS
from anosynth.metrics.ranking import Groups

if TYPE_CHECKING:
    from numpy.typing import NDArray

Unit = Literal["group", "image"]
UNITS: tuple[Unit, ...] = ("group", "image")
# Bins of 2**-7 of their value: coarse beside the metrics themselves, fine beside what leaving a group out changes.
BITS = 16


@dataclass(frozen=True, eq=False)
class _Counts:
    """Pixels of some images in the bins that they use, ascending."""

    bins: NDArray[np.int64]
    counts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Image:
    group: str
    name: str
    score: float
    anomalous: bool
    pixels: _Counts | None


class LeftOut:
    """Gathers one fit's answers image by image; holds a few thousand counts per image, whatever the image's size."""

    def __init__(self) -> None:
        """Start empty."""
        self._images: list[_Image] = []

    def add(
        self,
        *,
        group: str,
        name: str,
        score: float,
        anomalous: bool,
        anomaly_map: NDArray[np.float32],
        mask: NDArray[np.uint8] | None,
    ) -> None:
        """Add one image.

        Args:
            group: what the image shares with others, for example its physical part.
            name: of the image, unique.
            score: of the image.
            anomalous: its label.
            anomaly_map: float32 [H, W].
            mask: [H, W], all 0 for a normal image; None where nobody knows which pixels are anomalous.
        """
        pixels = None
        if mask is not None:
            histogram = PixelHistogram(bits=BITS)
            histogram.update(anomaly_map, mask)
            bins, counted = histogram.used()
            pixels = _Counts(bins, np.stack(counted))
        self._images.append(_Image(group, name, score, anomalous, pixels))

    def names(self, unit: Unit) -> tuple[str, ...]:
        """What `values` leaves out, sorted."""
        return tuple(sorted({self._of(image, unit) for image in self._images}))

    def whole(self, *, max_fpr: float) -> dict[str, float]:
        """Measure everything, in the same bins as `values`: what those are compared with."""
        return {metric: float(found[0]) for metric, found in self._measure([[]], max_fpr=max_fpr).items()}

    def values(self, unit: Unit, *, max_fpr: float) -> dict[str, NDArray[np.float64]]:
        """Measure everything but one group or image, for each of them.

        Args:
            unit: what to leave out.
            max_fpr: integration limit of AUPRO.

        Returns:
            Metric -> float64 [len(names(unit))], in the order of `names`; NaN where undefined.
        """
        members: dict[str, list[_Image]] = {name: [] for name in self.names(unit)}
        for image in self._images:
            members[self._of(image, unit)].append(image)
        return self._measure(list(members.values()), max_fpr=max_fpr)

    def _measure(self, members: Sequence[Sequence[_Image]], *, max_fpr: float) -> dict[str, NDArray[np.float64]]:
        found = [self._image_values(left) for left in members]
        pixels = self._pixel_values(members, max_fpr=max_fpr)
        table = np.array([(*one, *other) for one, other in zip(found, pixels, strict=True)])
        return {metric: table[:, at] for at, metric in enumerate(METRICS)}

    @staticmethod
    def _of(image: _Image, unit: Unit) -> str:
        return image.group if unit == "group" else image.name

    def _image_values(self, left: Sequence[_Image]) -> tuple[float, ...]:
        gone = {id(image) for image in left}
        rest = [image for image in self._images if id(image) not in gone]
        scores = np.array([image.score for image in rest], dtype=np.float64)
        measured = image_metrics(scores, np.array([image.anomalous for image in rest], dtype=np.bool_))
        found = (measured.auroc, measured.ap, measured.f1_max)
        assert len(found) == len(IMAGE_METRICS)
        return found

    def _pixel_values(self, members: Sequence[Sequence[_Image]], *, max_fpr: float) -> list[tuple[float, ...]]:
        everything = [image.pixels for image in self._images if image.pixels is not None]
        if len(everything) < len(self._images):
            return [(np.nan,) * (len(METRICS) - len(IMAGE_METRICS))] * len(members)
        bins = np.unique(np.concatenate([one.bins for one in everything]))
        whole = _summed(everything, bins)
        found: list[tuple[float, ...]] = []
        for left in members:
            rest = whole - _summed([image.pixels for image in left if image.pixels is not None], bins)
            descending = rest[:, ::-1]
            used = np.flatnonzero(descending[0] | descending[1])
            blocks = [Groups(*descending[:, used])]
            totals = ranking.total(blocks)
            found.append(
                (
                    ranking.roc_area(blocks, totals).value,
                    ranking.average_precision(blocks, totals).value,
                    ranking.f1_max(blocks, totals).value,
                    ranking.pro_area(blocks, totals, max_fpr=max_fpr).value,
                )
            )
        return found


def _summed(parts: Sequence[_Counts], bins: NDArray[np.int64]) -> NDArray[np.int64]:
    total = np.zeros((len(Groups._fields), bins.size), np.int64)
    for part in parts:
        total[:, np.searchsorted(bins, part.bins)] += part.counts
    return total
