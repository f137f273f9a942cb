"""The tables of examples/few_shot.py: mean ± sd over seeds, and differences paired by seed with their t-intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bsdata import mean_and_deviation
from few_shot_sets import REAL_SETS
from scipy import stats

CONFIDENCE = 0.95
METRICS = {"auroc": "AUROC", "ap": "AP", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
BASES = ("patchcore", "patchcore_aligned")
BEST_PRESET = "one_to_normal_best"
SWITCH_PREFIXES = ("one_to_normal_no_", "one_to_normal_plus_")
"""How the names begin of detectors that differ from `BEST_PRESET` by one switch."""
MORE_EVALUATIONS_SUFFIX = "_15"
"""How the names end of detectors whose twins take 15 evaluations of DDIM in place of 6."""


@dataclass(frozen=True)
class Row:
    """One cell.

    Attributes:
        set_name, unit: where.
        k, seed: how many references, and which draw.
        detector, pool: what; pool is "without" or "with".
        auroc, ap: over the unit's images.
        pixel_auroc, aupro: over the unit's pixels; None without masks.
    """

    set_name: str
    unit: str
    k: int
    seed: int
    detector: str
    pool: str
    auroc: float
    ap: float
    pixel_auroc: float | None = None
    aupro: float | None = None


@dataclass(frozen=True)
class Paired:
    """A difference over paired seeds.

    Attributes:
        base, challenger: mean (1 - AUROC).
        gain: base - challenger; positive is better.
        low, high: of its t-interval; None with a single seed, and where all differences are equal.
        num_seeds: pairs.
    """

    base: float
    challenger: float
    gain: float
    low: float | None
    high: float | None
    num_seeds: int

    def cells(self) -> str:
        """Four cells of a Markdown row."""
        share = "–" if self.base == 0.0 else f"{100.0 * self.gain / self.base:+.0f} %"
        interval = "–" if self.low is None else f"[{self.low:+.4f}, {self.high:+.4f}]"
        return f"{self.base:.4f} | {self.challenger:.4f} | {self.gain:+.4f} | {interval} | {share}"


Key = tuple[str, str, int]  # detector, pool, k


def by_seed(rows: Sequence[Row], set_name: str, metric: str) -> dict[Key, dict[int, float]]:
    """Average a metric over the units of one set, for every seed that has them all."""
    mine = [row for row in rows if row.set_name == set_name]
    units = {row.unit for row in mine}
    found: dict[Key, dict[int, dict[str, float]]] = {}
    for row in mine:
        cell = found.setdefault((row.detector, row.pool, row.k), {}).setdefault(row.seed, {})
        value = getattr(row, metric)
        if value is not None:
            cell[row.unit] = value
    return {
        key: {seed: math.fsum(values.values()) / len(units) for seed, values in seeds.items() if values.keys() == units}
        for key, seeds in found.items()
    }


def paired(base: Mapping[int, float], challenger: Mapping[int, float]) -> Paired | None:
    """Compare two errors seed by seed; None without a common seed.

    The interval is mean ± t sd / sqrt(n) over the n differences: about other draws of references and noise, for these
    queries.
    """
    seeds = sorted(base.keys() & challenger.keys())
    if not seeds:
        return None
    gain, spread = mean_and_deviation([base[seed] - challenger[seed] for seed in seeds])
    half = None
    if len(seeds) > 1 and spread > 0.0:
        half = float(stats.t.ppf(0.5 + CONFIDENCE / 2.0, len(seeds) - 1)) * spread / math.sqrt(len(seeds))
    return Paired(
        base=mean_and_deviation([base[seed] for seed in seeds])[0],
        challenger=mean_and_deviation([challenger[seed] for seed in seeds])[0],
        gain=gain,
        low=None if half is None else gain - half,
        high=None if half is None else gain + half,
        num_seeds=len(seeds),
    )


def report(rows: Sequence[Row], *, part: str, passed_over: Sequence[str]) -> str:
    """Return the whole Markdown text.

    Args:
        rows: all cells.
        part: of the sets, development or final.
        passed_over: detectors that could not run, to be named.
    """
    seeds, ks = sorted({row.seed for row in rows}), sorted({row.k for row in rows})
    lines = [
        f"# Few shots, part {part}",
        "",
        f"Mean ± standard deviation over {len(seeds)} draws of references and noise (a number in brackets: over fewer"
        "); a set's number is the mean over its units. AUROC and AP are of images.",
    ]
    if passed_over:
        lines += ["", f"Not run, for want of a backbone that draws (--backbone): {', '.join(passed_over)}."]
    for set_name in dict.fromkeys(row.set_name for row in rows):
        lines += ["", *_set_table(rows, set_name, ks)]
    errors = {name: _errors(rows, name) for name in dict.fromkeys(row.set_name for row in rows)}
    lines += _comparisons(errors, [name for name in errors if name in REAL_SETS], ks, title="real sets")
    lines += _comparisons(errors, [name for name in errors if name not in REAL_SETS], ks, title="procedural sets")
    return "\n".join(lines) + "\n"


def _set_table(rows: Sequence[Row], set_name: str, ks: Sequence[int]) -> list[str]:
    units = len({row.unit for row in rows if row.set_name == set_name})
    kind = "real" if set_name in REAL_SETS else "procedural"
    mine = [row for row in rows if row.set_name == set_name]
    metrics = [metric for metric in METRICS if any(getattr(row, metric) is not None for row in mine)]
    heads = [f"{METRICS[metric]}, k = {k}" for metric in metrics for k in ks]
    lines = [
        f"## {set_name} ({kind}, {units} {'unit' if units == 1 else 'units'})",
        "",
        f"| detector | pool | {' | '.join(heads)} |",
        "|---|---|" + "---|" * len(heads),
    ]
    found = {metric: by_seed(rows, set_name, metric) for metric in metrics}
    most = len({row.seed for row in rows})
    for detector, pool in dict.fromkeys((row.detector, row.pool) for row in mine):
        cells = []
        for metric in metrics:
            for k in ks:
                values = list(found[metric].get((detector, pool, k), {}).values())
                fewer = f" ({len(values)})" if len(values) < most else ""
                cells.append("{:.3f} ± {:.3f}".format(*mean_and_deviation(values)) + fewer if values else "–")
        lines.append(f"| {detector} | {pool} | {' | '.join(cells)} |")
    return lines


def _errors(rows: Sequence[Row], set_name: str) -> dict[Key, dict[int, float]]:
    found = by_seed(rows, set_name, "auroc")
    return {key: {seed: 1.0 - value for seed, value in seeds.items()} for key, seeds in found.items()}


def _comparisons(
    errors: Mapping[str, Mapping[Key, Mapping[int, float]]], sets: Sequence[str], ks: Sequence[int], *, title: str
) -> list[str]:
    """One-to-Normal against PatchCore, each variant against its origin, every detector with a pool against itself."""
    keys = list(dict.fromkeys(key for name in sets for key in errors[name]))
    detectors = list(dict.fromkeys(key[0] for key in keys))
    origins = {one: _origin(one) for one in detectors}
    challengers = [one for one in detectors if one.startswith("one_to_") and origins[one] == one]
    pools = list(dict.fromkeys(key[1] for key in keys))
    duels = [
        ((base, pool, k), (challenger, pool, k))
        for k in ks
        for pool in pools
        for challenger in challengers
        for base in BASES
        if base in detectors
    ]
    duels += [
        ((origin, pool, k), (one, pool, k))
        for k in ks
        for pool in pools
        for one, origin in origins.items()
        if origin != one
    ]
    duels += [((one, "without", k), (one, "with", k)) for k in ks for one in detectors if "with" in pools]
    lines = []
    for base, challenger in duels:
        against = [(name, paired(errors[name].get(base, {}), errors[name].get(challenger, {}))) for name in sets]
        if len(sets) > 1:
            against.append((f"mean of {title}", paired(_mean(errors, sets, base), _mean(errors, sets, challenger))))
        lines += [
            f"| {base[2]} | {_said(challenger)} | {_said(base)} | {name} | {one.cells()} | {one.num_seeds} |"
            for name, one in against
            if one is not None
        ]
    if not lines:
        return []
    return [
        "",
        f"## Paired by seed, {title}",
        "",
        f"Error: mean (1 − AUROC). The gain is positive where the first detector is better, with its {CONFIDENCE:.0%} "
        "t-interval over seeds.",
        "",
        "| k | detector | against | set | error of that | own error | gain | interval | gain, relative | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *lines,
    ]


def _origin(detector: str) -> str:
    """The detector that a variant differs from by one switch or by its solver; any other is its own."""
    if detector.startswith(SWITCH_PREFIXES):
        return BEST_PRESET
    if not detector.endswith(MORE_EVALUATIONS_SUFFIX):
        return detector
    branch = detector.removesuffix(MORE_EVALUATIONS_SUFFIX)
    return BEST_PRESET if branch == "one_to_normal" else branch


def _mean(errors: Mapping[str, Mapping[Key, Mapping[int, float]]], sets: Sequence[str], key: Key) -> dict[int, float]:
    """Mean over sets for every seed that has them all."""
    every = [errors[name].get(key, {}) for name in sets]
    seeds = set.intersection(*(set(one) for one in every))
    return {seed: math.fsum(one[seed] for one in every) / len(every) for seed in seeds}


def _said(key: Key) -> str:
    return key[0] + (" with pool" if key[1] == "with" else "")
