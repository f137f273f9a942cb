"""One fit of a detector on the images of one role: metrics, leave-one-out values, thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from anosynth.metrics.evaluation import Evaluation
from anosynth.metrics.left_out import UNITS, LeftOut
from anosynth.metrics.thresholds import best_pixel, best_score, images_at, pixels_at
from anosynth.results import AtThreshold, LeftOutRow
from anosynth.samples import Prediction, Record

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FitMeasure:
    """Gathers the answers of one fit, image by image.

    Attributes:
        evaluation: metrics over all images and by defect type.
    """

    def __init__(self, *, bits: int) -> None:
        """Start empty; `bits` is the log2 of the number of histogram bins."""
        self.evaluation = Evaluation(bits=bits)
        self._left_out = LeftOut()
        self._scores: list[float] = []
        self._labels: list[bool] = []

    def add(self, record: Record, answer: Prediction, mask: NDArray[np.uint8] | None) -> None:
        """Add one image; see `Evaluation.add` for the mask."""
        anomalous = record.defect is not None
        self.evaluation.add(defect=record.defect, score=answer.score, anomaly_map=answer.anomaly_map, mask=mask)
        self._left_out.add(
            group=record.group,
            name=record.path,
            score=answer.score,
            anomalous=anomalous,
            anomaly_map=answer.anomaly_map,
            mask=mask,
        )
        self._scores.append(answer.score)
        self._labels.append(anomalous)

    def left_out_rows(self, arm: str, seed: str, *, max_fpr: float) -> list[LeftOutRow]:
        """Return the metrics of everything and without each group, and without each image where groups are larger."""
        whole = self._left_out.whole(max_fpr=max_fpr)
        rows = [LeftOutRow(arm, seed, "nothing", "", whole)]
        for unit in UNITS:
            names = self._left_out.names(unit)
            if unit == "image" and len(names) == len(self._left_out.names("group")):
                continue
            values = self._left_out.values(unit, max_fpr=max_fpr)
            rows += [
                LeftOutRow(arm, seed, unit, name, {metric: float(found[at]) for metric, found in values.items()})
                for at, name in enumerate(names)
            ]
        return rows

    def best_thresholds(self) -> dict[str, float]:
        """Choose the thresholds with the greatest F1 here, "image" and "pixel"; what cannot be chosen is not there."""
        found = {"image": best_score(np.array(self._scores), np.array(self._labels, dtype=np.bool_))}
        if self.evaluation.has_masks():
            found["pixel"] = best_pixel(self.evaluation.pixels())
        return {name: threshold for name, threshold in found.items() if threshold is not None}

    def at_thresholds(self, thresholds: Mapping[str, float]) -> dict[str, AtThreshold]:
        """Measure thresholds that were chosen elsewhere, by the names of `best_thresholds`."""
        found = {}
        if "image" in thresholds:
            labels = np.array(self._labels, dtype=np.bool_)
            found["image"] = images_at(thresholds["image"], np.array(self._scores), labels)
        if "pixel" in thresholds and self.evaluation.has_masks():
            found["pixel"] = pixels_at(thresholds["pixel"], self.evaluation.pixels())
        return found
