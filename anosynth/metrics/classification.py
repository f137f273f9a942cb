"""Accuracy and macro-F1 from confusion counts, exact; counts add up, so any cut of the images can be left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def confusion(true: NDArray[np.int64], predicted: NDArray[np.int64], *, num_classes: int) -> NDArray[np.int64]:
    """Count images by true class (row) and predicted class (column), int64 [C, C].

    Raises:
        ValueError: if a class is outside [0, C) or the lengths differ.
    """
    if true.shape != predicted.shape:
        raise ValueError(f"{true.size} true and {predicted.size} predicted classes do not fit together")
    pairs = np.concatenate([true, predicted])
    if pairs.size and not (pairs.min() >= 0 and pairs.max() < num_classes):
        raise ValueError(f"classes must lie in [0, {num_classes}), got {pairs.min()} to {pairs.max()}")
    counts = np.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def accuracy(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of images on the diagonal of [..., C, C]; NaN for no images."""
    total = counts.sum((-2, -1))
    right = np.trace(counts, axis1=-2, axis2=-1)
    return np.divide(right, total, out=np.full(np.shape(total), np.nan), where=np.asarray(total > 0))


def class_f1(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 = 2 TP / (2 TP + FP + FN) of every class of [..., C, C]; NaN for a class neither true nor predicted."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    marked = counts.sum(-1) + counts.sum(-2)
    return np.divide(2 * hits, marked, out=np.full(marked.shape, np.nan), where=marked > 0)


def macro_f1(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of `class_f1` over the classes that are true or predicted somewhere; NaN for no images."""
    scores = class_f1(counts)
    defined = np.isfinite(scores)
    number = defined.sum(-1)
    total = np.where(defined, scores, 0.0).sum(-1)
    return np.divide(total, number, out=np.full(np.shape(number), np.nan), where=np.asarray(number > 0))
