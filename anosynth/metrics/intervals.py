"""Confidence intervals of detection metrics from leave-one-out values, by group or by image and over training seeds.

A metric of a whole test set (AUROC, AP, AUPRO) has no value per image, but it has one for the test set without each
group. From these the jackknife makes pseudo-values, which behave like independent measurements, one per group (Efron
and Stein 1981; for AUROC it is DeLong's variance):

    p_gs = G theta_s - (G - 1) theta_(-g)s          group g of G, training seed s of S

With several seeds the pseudo-values form a table groups x seeds, and their mean has the variance of a two-way layout
with both factors random, without replication:

    Var = (MS_G + max(0, MS_S - MS_E)) / (G S)

With a single seed the weights are taken as given: the interval is about other test images and not about other training
runs. The interval is estimate +- t_df sqrt(Var):

- Levels are treated on the logit scale, where they are nearly symmetric and cannot leave (0, 1). MS_G has G - 1
  degrees of freedom.
- Differences between two arms are treated as they are; each group and seed is compared with itself. MS_G has the
  geometric mean of G - 1 and of its own estimate (sum r^2)^2 / sum r^4 from the residuals r of the groups: if one group
  decides everything, little is left to estimate a spread from.
- df: Satterthwaite's over the mean squares.

Chosen by simulation (tests/metrics/test_coverage.py, results in docs/proofs.md). A percentile bootstrap of groups
covers 87 % at 7 groups; a studentized bootstrap of the pseudo-values was no better than t at 20 and 50 groups, and t is
the same on every machine. F1-max, a maximum, is covered more often than asked. The form was chosen on the kind of data
it was then measured on (skewed random effects of groups of 2 to 24 images, AUROC and AP of images); pixel metrics and
AUPRO were not simulated. Where every group is a single image, gains are covered less often than asked: 89 to 94 % at 20
groups, levels more often, to 99 %; at 7 groups and stronger skew about 90 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Levels are kept this far from 0 and 1, where the logit is infinite.
EDGE = 1e-4


class Bounds(NamedTuple):
    """Intervals, one per leading index; NaN where undefined.

    Attributes:
        value: the metric, or the difference, averaged over seeds.
        low, high: ends of the interval.
        df: degrees of freedom of t.
    """

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    df: NDArray[np.float64]


def level_bounds(full: NDArray[np.float64], left_out: NDArray[np.float64], *, confidence: float) -> Bounds:
    """Bound a metric in [0, 1].

    Args:
        full: its values on the whole test set, one per seed, [..., S].
        left_out: its values without each group, [..., S, G].
        confidence: of the two-sided interval, in (0, 1), for example 0.95.

    Returns:
        Bounds [...]. They are NaN below two groups, where a value is undefined, and where leaving groups out changes
        nothing (a perfect detector: nothing here says how far from perfect the next group could be).
    """
    value = full.mean(-1)
    variance, df = _variance(_logit(full), _logit(left_out), cautious=False)
    half = _half_width(variance, df, confidence)
    centre = _logit(value)
    return Bounds(value, _logistic(centre - half), _logistic(centre + half), df)


def difference_bounds(
    full: tuple[NDArray[np.float64], NDArray[np.float64]],
    left_out: tuple[NDArray[np.float64], NDArray[np.float64]],
    *,
    confidence: float,
) -> Bounds:
    """Bound the paired difference of a metric between two arms, first - second.

    Args:
        full: values of both arms on the same whole test set, [..., S] each, the same seeds in the same order.
        left_out: values of both arms without each group, [..., S, G] each.
        confidence: see `level_bounds`.

    Returns:
        Bounds [...]; NaN as in `level_bounds`.
    """
    value = (full[0] - full[1]).mean(-1)
    variance, df = _variance(full[0] - full[1], left_out[0] - left_out[1], cautious=True)
    half = _half_width(variance, df, confidence)
    return Bounds(value, value - half, value + half, df)


def _variance(
    full: NDArray[np.float64], left_out: NDArray[np.float64], *, cautious: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance of the mean over seeds, and its degrees of freedom; `cautious` lowers those of the groups."""
    seeds, groups = left_out.shape[-2:]
    if full.shape != left_out.shape[:-1]:
        raise ValueError(f"values {list(full.shape)} and left-out values {list(left_out.shape)} do not match")
    if groups < 2:
        nothing = np.full(full.shape[:-1], np.nan)
        return nothing, nothing
    pseudo = groups * full[..., None] - (groups - 1) * left_out
    by_group, by_seed, overall = pseudo.mean(-2), pseudo.mean(-1), pseudo.mean((-2, -1))
    residual = by_group - overall[..., None]
    squares = (residual**2).sum(-1)
    ms_groups = seeds * squares / (groups - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        df_groups = np.full(full.shape[:-1], groups - 1.0)
        if cautious:
            df_groups = np.sqrt(df_groups * squares**2 / (residual**4).sum(-1))
        if seeds == 1:
            return _positive(ms_groups / groups), df_groups
        ms_seeds = groups * ((by_seed - overall[..., None]) ** 2).sum(-1) / (seeds - 1)
        rest = pseudo - by_group[..., None, :] - by_seed[..., None] + overall[..., None, None]
        df_rest = (groups - 1) * (seeds - 1)
        ms_rest = (rest**2).sum((-2, -1)) / df_rest
        excess = np.maximum(ms_seeds - ms_rest, 0.0)
        uncertain = ms_groups**2 / df_groups
        uncertain += np.where(excess > 0.0, ms_seeds**2 / (seeds - 1) + ms_rest**2 / df_rest, 0.0)
        total = ms_groups + excess
        return _positive(total / (groups * seeds)), np.maximum(total**2 / uncertain, 1.0)


def _positive(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variances that are no more than rounding are unknown, not zero."""
    return np.where(variance > 1e-20, variance, np.nan)


def _half_width(variance: NDArray[np.float64], df: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; it must lie in (0, 1)")
    return np.asarray(stats.t.ppf(0.5 + 0.5 * confidence, df) * np.sqrt(variance))


def _logit(value: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(value, EDGE, 1.0 - EDGE)
    return np.log(inside / (1.0 - inside))


def _logistic(value: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-value))
