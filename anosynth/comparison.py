"""From results and their leave-one-out values to intervals: what every arm earns and gains over the base arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anosynth.metrics.evaluation import METRICS
from anosynth.metrics.intervals import Bounds, difference_bounds, level_bounds
from anosynth.results import LeftOutTable, Result, Unit


@dataclass(frozen=True)
class Bounded:
    """A number with its confidence interval.

    Attributes:
        value: mean over seeds; None where undefined.
        low, high: None where no interval can be given: one group, a value that is undefined without some group, or no
            variation between groups.
    """

    value: float | None
    low: float | None
    high: float | None

    def text(self, *, signed: bool = False) -> str:
        """`0.812 [0.794, 0.830]`, without brackets where there is no interval, a dash where undefined."""
        if self.value is None:
            return "–"
        sign = "+" if signed else ""
        text = f"{self.value:{sign}.3f}"
        return text if self.low is None else f"{text} [{self.low:{sign}.3f}, {self.high:{sign}.3f}]"


@dataclass(frozen=True)
class ArmComparison:
    """One arm of one detector on one category.

    Attributes:
        category, detector, arm: slugs.
        num_seeds: fits behind each number.
        num_groups, num_images, num_anomalous: of the measured images.
        levels: "group" or "image" -> metric -> value with interval.
        gains: the same for the paired differences to the base arm; empty for the base arm, and where there is none.
        guarded: metric -> gain by group at the confidence that holds for all arms of the detector at once (Bonferroni).
        num_compared: arms compared with the base arm, this one included.
    """

    category: str
    detector: str
    arm: str
    num_seeds: int
    num_groups: int
    num_images: int
    num_anomalous: int
    levels: Mapping[str, Mapping[str, Bounded]]
    gains: Mapping[str, Mapping[str, Bounded]]
    guarded: Mapping[str, Bounded]
    num_compared: int


def compare(result: Result, left_out: LeftOutTable, *, baseline: str, confidence: float) -> tuple[ArmComparison, ...]:
    """Put intervals to every arm of one detector on one category.

    Args:
        result: what `evaluate` measured.
        left_out: its leave-one-out values.
        baseline: name of the base arm.
        confidence: of the two-sided intervals, in (0, 1).

    Returns:
        The arms in the order of params.yaml.
    """
    arms = arms_in_order(result)
    compared = len(arms) - 1 if baseline in arms else 0
    units: tuple[Unit, ...] = ("group", "image")
    found = []
    for arm in arms:
        against = "" if arm == baseline or not compared else baseline
        seeds = sorted(result.metrics[arm], key=int)
        guarded = 1.0 - (1.0 - confidence) / max(compared, 1)
        found.append(
            ArmComparison(
                category=result.category,
                detector=result.detector,
                arm=arm,
                num_seeds=len(seeds),
                num_groups=result.test_groups,
                num_images=sum(result.test_images.values()),
                num_anomalous=sum(count for kind, count in result.test_images.items() if kind != "normal"),
                levels={unit: _levels(result, left_out, arm, unit, confidence) for unit in units},
                gains={unit: _gains(result, left_out, arm, against, unit, confidence) for unit in units}
                if against
                else {},
                guarded=_gains(result, left_out, arm, against, "group", guarded) if against else {},
                num_compared=compared,
            )
        )
    return tuple(found)


def arms_in_order(result: Result) -> list[str]:
    """Names of the measured arms in the order of params.yaml (JSON keeps them in alphabetical order)."""
    order = result.spec.get("arms")
    names = list(order) if isinstance(order, Sequence) else []
    return sorted(result.metrics, key=lambda arm: names.index(arm) if arm in names else len(names))


def _levels(result: Result, left_out: LeftOutTable, arm: str, unit: Unit, confidence: float) -> dict[str, Bounded]:
    seeds = sorted(result.metrics[arm], key=int)
    found = {}
    for metric in METRICS:
        whole = left_out.values(arm, seeds, unit="nothing", metric=metric)[:, 0]
        bounds = level_bounds(whole, left_out.values(arm, seeds, unit=unit, metric=metric), confidence=confidence)
        found[metric] = _bounded([result.metrics[arm][seed].get(metric) for seed in seeds], bounds)
    return found


def _gains(
    result: Result, left_out: LeftOutTable, arm: str, baseline: str, unit: Unit, confidence: float
) -> dict[str, Bounded]:
    ours, theirs = result.metrics[arm], result.metrics[baseline]
    seeds = sorted(set(ours) & set(theirs), key=int)
    found = {}
    for metric in METRICS:
        if not seeds:
            found[metric] = Bounded(None, None, None)
            continue
        whole = [left_out.values(name, seeds, unit="nothing", metric=metric)[:, 0] for name in (arm, baseline)]
        left = [left_out.values(name, seeds, unit=unit, metric=metric) for name in (arm, baseline)]
        bounds = difference_bounds((whole[0], whole[1]), (left[0], left[1]), confidence=confidence)
        found[metric] = _bounded(
            [_difference(ours[seed].get(metric), theirs[seed].get(metric)) for seed in seeds], bounds
        )
    return found


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _bounded(values: Sequence[float | None], bounds: Bounds) -> Bounded:
    """The finely binned mean with the interval of the coarsely binned leave-one-out values."""
    defined = [value for value in values if value is not None]
    if not defined or len(defined) < len(values):
        return Bounded(None, None, None)
    value = sum(defined) / len(defined)
    low, high = float(bounds.low), float(bounds.high)
    if not np.isfinite(low + high):
        return Bounded(round(value, 6), None, None)
    return Bounded(round(value, 6), round(low, 6), round(high, 6))
