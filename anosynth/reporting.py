"""From result files to the report: spreads over seeds, gains over the real arm, Markdown tables, plot data.

Nothing here reads or writes a file. What is missing or undefined is shown as a dash, never as 0.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from anosynth.results import Result, SeedMetrics

BASE_ARM = "real"
DASH = "–"
METRIC_NAMES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "aupro": "AUPRO",
}
# Below this many seeds a standard deviation is shown and no interval is claimed.
MIN_SEEDS_FOR_INTERVAL = 5
SCORE_BINS = 30


@dataclass(frozen=True)
class Spread:
    """A value over seeds.

    Attributes:
        mean: over the seeds where it is defined; None if there is none.
        sd: sample standard deviation (n - 1); None below two seeds.
        num_seeds: how many seeds went in.
    """

    mean: float | None
    sd: float | None
    num_seeds: int

    def text(self, *, signed: bool = False) -> str:
        """`0.812 ± 0.004`, `0.812` for one seed, a dash where undefined."""
        if self.mean is None:
            return DASH
        mean = f"{self.mean:+.3f}" if signed else f"{self.mean:.3f}"
        return mean if self.sd is None else f"{mean} ± {self.sd:.3f}"


@dataclass(frozen=True)
class PoolCount:
    """What screening left of one synthetic pool.

    Attributes:
        category: slug.
        pool: "normals", or "<defect>/<method>" for pairs.
        rows: samples made.
        kept: samples no gate refused.
        refused: reason -> samples.
        licence: of the pool.
    """

    category: str
    pool: str
    rows: int
    kept: int
    refused: Mapping[str, int]
    licence: str


@dataclass(frozen=True)
class ShotsUsed:
    """The real shots of one category.

    Attributes:
        category: slug.
        name: as said in a prompt.
        normal: number of normal shots.
        anomalous: defect -> number of anomalous shots.
        method: how they were chosen.
        seed: of the choice.
        licences: distinct licences.
    """

    category: str
    name: str
    normal: int
    anomalous: Mapping[str, int]
    method: str
    seed: int
    licences: Sequence[str]


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and standard deviation of the values that are defined."""
    defined = [value for value in values if value is not None and math.isfinite(value)]
    if not defined:
        return Spread(None, None, 0)
    sd = statistics.stdev(defined) if len(defined) > 1 else None
    return Spread(statistics.fmean(defined), sd, len(defined))


def over_seeds(seeds: SeedMetrics, metric: str) -> Spread:
    """Spread of one metric over the seeds of one arm."""
    return spread(values.get(metric) for values in seeds.values())


def gain(seeds: SeedMetrics, base: SeedMetrics, metric: str) -> Spread:
    """Spread of the paired difference arm - base, over the seeds that both have."""
    return spread(_differences(seeds, base, metric))


def detection_json(results: Sequence[Result]) -> dict[str, object]:
    """Numbers for `dvc metrics`: category -> detector -> arm -> metric -> mean, sd; null where undefined."""
    return _nested(
        (one, arm, _numbers({metric: over_seeds(seeds, metric) for metric in METRIC_NAMES}))
        for one in results
        for arm, seeds in _by_arm(one)
    )


def gains_json(results: Sequence[Result]) -> dict[str, object]:
    """Like `detection_json`, for the paired differences to the real arm; empty where there is no real arm."""
    return _nested(
        (one, arm, _numbers({metric: gain(seeds, one.metrics[BASE_ARM], metric) for metric in METRIC_NAMES}))
        for one in results
        if BASE_ARM in one.metrics
        for arm, seeds in _by_arm(one)
        if arm != BASE_ARM
    )


def seeds_json(results: Sequence[Result]) -> dict[str, object]:
    """category -> detector -> arm -> number of seeds behind each mean."""
    return _nested((one, arm, len(seeds)) for one in results for arm, seeds in _by_arm(one))


def pools_json(pools: Sequence[PoolCount]) -> dict[str, object]:
    """category -> pool -> rows, kept, refused by reason."""
    found: dict[str, dict[str, object]] = {}
    for pool in pools:
        found.setdefault(pool.category, {})[pool.pool] = {
            "rows": pool.rows,
            "kept": pool.kept,
            "refused": dict(pool.refused),
        }
    return dict(found)


def arms_plot(results: Sequence[Result], *, metric: str) -> list[dict[str, object]]:
    """Rows for a plot of one metric by arm: panel, arm, mean, low and high (one sd away)."""
    rows: list[dict[str, object]] = []
    for one in results:
        for arm, seeds in _by_arm(one):
            value = over_seeds(seeds, metric)
            if value.mean is not None:
                reach = value.sd or 0.0
                rows.append(
                    {
                        "panel": f"{one.category}, {one.detector}",
                        "arm": arm,
                        "value": round(value.mean, 6),
                        "low": round(value.mean - reach, 6),
                        "high": round(value.mean + reach, 6),
                    }
                )
    return rows


def score_histogram(scores: Sequence[float], labels: Sequence[int]) -> list[tuple[float, int, int]]:
    """Count image scores in even bins from the least to the greatest.

    Returns:
        (middle of the bin, normal images, anomalous images) for 30 bins, or for one if all scores are equal.
    """
    if not scores:
        return []
    low, high = min(scores), max(scores)
    width = (high - low) / SCORE_BINS
    bins = [[0, 0] for _ in range(SCORE_BINS if width else 1)]
    for score, label in zip(scores, labels, strict=True):
        at = int((score - low) / width) if width else 0
        bins[min(at, len(bins) - 1)][int(label > 0)] += 1
    return [(round(low + (at + 0.5) * width, 6), normal, anomalous) for at, (normal, anomalous) in enumerate(bins)]


def markdown(
    *,
    results: Sequence[Result],
    pools: Sequence[PoolCount],
    shots: Sequence[ShotsUsed],
    primary: str,
    source: str,
    backbone: str,
    features: str,
) -> str:
    """Write the report as Markdown.

    Args:
        results: every detector on every category.
        pools: every synthetic pool.
        shots: the real shots of every category.
        primary: the metric that the comparison is about.
        source: one phrase: what the real images are.
        backbone: one phrase: what drew the normals.
        features: one phrase: the patch features.
    """
    blocks = [
        "# Does it help?",
        f"Real images: {source}. Generated normals: {backbone}. Patch features: {features}. "
        "Every number below was measured on real test images that no generator, gate or detector has seen. "
        f"AUPRO is integrated to a false-positive rate of {_limits(results)} over 8-connected regions; maps are "
        "compared with the masks at the original image size.",
        _seeds_sentence(results),
    ]
    for used in shots:
        mine = [one for one in results if one.category == used.category]
        blocks.append(f"## {used.category}")
        blocks.append(_data_paragraph(used, mine))
        blocks.append(_metric_table(mine))
        blocks += _gain_section(mine, primary)
        blocks += _defect_section(mine, primary)
        blocks += _pool_section([pool for pool in pools if pool.category == used.category])
    return "\n\n".join(blocks) + "\n"


def _seeds_sentence(results: Sequence[Result]) -> str:
    counts = {len(seeds) for one in results for seeds in one.metrics.values()}
    if not counts:
        return "Nothing was evaluated."
    least, most = min(counts), max(counts)
    number = f"{least}" if least == most else f"{least} to {most}"
    text = f"{number} {'seed' if most == 1 else 'seeds'} per arm"
    if least == 1:
        return f"{text}: not even a spread can be given for one seed; do not read differences as effects."
    spread_text = f"{text}: ± is the standard deviation over seeds (weights, batches, coreset)"
    if least < MIN_SEEDS_FOR_INTERVAL:
        return (
            f"{spread_text}; no interval is claimed. It says nothing about other shots or other test images, "
            "so a difference within it is no finding."
        )
    return f"{spread_text}. It says nothing about other shots or other test images; no interval is claimed."


def _limits(results: Sequence[Result]) -> str:
    return " / ".join(f"{limit:g}" for limit in sorted({one.aupro_max_fpr for one in results})) or DASH


def _data_paragraph(used: ShotsUsed, results: Sequence[Result]) -> str:
    defects = ", ".join(f"{count} {defect}" for defect, count in used.anomalous.items()) or "none"
    parts = [
        f"{used.name}: {used.normal} normal shots and anomalous shots: {defects}; "
        f"chosen by {used.method}, seed {used.seed}; licence {', '.join(used.licences)}."
    ]
    if results:
        one = results[0]
        anomalous = ", ".join(f"{count} {name}" for name, count in one.test_images.items() if name != "normal")
        which = "the normal shots" if one.normals == "shots" else "all normal images of role train"
        parts.append(
            f"Test: {one.test_images.get('normal', 0)} normal, {anomalous or 'no anomalous'} in {one.test_groups} "
            f"groups; licence {', '.join(one.test_licences)}. Real normals for fitting: {which}."
        )
    return " ".join(parts)


def _metric_table(results: Sequence[Result]) -> str:
    rows = [
        [one.detector, arm, _trained_text(one.trained_on[arm].counts)]
        + [over_seeds(seeds, metric).text() for metric in METRIC_NAMES]
        for one in results
        for arm, seeds in _by_arm(one)
    ]
    return table(["detector", "arm", "fitted on", *METRIC_NAMES.values()], rows)


def _trained_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) or DASH


def _gain_section(results: Sequence[Result], primary: str) -> list[str]:
    rows = []
    for one in results:
        base = one.metrics.get(BASE_ARM)
        for arm, seeds in _by_arm(one):
            if base is None or arm == BASE_ARM:
                continue
            differences = [value for value in _differences(seeds, base, primary) if value is not None]
            higher = sum(value > 0 for value in differences)
            rows.append(
                [one.detector, arm]
                + [gain(seeds, base, metric).text(signed=True) for metric in (primary, *_others(primary))]
                + [f"{higher} of {len(differences)}"]
            )
    if not rows:
        return []
    names = [METRIC_NAMES[metric] for metric in (primary, *_others(primary))]
    head = ["detector", "arm", *names, f"seeds with higher {METRIC_NAMES[primary]}"]
    return [f"### Gain over the arm `{BASE_ARM}`, paired by seed", table(head, rows)]


def _others(primary: str) -> tuple[str, ...]:
    return tuple(metric for metric in ("image_auroc", "pixel_ap", "aupro") if metric != primary)


def _defect_section(results: Sequence[Result], primary: str) -> list[str]:
    defects = sorted(
        {defect for one in results for seeds in one.by_defect.values() for found in seeds.values() for defect in found}
    )
    if len(defects) < 2:
        return []
    rows = [
        [one.detector, arm]
        + [
            spread(found.get(defect, {}).get(primary) for found in one.by_defect[arm].values()).text()
            for defect in defects
        ]
        for one in results
        for arm, _ in _by_arm(one)
    ]
    title = f"### {METRIC_NAMES[primary]} by defect type (normal images and that type alone)"
    return [title, table(["detector", "arm", *defects], rows)]


def _pool_section(pools: Sequence[PoolCount]) -> list[str]:
    if not pools:
        return []
    rows = [
        [
            pool.pool,
            str(pool.rows),
            str(pool.kept),
            ", ".join(f"{count} {reason}" for reason, count in pool.refused.items()) or "none",
            pool.licence,
        ]
        for pool in pools
    ]
    return ["### Synthetic pools", table(["pool", "made", "kept", "refused, by reason", "licence"], rows)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; `|` inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _by_arm(one: Result) -> list[tuple[str, SeedMetrics]]:
    """Arms with their metrics in the order of params.yaml (JSON keeps names in alphabetical order)."""
    order = one.spec.get("arms")
    names = list(order) if isinstance(order, Sequence) else []
    return sorted(one.metrics.items(), key=lambda item: names.index(item[0]) if item[0] in names else len(names))


def _differences(seeds: SeedMetrics, base: SeedMetrics, metric: str) -> list[float | None]:
    found: list[float | None] = []
    for seed, values in seeds.items():
        ours, theirs = values.get(metric), base.get(seed, {}).get(metric)
        found.append(None if ours is None or theirs is None else ours - theirs)
    return found


def _numbers(spreads: Mapping[str, Spread]) -> dict[str, object]:
    return {
        metric: {
            "mean": None if value.mean is None else round(value.mean, 6),
            "sd": None if value.sd is None else round(value.sd, 6),
        }
        for metric, value in spreads.items()
    }


def _nested(rows: Iterable[tuple[Result, str, object]]) -> dict[str, object]:
    found: dict[str, dict[str, dict[str, object]]] = {}
    for one, arm, values in rows:
        found.setdefault(one.category, {}).setdefault(one.detector, {})[arm] = values
    return dict(found)
