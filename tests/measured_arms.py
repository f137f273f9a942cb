"""Simulated scores of arms on grouped images, measured as `evaluate` measures them; there are no masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from anosynth.metrics.evaluation import json_numbers
from anosynth.metrics.fit import FitMeasure
from anosynth.results import LeftOutTable, Result, TrainedOn
from anosynth.samples import Prediction, Record

FLAT = np.zeros((2, 2), np.float32)


def measured_arms(
    *,
    gains: Mapping[str, float],
    seeds: int = 1,
    groups: int = 12,
    images: int = 5,
    role: str = "val",
    shuffled: bool = False,
    draw: int = 0,
    kind: str = "unet",
) -> tuple[Result, LeftOutTable, dict[str, NDArray[np.float64]]]:
    """Draw the arm `real` and others whose anomalous images score higher by a gain; every second image is anomalous.

    `shuffled` gives scores that know nothing of the labels. Returns result, leave-one-out values, scores [S, N] by arm.
    """
    rng = np.random.default_rng([draw, groups, images])
    group = np.repeat(np.arange(groups), images)
    labels = np.arange(group.size) % 2 == 1
    shared = 0.5 * rng.normal(size=groups)[group] + rng.normal(size=group.size)
    scores, rows, metrics, at = {}, [], {}, {}
    for arm, gain in {"real": 0.0, **gains}.items():
        own = 0.4 * rng.normal(size=(seeds, group.size)) + 0.2 * rng.normal(size=groups)[group]
        scores[arm] = shared + own + labels * (0.8 + gain)
        if shuffled:
            scores[arm] = rng.permuted(scores[arm], axis=1)
        for seed in range(seeds):
            found = FitMeasure(bits=12)
            for one in range(group.size):
                found.add(record(one, group[one], bool(labels[one])), answer(scores[arm][seed][one]), mask(labels[one]))
            rows += found.left_out_rows(arm, str(seed), max_fpr=0.3)
            metrics.setdefault(arm, {})[str(seed)] = json_numbers(found.evaluation.metrics(max_fpr=0.3))
            at.setdefault(arm, {})[str(seed)] = {}
    count = Counter("scratch" if one else "normal" for one in labels)
    result = Result(
        category="washer",
        detector=kind,
        role=role,  # type: ignore[arg-type]
        spec={"kind": kind, "arms": list(scores)},
        normals="shots",
        aupro_max_fpr=0.3,
        test_images=dict(count),
        test_groups=groups,
        test_licences=["CC0-1.0"],
        trained_on={arm: TrainedOn({"real_pairs": 4}, {"real_pairs": f"digest of {arm}"}, "CC0-1.0") for arm in scores},
        metrics=metrics,
        by_defect={},
        error_bounds={},
        at_thresholds=at,
    )
    return result, LeftOutTable(rows), scores


def record(at: int, group: int, anomalous: bool) -> Record:
    return Record(
        path=f"{at:04d}.png",
        category="washer",
        defect="scratch" if anomalous else None,
        mask_path=None,
        role="val",
        group=f"part {group:03d}",
        licence="CC0-1.0",
        sha256=f"{at:064d}",
        phash="0" * 16,
        height=2,
        width=2,
    )


def answer(score: float) -> Prediction:
    return Prediction("x", float(score), FLAT.copy())


def mask(anomalous: bool) -> NDArray[np.uint8] | None:
    return None if anomalous else np.zeros((2, 2), np.uint8)
