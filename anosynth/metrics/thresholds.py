"""A threshold chosen on one set of images and what it earns on another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anosynth.metrics import ranking
from anosynth.metrics.detection import PixelHistogram
from anosynth.results import AtThreshold

if TYPE_CHECKING:
    from numpy.typing import NDArray


def best_score(scores: NDArray[np.float64], anomalous: NDArray[np.bool_]) -> float | None:
    """Return the score with the greatest F1 when used as a threshold, the highest of equals; None without anomalies.

    Args:
        scores: of the images that choose, [N].
        anomalous: bool [N].
    """
    if not anomalous.any():
        return None
    groups = ranking.ranked(scores, anomalous)
    candidates = np.unique(scores)[::-1]
    return float(candidates[_best(groups.positives, groups.negatives)])


def best_pixel(histogram: PixelHistogram) -> float | None:
    """Return the lower edge of the histogram's bin with the greatest F1 over pixels; None without anomalous pixels."""
    bins, counts = histogram.used()
    if not counts.positives.any():
        return None
    best = _best(counts.positives[::-1], counts.negatives[::-1])
    return histogram.lower_edge(int(bins[::-1][best]))


def images_at(threshold: float, scores: NDArray[np.float64], anomalous: NDArray[np.bool_]) -> AtThreshold:
    """Measure a threshold on images; scores [N], anomalous bool [N]."""
    flagged = scores >= threshold
    return _measured(
        threshold, int((flagged & anomalous).sum()), int((flagged & ~anomalous).sum()), int(anomalous.sum())
    )


def pixels_at(threshold: float, histogram: PixelHistogram) -> AtThreshold:
    """Measure a threshold on pixels, to the width of a bin."""
    return _measured(threshold, *histogram.flagged_from(threshold))


def _best(positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> int:
    """Index of the group, highest scores first, down to which flagging has the greatest F1 = 2 TP / (TP + FP + P)."""
    tp, fp = positives.cumsum(), negatives.cumsum()
    return int(np.argmax(2 * tp / (tp + fp + tp[-1])))


def _measured(threshold: float, tp: int, fp: int, positives: int) -> AtThreshold:
    if positives == 0:
        return AtThreshold(threshold, None, tp / (tp + fp) if tp + fp else None, None)
    return AtThreshold(threshold, 2 * tp / (tp + fp + positives), tp / (tp + fp) if tp + fp else None, tp / positives)
