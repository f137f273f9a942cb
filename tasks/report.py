"""Gather every result into results/report: Markdown for people, JSON for `dvc metrics`, rows for `dvc plots`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

import pyarrow.parquet as pq

from anosynth.layout import Layout
from anosynth.params import (
    BackboneSpec,
    FeatureSpec,
    GridParams,
    ObjectParams,
    ReportParams,
    SourceSpec,
    ToyBackbone,
)
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
)
from anosynth.results import read_result
from anosynth.shards.manifest import read_manifest
from anosynth.shards.read import read_rows, read_verdicts
from anosynth.sources.lock import read_lock
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
    report: ReportParams,
) -> None:
    """Write results/report: report.md, report.json, provenance.json and plots/."""
    keys = [(category, detector) for category in grid.categories for detector in grid.detectors]
    results = [read_result(layout.evaluation(*key) / "metrics.json") for key in keys]
    pools = [pool for category in grid.categories for pool in _pools(layout, grid, category)]
    shots = [_shots(layout, category, objects[category].name) for category in grid.categories]
    with whole_folder(layout, layout.report()) as folder:
        text = markdown(
            results=results,
            pools=pools,
            shots=shots,
            primary=report.primary_metric,
            source=f"{source.kind} ({source.licence})",
            backbone=_describe(backbone),
            features=f"{features.kind} {features.model}, levels {list(features.levels)} at {features.size_px} px",
        )
        (folder / "report.md").write_text(text, encoding="utf-8")
        write_json(
            folder / "report.json",
            {
                "version": VERSION,
                "detection": detection_json(results),
                "gain_over_real": gains_json(results),
                "seeds": seeds_json(results),
                "pools": pools_json(pools),
                "test_images": {one.category: one.test_images for one in results},
            },
        )
        write_json(
            folder / "provenance.json",
            {
                "version": VERSION,
                "source": source.model_dump(mode="json"),
                "backbone": backbone.model_dump(mode="json"),
                "features": features.model_dump(mode="json"),
                "trained_on": {
                    f"{one.category}/{one.detector}/{arm}": asdict(trained)
                    for one in results
                    for arm, trained in one.trained_on.items()
                },
                "test_licences": {one.category: one.test_licences for one in results},
                "pools": {f"{pool.category}/{pool.pool}": pool.licence for pool in pools},
            },
        )
        plots = folder / "plots"
        plots.mkdir()
        write_json(plots / "arms.json", arms_plot(results, metric=report.primary_metric))
        write_json(plots / "pixel_precision_recall.json", [row for key in keys for row in _curve_rows(layout, *key)])
        write_json(plots / "image_scores.json", [row for key in keys for row in _score_rows(layout, *key)])
    print(f"report: {len(results)} evaluations and {len(pools)} pools in {layout.report() / 'report.md'}")


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


def _curve_rows(layout: Layout, category: str, detector: str) -> list[dict[str, object]]:
    curves = json.loads((layout.evaluation(category, detector) / "curves.json").read_text(encoding="utf-8"))
    return [
        {
            "panel": f"{category}, {detector}",
            "series": arm,
            "seed": seed,
            "recall": recall,
            "precision": precision,
        }
        for arm, seeds in curves["pixel_precision_recall"].items()
        for seed, curve in seeds.items()
        for recall, precision in zip(curve["recall"], curve["precision"], strict=True)
    ]


def _score_rows(layout: Layout, category: str, detector: str) -> list[dict[str, object]]:
    """Histograms of the image scores of all seeds of each arm, one series for normal and one for anomalous images."""
    scores = pq.read_table(layout.evaluation(category, detector) / "scores.parquet").to_pylist()
    rows: list[dict[str, object]] = []
    for arm in dict.fromkeys(row["arm"] for row in scores):
        mine = [row for row in scores if row["arm"] == arm]
        for middle, *counts in score_histogram([row["score"] for row in mine], [row["label"] for row in mine]):
            for series, images in zip(("normal", "anomalous"), counts, strict=True):
                panel = f"{category}, {detector}, {arm}"
                rows.append({"panel": panel, "series": series, "seed": "all", "score": middle, "images": images})
    return rows


if __name__ == "__main__":
    main(run)
