"""Detection metrics as sums over ranked groups: one set of formulas for exact ranks and for histograms.

A *group* is everything that shares one rank: in memory, all items of one score; in a histogram, all items of one bin.
Groups come from the highest score to the lowest, so the running sums before a group count what a threshold above it
flags, and the sums after it count what a threshold at it flags. Within a group the order is unknown, and each formula
also says how much that can matter: `slack` bounds |value - value of any order inside the groups|.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Groups(NamedTuple):
    """Consecutive groups, highest scores first.

    Attributes:
        positives: items that are anomalous, int64 [K].
        negatives: items that are normal, int64 [K].
        hits: region weight of the anomalous items, int64 [K]; see `regions.region_weights`.
    """

    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]
    hits: NDArray[np.int64]


class Totals(NamedTuple):
    """Sums over all groups."""

    positives: int
    negatives: int
    hits: int


class Measured(NamedTuple):
    """A metric with the greatest error that ties (or bins) can have caused; both NaN where it is undefined."""

    value: float
    slack: float


UNDEFINED = Measured(float("nan"), float("nan"))


def ranked(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], weights: NDArray[np.int64] | None = None
) -> Groups:
    """Group items by their exact score.

    Args:
        scores: [N], finite, higher is more anomalous.
        positive: bool [N].
        weights: int64 [N], region weight of each item (0 where normal); None: all 0.

    Raises:
        ValueError: if the shapes differ or a score is not finite.
    """
    if scores.ndim != 1 or positive.shape != scores.shape:
        raise ValueError(f"scores and labels must be [N] alike, got {list(scores.shape)} and {list(positive.shape)}")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    empty = np.zeros(0, np.int64)
    if scores.size == 0:
        return Groups(empty, empty, empty)
    order = np.argsort(scores)[::-1]
    descending = scores[order]
    starts = np.concatenate([[0], np.flatnonzero(descending[1:] != descending[:-1]) + 1])
    sizes = np.diff(np.append(starts, scores.size))
    positives = np.add.reduceat(positive[order].astype(np.int64), starts)
    hits = np.zeros_like(positives) if weights is None else np.add.reduceat(weights[order].astype(np.int64), starts)
    return Groups(positives, sizes - positives, hits)


def total(blocks: Iterable[Groups]) -> Totals:
    """Sum the groups of all blocks."""
    positives = negatives = hits = 0
    for block in blocks:
        positives += int(block.positives.sum())
        negatives += int(block.negatives.sum())
        hits += int(block.hits.sum())
    return Totals(positives, negatives, hits)


def _with_sums(blocks: Iterable[Groups]) -> Iterator[tuple[Groups, Groups]]:
    """Yield each block with the sums over everything ranked above each of its groups."""
    carry = Totals(0, 0, 0)
    for block in blocks:
        sums = [start + np.cumsum(counts) for start, counts in zip(carry, block, strict=True)]
        yield block, Groups(*(after - counts for after, counts in zip(sums, block, strict=True)))
        if block.positives.size:
            carry = Totals(*(int(after[-1]) for after in sums))


def roc_area(blocks: Iterable[Groups], totals: Totals) -> Measured:
    """Area under the ROC curve: the probability that a positive outranks a negative, ties counting one half.

    AUROC = sum_g n_g (P_above + p_g / 2) / (P N)        (Mann-Whitney)

    Returns:
        Value in [0, 1]; slack = sum_g n_g p_g / (2 P N). Undefined without positives or without negatives.
    """
    if totals.positives == 0 or totals.negatives == 0:
        return UNDEFINED
    area = slack = 0.0
    for (p, n, _), above in _with_sums(blocks):
        area += float(np.sum(n * (above.positives + 0.5 * p)))
        slack += float(np.sum(0.5 * n * p))
    scale = float(totals.positives) * float(totals.negatives)
    return Measured(area / scale, slack / scale)


def average_precision(blocks: Iterable[Groups], totals: Totals) -> Measured:
    """Average precision, step-wise: AP = sum_g (R_g - R_above) Pr_g, no interpolation of precision.

    The slack of a group with p positives below TP, FP compares Pr_g with the best order, all positives first (at most
    (TP + p) / (TP + p + FP) each), and with the worst, all negatives first (at least (TP + 1) / (TP + 1 + FP + n)).

    Returns:
        Value in [0, 1]. Undefined without positives.
    """
    if totals.positives == 0:
        return UNDEFINED
    value = slack = 0.0
    for (p, n, _), above in _with_sums(blocks):
        hit = p > 0
        p, n, tp, fp = p[hit], n[hit], above.positives[hit], above.negatives[hit]
        precision = (tp + p) / (tp + p + fp + n)
        best = (tp + p) / (tp + p + fp)
        worst = (tp + 1) / (tp + 1 + fp + n)
        value += float(np.sum(p * precision))
        slack += float(np.sum(p * np.maximum(best - precision, precision - worst)))
    return Measured(value / totals.positives, slack / totals.positives)


def f1_max(blocks: Iterable[Groups], totals: Totals) -> Measured:
    """Greatest F1 over all thresholds: F1 = 2 TP / (TP + FP + P).

    Returns:
        Value in [0, 1]; slack = best F1 with a group's positives ranked before its negatives, less the value.
        Undefined without positives.
    """
    if totals.positives == 0:
        return UNDEFINED
    value = reachable = 0.0
    for (p, n, _), above in _with_sums(blocks):
        tp = above.positives + p
        value = max(value, float(np.max(2 * tp / (tp + above.negatives + n + totals.positives), initial=0.0)))
        reachable = max(reachable, float(np.max(2 * tp / (tp + above.negatives + totals.positives), initial=0.0)))
    return Measured(value, reachable - value)


def pro_area(blocks: Iterable[Groups], totals: Totals, *, max_fpr: float) -> Measured:
    """Area under the per-region-overlap curve up to a false-positive rate (Bergmann et al. 2021, MVTec AD, IJCV).

    A point of the curve is (FPR, PRO) at one threshold: the share of background pixels flagged, and the mean over
    regions of the share of the region's pixels flagged. Points are joined by straight lines from (0, 0); the line that
    crosses `max_fpr` is cut there; the area is divided by `max_fpr`, so a perfect map has 1.

    Args:
        blocks: groups with `hits`.
        totals: their sums.
        max_fpr: integration limit in (0, 1].

    Returns:
        Value in [0, 1]; slack from the box each group's part of the curve must stay in, cut at the limit.
        Undefined without regions or without background.
    """
    if not 0.0 < max_fpr <= 1.0:
        raise ValueError(f"max_fpr is {max_fpr}; it is a false-positive rate and must lie in (0, 1]")
    if totals.hits == 0 or totals.negatives == 0:
        return UNDEFINED
    area = slack = 0.0
    for (_, n, hits), above in _with_sums(blocks):
        x0 = above.negatives / totals.negatives
        inside = x0 < max_fpr
        x0, width = x0[inside], n[inside] / totals.negatives
        y0, rise = above.hits[inside] / totals.hits, hits[inside] / totals.hits
        kept = np.minimum(width, max_fpr - x0)
        kept_rise = np.divide(rise * kept, width, out=np.zeros_like(rise), where=width > 0)
        area += float(np.sum(kept * (y0 + 0.5 * kept_rise)))
        slack += float(np.sum(kept * (rise - 0.5 * kept_rise)))
        if not inside.all():
            break
    return Measured(area / max_fpr, slack / max_fpr)


def precision_recall(
    blocks: Iterable[Groups], totals: Totals, *, points: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thin the precision-recall curve for a plot: the first threshold that reaches each of evenly spaced recalls.

    Args:
        blocks: groups.
        totals: their sums.
        points: recalls asked for, 1 / points to 1.

    Returns:
        recall and precision, float64 [K], K <= points, recall ascending; empty without positives.
    """
    wanted = np.ceil(np.arange(1, points + 1) * (totals.positives / points)).astype(np.int64)
    recall, precision, reached = [], [], 0
    for block, above in _with_sums(blocks):
        tp, fp = above.positives + block.positives, above.negatives + block.negatives
        if tp.size == 0 or totals.positives == 0 or tp[-1] <= reached:
            continue
        ahead = wanted[(wanted > reached) & (wanted <= tp[-1])]
        at = np.unique(np.searchsorted(tp, ahead))
        recall.append(tp[at] / totals.positives)
        precision.append(tp[at] / (tp[at] + fp[at]))
        reached = int(tp[-1])
    if not recall:
        return np.zeros(0), np.zeros(0)
    return np.concatenate(recall), np.concatenate(precision)
