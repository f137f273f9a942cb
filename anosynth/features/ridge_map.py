"""A linear map from image features to a text space without image-text pairs: ridge regression on classifier rows.

A classifier's row for a class and the embedding of the class's name describe the same thing in two spaces. The map that
takes one to the other also takes the features, which the rows are compared with, to text (after Frome et al. 2013,
"DeViSE", and Romera-Paredes and Torr 2015, who learn such maps from labelled images).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRENGTHS = (0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
LOGIT_SCALES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
# Every tenth class chooses strength and scale, every tenth other one measures; neighbours in the list are kin.
FOLDS = 10
CHOOSING, MEASURING = 0, 1


@dataclass(frozen=True, eq=False)
class RidgeMap:
    """x -> x A, into the text space whose origin is `text_mean`.

    Attributes:
        matrix: A, float32 [D, E].
        text_mean: float32 [E], mean embedding of the class names; cosines are taken between embeddings without it.
        strength: lambda, as a multiple of the mean squared length of the rows.
        logit_scale: factor on cosines under which the names of held-out classes are likeliest.
        held_out_top1: share of held-out classes whose row is mapped nearest to their own name among all held-out ones;
            measured on classes that chose nothing, with a map that saw none of them.
    """

    matrix: NDArray[np.float32]
    text_mean: NDArray[np.float32]
    strength: float
    logit_scale: float
    held_out_top1: float


def fit_ridge_map(rows: NDArray[np.floating], embeddings: NDArray[np.floating]) -> RidgeMap:
    """Fit the map in closed form; strength and scale are chosen on held-out classes.

        A = X^T (X X^T + lambda s I)^{-1} (T - t),    X = rows - mean row,  s = tr(X X^T) / C,  t = mean embedding

    1. On 9 of 10 classes, fit with every strength; the one with the best top-1 on the rest is taken (the first of
       equals), and with it the logit scale that gives the right names the highest likelihood.
    2. On another 9 of 10, fit with that strength; its top-1 on the rest is reported.
    3. Fit on all classes.

    Args:
        rows: classifier rows, [C, D], C at least 20.
        embeddings: embeddings of the classes' names in the same order, [C, E], of length 1.

    Returns:
        The map; the same bits for the same input.

    Raises:
        ValueError: if the shapes do not agree.
    """
    if rows.ndim != 2 or embeddings.ndim != 2 or len(rows) != len(embeddings) or len(rows) < 2 * FOLDS:
        raise ValueError(f"rows {rows.shape} and embeddings {embeddings.shape} must be [C, D] and [C, E], C >= 20")
    x = np.asarray(rows, np.float64) - np.mean(rows, axis=0, dtype=np.float64)
    y = np.asarray(embeddings, np.float64)
    fold = np.arange(len(x)) % FOLDS

    chosen = fold == CHOOSING
    best = (-1.0, STRENGTHS[0], np.empty((0, 0)))
    for strength in STRENGTHS:
        cosines = _cosines(x, y, chosen, strength)
        if (top1 := _top1(cosines)) > best[0]:
            best = (top1, strength, cosines)
    strength = best[1]
    scale = max(LOGIT_SCALES, key=lambda value: _mean_log_likelihood(value * best[2]))
    measured = _top1(_cosines(x, y, fold == MEASURING, strength))
    matrix, mean = _solve(x, y, strength)
    return RidgeMap(matrix.astype(np.float32), mean.astype(np.float32), strength, scale, measured)


def _solve(
    x: NDArray[np.float64], y: NDArray[np.float64], strength: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gram = x @ x.T
    gram.flat[:: len(x) + 1] += strength * np.trace(gram) / len(x)
    mean = y.mean(axis=0)
    return x.T @ np.linalg.solve(gram, y - mean), mean


def _cosines(
    x: NDArray[np.float64], y: NDArray[np.float64], held_out: NDArray[np.bool_], strength: float
) -> NDArray[np.float64]:
    """Cosines [H, H] between mapped held-out rows and held-out names, the map fitted on all other classes."""
    matrix, mean = _solve(x[~held_out], y[~held_out], strength)
    return normalize_rows(x[held_out] @ matrix) @ normalize_rows(y[held_out] - mean).T


def _top1(cosines: NDArray[np.float64]) -> float:
    return float(np.mean(cosines.argmax(axis=1) == np.arange(len(cosines))))


def _mean_log_likelihood(logits: NDArray[np.float64]) -> float:
    highest = logits.max(axis=1)
    total = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    return float(np.mean(np.diagonal(logits) - total))


def normalize_rows(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Scale the last axis to length 1; rows of length 0 stay 0."""
    lengths = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.asarray(x / np.where(lengths > 0.0, lengths, 1.0), dtype=x.dtype)
