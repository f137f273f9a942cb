"""Gather every result into results/report: Markdown for people, JSON for `dvc metrics`, rows for `dvc plots`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from anosynth.comparison import arms_in_order, compare
from anosynth.controls import controls_json, controls_markdown
from anosynth.imaging import decode_image
from anosynth.layout import Layout
from anosynth.params import (
    BackboneSpec,
    FeatureSpec,
    GridParams,
    ObjectParams,
    PromoteParams,
    ReportParams,
    SourceSpec,
    ToyBackbone,
)
from anosynth.promotion import decisions
from anosynth.report_page.gallery import Shown, choose
from anosynth.report_page.page import CategoryContent, Wrong, page
from anosynth.reporting import (
    PoolCount,
    ShotsUsed,
    arms_plot,
    detection_json,
    gains_json,
    markdown,
    pools_json,
    score_histogram,
    seeds_json,
    verdict,
)
from anosynth.results import LEFT_OUT_FILE, RESULT_FILE, Result, read_left_out, read_result
from anosynth.shards.manifest import read_manifest
from anosynth.shards.read import read_rows, read_verdicts
from anosynth.sources.lock import open_shots, read_lock
from tasks._bind import main
from tasks._outputs import whole_folder, write_json

VERSION = 1


def run(
    *,
    layout: Layout,
    grid: GridParams,
    objects: dict[str, ObjectParams],
    source: SourceSpec,
    backbone: BackboneSpec,
    features: FeatureSpec,
    promote: PromoteParams,
    report: ReportParams,
) -> None:
    """Write results/report: report.html, report.md, report.json, provenance.json and plots/."""
    keys = [(category, detector) for category in grid.categories for detector in grid.detectors]
    results = [read_result(layout.evaluation(*key) / RESULT_FILE) for key in keys]
    compared = [
        one
        for key, result in zip(keys, results, strict=True)
        for one in compare(
            result,
            read_left_out(layout.evaluation(*key) / LEFT_OUT_FILE),
            baseline=promote.baseline,
            confidence=promote.confidence,
        )
    ]
    gate = [one for key in keys for one in decisions(layout, *key, params=promote)]
    pools = [pool for category in grid.categories for pool in _pools(layout, grid, category)]
    shots = [_shots(layout, category, objects[category].name) for category in grid.categories]
    said = verdict(compared, metric=report.primary_metric, baseline=promote.baseline)
    about = (
        f"{source.kind} ({source.licence})",
        _describe(backbone),
        f"{features.kind} {features.model}, levels {list(features.levels)} at {features.size_px} px",
    )
    controls = {
        "measures": _read_all(layout.measures(category) for category in grid.categories),
        "shortcuts": _read_all(layout.shortcuts(category) for category in grid.categories),
        "types": _read_all(layout.classification(category) / "classification.json" for category in grid.categories),
    }
    with whole_folder(layout, layout.report()) as folder:
        text = markdown(
            results=results,
            compared=compared,
            decisions=gate,
            pools=pools,
            shots=shots,
            primary=report.primary_metric,
            baseline=promote.baseline,
            confidence=promote.confidence,
            source=about[0],
            backbone=about[1],
            features=about[2],
        )
        (folder / "report.md").write_text(text + controls_markdown(**controls), encoding="utf-8")
        write_json(
            folder / "report.json",
            {
                "version": VERSION,
                "verdict": said,
                "detection": detection_json(results, compared),
                "gain_over_baseline": gains_json(results, compared, baseline=promote.baseline),
                "gate": {f"{one.category}/{one.detector}/{one.arm}": one.decision for one in gate},
                "seeds": seeds_json(results),
                "pools": pools_json(pools),
                "test_images": {one.category: one.test_images for one in results},
                **controls_json(**controls),
            },
        )
        provenance = {
            "version": VERSION,
            "source": source.model_dump(mode="json"),
            "backbone": backbone.model_dump(mode="json"),
            "features": features.model_dump(mode="json"),
            "promote": promote.model_dump(mode="json"),
            "detectors": {f"{one.category}/{one.detector}": one.spec for one in results},
            "seeds": {
                f"{one.category}/{one.detector}": {arm: list(of) for arm, of in one.metrics.items()} for one in results
            },
            "trained_on": {
                f"{one.category}/{one.detector}/{arm}": asdict(trained)
                for one in results
                for arm, trained in one.trained_on.items()
            },
            "test_licences": {one.category: one.test_licences for one in results},
            "pools": {f"{pool.category}/{pool.pool}": pool.licence for pool in pools},
        }
        write_json(folder / "provenance.json", provenance)
        drawn = page(
            [
                CategoryContent(
                    shots=used,
                    results=[one for one in results if one.category == used.category],
                    compared=[one for one in compared if one.category == used.category],
                    decisions=[one for one in gate if one.category == used.category],
                    pools=[one for one in pools if one.category == used.category],
                    curves={detector: _curves(layout, used.category, detector) for detector in grid.detectors},
                    scores={
                        f"{detector}, {arm}": bins
                        for detector in grid.detectors
                        for arm, bins in _scores(layout, used.category, detector).items()
                    },
                    shown=_shown(layout, grid, used.category, count=report.gallery),
                    wrong=[
                        one for result in results for one in _wrong(layout, result) if result.category == used.category
                    ],
                )
                for used in shots
            ],
            verdict=said,
            primary=report.primary_metric,
            baseline=promote.baseline,
            confidence=promote.confidence,
            about=f"Real images: {about[0]}. Generated normals: {about[1]}. Patch features: {about[2]}.",
            controls=controls_markdown(**controls),
            provenance=provenance,
        )
        (folder / "report.html").write_text(drawn, encoding="utf-8")
        plots = folder / "plots"
        plots.mkdir()
        write_json(plots / "arms.json", arms_plot(compared, metric=report.primary_metric))
        write_json(plots / "pixel_precision_recall.json", [row for key in keys for row in _curve_rows(layout, *key)])
        write_json(plots / "image_scores.json", [row for key in keys for row in _score_rows(layout, *key)])
    print(f"report: {len(results)} evaluations and {len(pools)} pools in {layout.report() / 'report.html'}")


def _read_all(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The files that there are: run by hand, a report is of what was measured so far; in the graph all are there."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def _describe(backbone: BackboneSpec) -> str:
    if isinstance(backbone, ToyBackbone):
        return "the toy backbone (random weights: its normals are noise and prove the plumbing only)"
    return f"the {backbone.kind} backbone"


def _pools(layout: Layout, grid: GridParams, category: str) -> list[PoolCount]:
    verdicts = read_verdicts(layout.verdicts(category))
    folders = {"normals": layout.normals(category)}
    for pair in grid.pair_keys(category):
        folders[f"{pair.defect}/{pair.method}"] = layout.pairs(category, pair.defect, pair.method)
    counts = []
    for name, folder in folders.items():
        manifest = read_manifest(folder)
        found = [verdicts[sample_id] for sample_id in read_rows(folder, ["sample_id"])["sample_id"].to_pylist()]
        refused = Counter(verdict.reason for verdict in found if not verdict.keep)
        kept = len(found) - refused.total()
        counts.append(PoolCount(category, name, manifest.rows, kept, dict(sorted(refused.items())), manifest.licence))
    return counts


def _shots(layout: Layout, category: str, name: str) -> ShotsUsed:
    lock = read_lock(layout.shots(category))
    return ShotsUsed(
        category=category,
        name=name,
        normal=len(lock.normal),
        anomalous={defect: len(chosen) for defect, chosen in lock.anomalous.items()},
        method=lock.method,
        seed=lock.seed,
        licences=sorted({shot.record.licence for shot in lock.shots}),
    )


def _curves(layout: Layout, category: str, detector: str) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Arm -> seed -> precision over recall."""
    curves = json.loads((layout.evaluation(category, detector) / "curves.json").read_text(encoding="utf-8"))
    return {
        arm: {seed: list(zip(curve["recall"], curve["precision"], strict=True)) for seed, curve in seeds.items()}
        for arm, seeds in curves["pixel_precision_recall"].items()
    }


def _curve_rows(layout: Layout, category: str, detector: str) -> list[dict[str, object]]:
    return [
        {
            "panel": f"{category}, {detector}",
            "series": arm,
            "seed": seed,
            "recall": recall,
            "precision": precision,
        }
        for arm, seeds in _curves(layout, category, detector).items()
        for seed, points in seeds.items()
        for recall, precision in points
    ]


def _scores(layout: Layout, category: str, detector: str) -> dict[str, list[tuple[float, int, int]]]:
    """Arm -> histogram of the image scores of all its seeds."""
    scores = pq.read_table(layout.evaluation(category, detector) / "scores.parquet").to_pylist()
    found = {}
    for arm in dict.fromkeys(row["arm"] for row in scores):
        mine = [row for row in scores if row["arm"] == arm]
        found[arm] = score_histogram([row["score"] for row in mine], [row["label"] for row in mine])
    return found


def _score_rows(layout: Layout, category: str, detector: str) -> list[dict[str, object]]:
    """Histograms of image scores, one series for normal and one for anomalous images."""
    rows: list[dict[str, object]] = []
    for arm, bins in _scores(layout, category, detector).items():
        for middle, *counts in bins:
            for series, images in zip(("normal", "anomalous"), counts, strict=True):
                panel = f"{category}, {detector}, {arm}"
                rows.append({"panel": panel, "series": series, "seed": "all", "score": middle, "images": images})
    return rows


def _shown(layout: Layout, grid: GridParams, category: str, *, count: int) -> list[Shown]:
    shots = open_shots(layout.shots(category), layout.index(category))
    verdicts = read_verdicts(layout.verdicts(category))
    shown = choose("normals", layout.normals(category), verdicts, shots.normal_images(), count=count)
    for pair in grid.pair_keys(category):
        folder = layout.pairs(category, pair.defect, pair.method)
        real = [image for image, _ in shots.anomalous_pairs(pair.defect)]
        shown += choose(f"{pair.defect}/{pair.method}", folder, verdicts, real, count=count)
    return shown


def _wrong(layout: Layout, result: Result) -> list[Wrong]:
    """The worst false alarms and misses of every arm."""
    found = []
    for arm in arms_in_order(result):
        folder = layout.evaluation(result.category, result.detector) / "failures" / arm
        if not folder.is_dir():
            continue
        for one in json.loads((folder / "failures.json").read_text(encoding="utf-8"))["failures"]:
            image = decode_image((folder / one["file"]).read_bytes(), name=str(folder / one["file"])).image
            found.append(Wrong(result.detector, arm, one["path"], one["defect"], one["score"], image))
    return found


if __name__ == "__main__":
    main(run)
