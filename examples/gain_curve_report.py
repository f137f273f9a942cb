"""The tables of examples/gain_curve.py: mean ± sd over seeds, and gains paired by seed with their t-intervals."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

sys.path.insert(0, str(Path(__file__).parent))
from bsdata import mean_and_deviation

BASE = "real"
CONFIDENCE = 0.95
ALL = "mean of all"


@dataclass(frozen=True)
class Row:
    """One cell.

    Attributes:
        parts: category and defect types.
        m: shots of each defect type.
        seed: of shots and noise.
        arm: slug.
        values: metric -> value; None where undefined.
        reason: why there are no values: the shots give no pool; "" if they do.
    """

    parts: str
    m: int
    seed: int
    arm: str
    values: Mapping[str, float | None]
    reason: str = ""


@dataclass(frozen=True)
class Gain:
    """A mean of paired differences.

    Attributes:
        value: over seeds.
        low, high: of its t-interval; None with a single seed, and where all differences are equal.
        num_seeds: pairs.
    """

    value: float
    low: float | None
    high: float | None
    num_seeds: int

    def text(self) -> str:
        """`+0.081 [+0.012, +0.150]`."""
        return f"{self.value:+.3f}" + ("" if self.low is None else f" [{self.low:+.3f}, {self.high:+.3f}]")


def values_by_seed(rows: Sequence[Row], parts: str, m: int, arm: str, metric: str) -> dict[int, float]:
    """One metric of one arm by seed; for ALL, the mean over the parts, for seeds that have them all."""
    if parts != ALL:
        wanted = (parts, m, arm)
        return {
            row.seed: value
            for row in rows
            if (row.parts, row.m, row.arm) == wanted and (value := row.values.get(metric)) is not None
        }
    names = dict.fromkeys(row.parts for row in rows)
    every = [values_by_seed(rows, name, m, arm, metric) for name in names]
    seeds = set.intersection(*(set(one) for one in every))
    return {seed: math.fsum(one[seed] for one in every) / len(every) for seed in sorted(seeds)}


def gain(rows: Sequence[Row], parts: str, m: int, arm: str, metric: str, *, over: str = BASE) -> Gain | None:
    """Gain of an arm over another one, paired by seed: mean ± t sd / sqrt(n); None without a common seed.

    It is about other draws of shots and noise, for these test pictures.
    """
    ours, base = (values_by_seed(rows, parts, m, one, metric) for one in (arm, over))
    seeds = sorted(ours.keys() & base.keys())
    if not seeds:
        return None
    value, spread = mean_and_deviation([ours[seed] - base[seed] for seed in seeds])
    if len(seeds) < 2 or spread == 0.0:
        return Gain(value, None, None, len(seeds))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2.0, len(seeds) - 1)) * spread / math.sqrt(len(seeds))
    return Gain(value, value - half, value + half, len(seeds))


def arms_of(rows: Sequence[Row]) -> list[str]:
    """Names of the arms, the base arm first."""
    return sorted(dict.fromkeys(row.arm for row in rows), key=lambda arm: arm != BASE)


def places_of(rows: Sequence[Row]) -> list[str]:
    """Names of the parts, and their mean where there are several."""
    names = list(dict.fromkeys(row.parts for row in rows))
    return [*names, ALL] if len(names) > 1 else names


def report(rows: Sequence[Row], *, metrics: Sequence[str]) -> str:
    """Return the whole Markdown text.

    Args:
        rows: all cells.
        metrics: the columns; the first one is the primary metric.
    """
    seeds = sorted({row.seed for row in rows})
    lines = [
        f"Mean ± standard deviation over {len(seeds)} seeds of shots, pools, weights and batches (fewer where a cell "
        f"says so); gain over `{BASE}` paired by seed, with its {CONFIDENCE:.0%} t-interval over seeds. The test "
        "pictures are the same for all.",
    ]
    for parts in places_of(rows):
        heads = [*metrics, *(f"gain in {metric}" for metric in metrics)]
        lines += ["", f"## {parts}", "", f"| shots | arm | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
        for m in sorted({row.m for row in rows}):
            lines += [
                f"| {m} | {arm} | {' | '.join(_cells(rows, parts, m, arm, metrics, num_seeds=len(seeds)))} |"
                for arm in arms_of(rows)
                if values_by_seed(rows, parts, m, arm, metrics[0])
            ]
    lines += _duels(rows, metrics)
    lacking = [row for row in rows if row.reason]
    if lacking:
        lines += ["", "No pool, and so no value:", ""]
        lines += [f"- {row.parts}, m = {row.m}, seed {row.seed}, {row.arm}: {row.reason}" for row in lacking]
    return "\n".join(lines) + "\n"


def _duels(rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
    """Arms other than the base arm against each other, over everything that was measured."""
    parts, arms = places_of(rows)[-1], [arm for arm in arms_of(rows) if arm != BASE]
    lines = []
    for m, (other, arm) in itertools.product(sorted({row.m for row in rows}), itertools.combinations(arms, 2)):
        found = [gain(rows, parts, m, arm, metric, over=other) for metric in metrics]
        if found[0] is not None:
            said = ["–" if one is None else one.text() for one in found]
            lines.append(f"| {m} | {arm} | {other} | {' | '.join(said)} | {found[0].num_seeds} |")
    if not lines:
        return []
    heads = " | ".join(metrics)
    return [
        "",
        f"## Arms against each other, {parts}",
        "",
        f"| shots | arm | less | {heads} | seeds |",
        "|---|---|---|" + "---|" * (len(metrics) + 1),
        *lines,
    ]


def _cells(rows: Sequence[Row], parts: str, m: int, arm: str, metrics: Sequence[str], *, num_seeds: int) -> list[str]:
    levels, gains = [], []
    for metric in metrics:
        values = list(values_by_seed(rows, parts, m, arm, metric).values())
        few = f" ({len(values)} seeds)" if values and len(values) < num_seeds else ""
        levels.append("{:.3f} ± {:.3f}".format(*mean_and_deviation(values)) + few if values else "–")
        found = None if arm == BASE else gain(rows, parts, m, arm, metric)
        gains.append("–" if found is None else found.text())
    return [*levels, *gains]
