"""From results to the report: the verdict, spreads over seeds, intervals, Markdown tables, plot data.

Nothing here reads or writes a file. What is missing or undefined is shown as a dash, never as 0.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from anosynth.comparison import ArmComparison, Bounded, arms_in_order
from anosynth.promotion import Promotion
from anosynth.results import Result, SeedMetrics

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
# Below so many groups, or anomalous images, the verdict does not answer.
MIN_GROUPS = 5
MIN_ANOMALOUS = 10
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


def verdict(compared: Sequence[ArmComparison], *, metric: str, baseline: str) -> str:
    """Answer the report's question, one sentence per category, from the test images.

    An arm helps if the interval of its gain lies above zero, at the confidence that holds for all arms of its detector
    at once.

    Args:
        compared: every arm of every detector on every category.
        metric: the primary one.
        baseline: name of the base arm.
    """
    categories = dict.fromkeys(one.category for one in compared)
    if not categories:
        return "Nothing was evaluated."
    return " ".join(
        _category_verdict(category, [one for one in compared if one.category == category], metric, baseline)
        for category in categories
    )


def _category_verdict(category: str, arms: Sequence[ArmComparison], metric: str, baseline: str) -> str:
    rivals = [one for one in arms if one.gains]
    if not rivals:
        return f"On {category} there is nothing to compare: no detector has the arm {baseline} and another one."
    first, name = rivals[0], METRIC_NAMES[metric]
    if first.num_groups < MIN_GROUPS or first.num_anomalous < MIN_ANOMALOUS:
        return (
            f"On {category} there is insufficient data: {first.num_groups} groups with {first.num_anomalous} anomalous "
            f"images; at least {MIN_GROUPS} and {MIN_ANOMALOUS} are needed."
        )
    best = max(rivals, key=lambda one: _low(one.guarded[metric]))
    over = "real shots only" if baseline == "real" else f"the arm {baseline}"
    ground = f"on {best.num_groups} groups of test images and {_counted(best.num_seeds, 'training seed')}"
    gain = best.guarded[metric].text(signed=True).replace("+", "", 1)
    if _low(best.guarded[metric]) > 0.0:
        rest = f", the surest of {len(rivals)} comparisons" if len(rivals) > 1 else ""
        return f"On {category}, + {best.arm} improves {name} of {best.detector} by {gain} over {over}, {ground}{rest}."
    harmed = sum(_high(one.guarded[metric]) < 0.0 for one in rivals)
    tail = f"; {harmed} of them lower it beyond doubt" if harmed else ""
    nearest = f"the nearest is + {best.arm} of {best.detector} with {best.guarded[metric].text(signed=True)}"
    return (
        f"On {category} no arm is shown to help: none of {_counted(len(rivals), 'comparison')} with {over} shows a "
        f"gain in {name} above zero, {ground}; {nearest}{tail}."
    )


def _low(bounded: Bounded) -> float:
    return -math.inf if bounded.low is None else bounded.low


def _high(bounded: Bounded) -> float:
    return math.inf if bounded.high is None else bounded.high


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def detection_json(results: Sequence[Result], compared: Sequence[ArmComparison]) -> dict[str, object]:
    """Numbers for `dvc metrics`: category -> detector -> arm -> metric -> mean, sd, low, high; null where undefined."""
    levels = {(one.category, one.detector, one.arm): one.levels for one in compared}
    return _nested(
        (
            one,
            arm,
            _numbers(
                {metric: over_seeds(seeds, metric) for metric in METRIC_NAMES},
                levels.get((one.category, one.detector, arm), {}),
            ),
        )
        for one in results
        for arm, seeds in _by_arm(one)
    )


def gains_json(results: Sequence[Result], compared: Sequence[ArmComparison], *, baseline: str) -> dict[str, object]:
    """Like `detection_json`, for the paired differences to the base arm; empty where there is no base arm."""
    gains = {(one.category, one.detector, one.arm): one.gains for one in compared}
    return _nested(
        (
            one,
            arm,
            _numbers(
                {metric: gain(seeds, one.metrics[baseline], metric) for metric in METRIC_NAMES},
                gains.get((one.category, one.detector, arm), {}),
            ),
        )
        for one in results
        if baseline in one.metrics
        for arm, seeds in _by_arm(one)
        if arm != baseline
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


def arms_plot(compared: Sequence[ArmComparison], *, metric: str) -> list[dict[str, object]]:
    """Rows for a plot of one metric by arm: panel, arm, mean over seeds, ends of its interval over groups."""
    rows: list[dict[str, object]] = []
    for one in compared:
        value = one.levels["group"][metric]
        if value.value is not None:
            rows.append(
                {
                    "panel": f"{one.category}, {one.detector}",
                    "arm": one.arm,
                    "value": value.value,
                    "low": value.value if value.low is None else value.low,
                    "high": value.value if value.high is None else value.high,
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
    compared: Sequence[ArmComparison],
    decisions: Sequence[Promotion],
    pools: Sequence[PoolCount],
    shots: Sequence[ShotsUsed],
    primary: str,
    baseline: str,
    confidence: float,
    source: str,
    backbone: str,
    features: str,
) -> str:
    """Write the report as Markdown.

    Args:
        results: every detector on every category.
        compared: the same with intervals.
        decisions: what the gate says.
        pools: every synthetic pool.
        shots: the real shots of every category.
        primary: the metric that the comparison is about.
        baseline: name of the base arm.
        confidence: of the intervals.
        source: one phrase: what the real images are.
        backbone: one phrase: what drew the normals.
        features: one phrase: the patch features.
    """
    blocks = [
        "# Does it help?",
        f"**{verdict(compared, metric=primary, baseline=baseline)}**",
        f"Real images: {source}. Generated normals: {backbone}. Patch features: {features}. "
        "Every number below was measured on real test images that no generator, gate or detector has seen. "
        f"AUPRO is integrated to a false-positive rate of {_limits(results)} over 8-connected regions; maps are "
        "compared with the masks at the original image size.",
        intervals_sentence(compared, confidence=confidence),
    ]
    for used in shots:
        mine = [one for one in results if one.category == used.category]
        blocks.append(f"## {used.category}")
        blocks.append(_data_paragraph(used, mine))
        ours = [one for one in compared if one.category == used.category]
        blocks.append(_metric_table(mine, ours))
        blocks += _gain_section(ours, primary, baseline)
        blocks += _threshold_section(mine)
        blocks += _gate_section([one for one in decisions if one.category == used.category])
        blocks += _defect_section(mine, primary)
        blocks += _pool_section([pool for pool in pools if pool.category == used.category])
    return "\n\n".join(blocks) + "\n"


def intervals_sentence(compared: Sequence[ArmComparison], *, confidence: float) -> str:
    """Say what the brackets mean, and what they do not cover."""
    counts = {one.num_seeds for one in compared}
    if not counts:
        return "Nothing was evaluated."
    least, most = min(counts), max(counts)
    number = f"{least}" if least == most else f"{least} to {most}"
    text = (
        f"{number} training {'seed' if most == 1 else 'seeds'} per arm; [low, high] is a {100 * confidence:g} % "
        "interval over groups of test images"
    )
    if most == 1:
        text += ": it says nothing about other training runs"
    elif least > 1:
        text += " and training seeds (weights, batches, coreset)"
    return (
        f"{text}; it says nothing about other shots. Differences are paired by group and seed. No brackets: groups do "
        "not vary, or a metric needs a single one of them."
    )


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


def _metric_table(results: Sequence[Result], compared: Sequence[ArmComparison]) -> str:
    trained = {(one.detector, arm): data.counts for one in results for arm, data in one.trained_on.items()}
    rows = [
        [one.detector, one.arm, trained_text(trained[one.detector, one.arm])]
        + [one.levels["group"][metric].text() for metric in METRIC_NAMES]
        for one in compared
    ]
    return table(["detector", "arm", "fitted on", *METRIC_NAMES.values()], rows)


def trained_text(counts: Mapping[str, int]) -> str:
    """`8 real normals, 4 real pairs`."""
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) or DASH


def _gain_section(compared: Sequence[ArmComparison], primary: str, baseline: str) -> list[str]:
    metrics = (primary, *_others(primary))
    rows = [
        [one.detector, one.arm]
        + [one.gains["group"][metric].text(signed=True) for metric in metrics]
        + [one.guarded[primary].text(signed=True)]
        for one in compared
        if one.gains
    ]
    if not rows:
        return []
    names = [METRIC_NAMES[metric] for metric in metrics]
    head = ["detector", "arm", *names, f"{METRIC_NAMES[primary]}, all arms at once"]
    return [f"### Gain over the arm `{baseline}`", table(head, rows)]


def threshold_rows(results: Sequence[Result]) -> list[list[str]]:
    """Rows about thresholds chosen on validation images: detector, arm, image or pixel, test F1, precision, recall."""
    rows = []
    for one in results:
        for arm in arms_in_order(one):
            for kind in ("image", "pixel"):
                found = [at[kind] for at in one.at_thresholds.get(arm, {}).values() if kind in at]
                figures = [spread(getattr(at, name) for at in found) for name in ("f1", "precision", "recall")]
                if found:
                    rows.append([one.detector, arm, kind, *(figure.text() for figure in figures)])
    return rows


def _threshold_section(results: Sequence[Result]) -> list[str]:
    rows = threshold_rows(results)
    if not rows:
        return [
            "No threshold was chosen: there are no validation images of both kinds, and test images choose nothing."
        ]
    head = ["detector", "arm", "of", "test F1", "test precision", "test recall"]
    return [
        "### At the threshold with the greatest F1 on the validation images (± standard deviation over seeds)",
        table(head, rows),
    ]


def _gate_section(decisions: Sequence[Promotion]) -> list[str]:
    if not decisions:
        return []
    rows = [[one.detector, one.arm, one.decision, one.reason] for one in decisions]
    return ["### The gate, on validation images", table(["detector", "arm", "answer", "reason"], rows)]


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
    return [(arm, one.metrics[arm]) for arm in arms_in_order(one)]


def _differences(seeds: SeedMetrics, base: SeedMetrics, metric: str) -> list[float | None]:
    found: list[float | None] = []
    for seed, values in seeds.items():
        ours, theirs = values.get(metric), base.get(seed, {}).get(metric)
        found.append(None if ours is None or theirs is None else ours - theirs)
    return found


def _numbers(
    spreads: Mapping[str, Spread], bounded: Mapping[str, Mapping[str, Bounded]]
) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for metric, value in spreads.items():
        found[metric] = {
            "mean": None if value.mean is None else round(value.mean, 6),
            "sd": None if value.sd is None else round(value.sd, 6),
        }
        for unit, suffix in (("group", ""), ("image", "_by_image")):
            one = bounded.get(unit, {}).get(metric, Bounded(None, None, None))
            found[metric] |= {f"low{suffix}": one.low, f"high{suffix}": one.high}
    return found


def _nested(rows: Iterable[tuple[Result, str, object]]) -> dict[str, object]:
    found: dict[str, dict[str, dict[str, object]]] = {}
    for one, arm, values in rows:
        found.setdefault(one.category, {}).setdefault(one.detector, {})[arm] = values
    return dict(found)
