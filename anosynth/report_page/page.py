"""Lay report.html out: verdict, intervals, curves, gallery, failures, provenance, in one file without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from anosynth.comparison import ArmComparison
from anosynth.promotion import Promotion
from anosynth.report_page import charts
from anosynth.report_page.gallery import Shown, gallery
from anosynth.report_page.markup import from_markdown, photo, table, text
from anosynth.reporting import METRIC_NAMES, PoolCount, ShotsUsed, intervals_sentence, threshold_rows, trained_text
from anosynth.results import Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FAILURE_PX = 480


@dataclass(frozen=True, eq=False)
class Wrong:
    """A picture of a real test image that a detector got wrong.

    Attributes:
        detector, arm: slugs.
        path: of the image in its source.
        defect: None for a normal image.
        score: of the detector.
        picture: image, mask and anomaly map side by side, uint8 [H, W, 3].
    """

    detector: str
    arm: str
    path: str
    defect: str | None
    score: float
    picture: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class CategoryContent:
    """What the page shows of one category.

    Attributes:
        shots: the real shots.
        results, compared, decisions: what the detectors earned, with intervals, and what the gate says.
        pools: what screening left.
        curves: detector -> arm -> seed -> precision over recall.
        scores: "<detector>, <arm>" -> histogram of image scores.
        shown: samples of the gallery.
        wrong: pictures of failures.
    """

    shots: ShotsUsed
    results: Sequence[Result]
    compared: Sequence[ArmComparison]
    decisions: Sequence[Promotion]
    pools: Sequence[PoolCount]
    curves: Mapping[str, Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]]
    scores: Mapping[str, Sequence[tuple[float, int, int]]]
    shown: Sequence[Shown]
    wrong: Sequence[Wrong]


def page(
    categories: Sequence[CategoryContent],
    *,
    verdict: str,
    primary: str,
    baseline: str,
    confidence: float,
    about: str,
    controls: str,
    provenance: Mapping[str, object],
) -> str:
    """Write the page; equal input gives equal text.

    Args:
        categories: in the order to show them.
        verdict: the answer, shown first.
        primary: the metric that the comparison is about.
        baseline: name of the base arm.
        confidence: of the intervals.
        about: one sentence: what the images and encoders are.
        controls: further sections of report.md: realism, shortcuts, defect types; "" where there are none.
        provenance: JSON values: parameters, digests, seeds, licences.
    """
    compared = [one for content in categories for one in content.compared]
    links = "".join(
        f'<li><a href="#c{at}">{text(content.shots.category)}</a></li>' for at, content in enumerate(categories)
    )
    sections = "".join(_category(content, at, primary, baseline) for at, content in enumerate(categories))
    written = text(json.dumps(provenance, indent=2, sort_keys=True, ensure_ascii=False))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Does it help? anosynth report</title><style>{_asset('page.css')}</style></head><body>"
        '<a class="skip" href="#main">Skip to the numbers</a>'
        f'<header><h1>Does it help?</h1><p class="verdict">{text(verdict)}</p>'
        f'<p class="soft">{text(about)} {text(intervals_sentence(compared, confidence=confidence))}</p>'
        f'<nav aria-label="Sections"><ul>{links}<li><a href="#provenance">provenance</a></li></ul></nav></header>'
        f'<main id="main">{sections}{from_markdown(controls)}<h2 id="provenance">Provenance</h2>'
        "<p>Parameters, digests of training data, seeds and licences of everything above.</p>"
        f"<details><summary>All of it, as JSON</summary><pre tabindex=0>{written}</pre></details></main>"
        "<footer>Made by anosynth. The same numbers stand in report.json and report.md.</footer>"
        f"<script>{_asset('page.js')}</script></body></html>\n"
    )


def _asset(name: str) -> str:
    return files("anosynth.report_page").joinpath(name).read_text(encoding="utf-8")


def _category(content: CategoryContent, at: int, primary: str, baseline: str) -> str:
    category = content.shots.category
    parts = [
        f'<section aria-labelledby="c{at}"><h2 id="c{at}">{text(category)}</h2>',
        f"<p>{text(_data(content))}</p>",
        _levels(content),
        _gains(content, baseline),
        _charts(content, primary, baseline),
        _thresholds(content),
        _gate(content),
        _pools(content),
    ]
    if content.shown:
        parts.append(f"<h3>Synthetic samples of {text(category)}</h3>{gallery(content.shown, name=content.shots.name)}")
    if content.wrong:
        parts.append(f"<h3>Where detectors are most wrong on real test images</h3>{_failures(content.wrong)}")
    return "".join(parts) + "</section>"


def _data(content: CategoryContent) -> str:
    shots = content.shots
    defects = ", ".join(f"{count} {defect}" for defect, count in shots.anomalous.items()) or "none"
    said = (
        f"{shots.name}: {shots.normal} normal shots and anomalous shots: {defects}; chosen by {shots.method}, seed "
        f"{shots.seed}; licence {', '.join(shots.licences)}."
    )
    for one in content.results[:1]:
        images = ", ".join(f"{count} {kind}" for kind, count in one.test_images.items())
        said += f" Test: {images} images in {one.test_groups} groups; licence {', '.join(one.test_licences)}."
    return said


def _levels(content: CategoryContent) -> str:
    trained = {(one.detector, arm): data.counts for one in content.results for arm, data in one.trained_on.items()}
    rows = [
        [one.detector, one.arm]
        + [one.levels["group"][metric].text() for metric in METRIC_NAMES]
        + [trained_text(trained[one.detector, one.arm])]
        for one in content.compared
    ]
    return table(["detector", "arm", *METRIC_NAMES.values(), "fitted on"], rows, caption="Every arm, by groups")


def _gains(content: CategoryContent, baseline: str) -> str:
    rows = [
        [one.detector, one.arm] + [one.gains["group"][metric].text(signed=True) for metric in METRIC_NAMES]
        for one in content.compared
        if one.gains
    ]
    if not rows:
        return ""
    head = ["detector", "arm", *METRIC_NAMES.values()]
    return table(head, rows, caption=f"Gain over the arm {baseline}, paired by group and seed")


def _charts(content: CategoryContent, primary: str, baseline: str) -> str:
    name, drawn = METRIC_NAMES[primary], []
    for result in content.results:
        detector = result.detector
        arms = [one for one in content.compared if one.detector == detector]
        gains = [(one.arm, one.gains["group"][primary]) for one in arms if one.gains]
        lines = content.curves.get(detector, {})
        parts = [
            charts.intervals(
                [(one.arm, one.levels["group"][primary]) for one in arms], title=f"{name}, {detector}", zero=False
            ),
            charts.intervals(gains, title=f"Gain in {name} over {baseline}, {detector}", zero=True),
            charts.curves(
                {one.arm: lines[one.arm] for one in arms if one.arm in lines},
                title=f"Pixel precision over recall, {detector}",
            ),
        ]
        drawn.append(f'<div class="charts">{"".join(parts)}</div>')
    scores = [charts.histogram(bins, title=f"Image scores, {which}") for which, bins in content.scores.items()]
    inner = f'<div class="charts">{"".join(scores)}</div>'
    more = f"<details><summary>Scores of the test images, by detector and arm</summary>{inner}</details>"
    return f"<h3>Curves</h3>{''.join(drawn)}{more if any(scores) else ''}"


def _thresholds(content: CategoryContent) -> str:
    head = ["detector", "arm", "of", "test F1", "test precision", "test recall"]
    rows = threshold_rows(content.results)
    if not rows:
        return "<p>No threshold was chosen: there are no validation images of both kinds.</p>"
    return table(head, rows, caption="At the threshold with the greatest F1 on the validation images")


def _gate(content: CategoryContent) -> str:
    rows = [[one.detector, one.arm, one.decision, one.reason] for one in content.decisions]
    return (
        table(["detector", "arm", "answer", "reason"], rows, caption="The gate, on validation images") if rows else ""
    )


def _pools(content: CategoryContent) -> str:
    rows = [
        [
            one.pool,
            str(one.rows),
            str(one.kept),
            ", ".join(f"{count} {why}" for why, count in one.refused.items()) or "none",
            one.licence,
        ]
        for one in content.pools
    ]
    head = ["pool", "made", "kept", "refused, by reason", "licence"]
    return table(head, rows, caption="Synthetic pools", row_heads=1) if rows else ""


def _failures(wrong: Sequence[Wrong]) -> str:
    figures = []
    for one in wrong:
        what = "false alarm" if one.defect is None else f"missed {one.defect}"
        alt = f"{what}: image, mask and anomaly map of {one.path}"
        picture = photo(one.picture, alt=alt, size_px=FAILURE_PX)
        figures.append(
            f"<figure>{picture}<figcaption>{text(what)} by {text(one.detector)}, arm "
            f"{text(one.arm)}, score {one.score:.3g}: {text(one.path)}</figcaption></figure>"
        )
    return f"<details><summary>{len(wrong)} images</summary><div class='failures'>{''.join(figures)}</div></details>"
