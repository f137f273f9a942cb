"""Fit the defect-type classifier of one category on every arm and seed, and measure it on real test images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from anosynth.detectors.arms import ArmData
from anosynth.detectors.defect_types import DefectDescriber, LinearClassifier
from anosynth.features.encoder import build_features
from anosynth.layout import Layout
from anosynth.metrics.classification import accuracy, class_f1, confusion, macro_f1
from anosynth.metrics.intervals import Bounds, difference_bounds, level_bounds
from anosynth.params import ArmParams, ClassifyParams, ComputeParams, FeatureSpec, FitDetectorParams, PairKey
from anosynth.samples import Record
from anosynth.seeding import numpy_rng
from anosynth.sources.lock import OpenShots, open_shots
from tasks._arms import arm_reader
from tasks._bind import main
from tasks._outputs import whole_folder, write_json

VERSION = 1
BASE_ARM = "real"
CONFIDENCE = 0.95
METRICS = {"accuracy": accuracy, "macro_f1": macro_f1}


def run(
    *,
    layout: Layout,
    category: str,
    seed: int,
    compute: ComputeParams,
    grid__pairs: dict[str, PairKey],
    features: FeatureSpec,
    arms: dict[str, ArmParams],
    fit_detector: FitDetectorParams,
    classify: ClassifyParams,
) -> None:
    """Write results/classify/<category>: classification.json and the fitted heads, one folder an arm and seed.

    A category with fewer than two defect types has nothing to tell apart: the file says so and holds no figures.
    """
    torch.set_num_threads(compute.threads)
    shots = open_shots(layout.shots(category), layout.index(category))
    test = [one for one in shots.images.records if one.role == "test" and one.defect is not None]
    classes = tuple(sorted({pair.defect for pair in grid__pairs.values() if pair.category == category}))
    head: dict[str, object] = {"version": VERSION, "category": category, "classes": list(classes), "arms": {}}
    test = [one for one in test if one.defect in classes]
    seen = {one.defect for one in test}
    why = ""
    if len(classes) < 2:
        why = f"{len(classes)} defect type in grid.pairs: there is nothing to tell apart"
    elif len(seen) < 2:
        why = "the test images show fewer than two of the defect types"
    with whole_folder(layout, layout.classification(category)) as folder:
        if why:
            write_json(folder / "classification.json", {**head, "note": why})
            print(f"classify: {category} is left out ({why}); {layout.classification(category)}")
            return
        reader = arm_reader(layout, category, shots, grid__pairs, normals=fit_detector.normals)
        describer = DefectDescriber(
            build_features(features, compute=compute), shots.normal_images(), patch_ratio=classify.patch_ratio
        )
        measured: dict[str, NDArray[np.int64]] = {}
        found: dict[str, dict[str, object]] = {}
        left_out_arms = {}
        for arm in classify.arms:
            data = reader.read(arm, arms[arm])
            lacking = sorted(set(classes) - {item.defect for item in data.pairs})
            if lacking:
                left_out_arms[arm] = f"no pairs of {', '.join(lacking)}"
                continue
            counts = [
                _counts(
                    _fit(describer, classes, data, classify, folder / f"{arm}-{one}", seed, category, one), test, shots
                )
                for one in fit_detector.seeds
            ]
            measured[arm] = np.stack(counts)
            found[arm] = _arm_json(measured[arm], data, fit_detector.seeds, classes)
        for arm, counts_of in measured.items():
            if arm != BASE_ARM and BASE_ARM in measured:
                found[arm]["gain_over_real"] = {
                    name: _gain_json(metric, counts_of, measured[BASE_ARM]) for name, metric in METRICS.items()
                }
        value = {
            **head,
            "arms": found,
            "arms_left_out": left_out_arms,
            "test_images": {name: sum(one.defect == name for one in test) for name in classes},
            "test_groups": len({one.group for one in test}),
            "confidence": CONFIDENCE,
            "features": features.model_dump(mode="json"),
        }
        write_json(folder / "classification.json", value)
    print(
        f"classify: {len(found)} arms x {len(fit_detector.seeds)} seeds tell {len(classes)} defect types of {category} "
        f"apart on {len(test)} real test images, in {layout.classification(category)}"
    )


def _fit(
    describer: DefectDescriber,
    classes: tuple[str, ...],
    data: ArmData,
    settings: ClassifyParams,
    folder: Path,
    seed: int,
    category: str,
    fit_seed: int,
) -> LinearClassifier:
    """Fit and save one head; equal seeds draw equal views of the images that two arms share."""
    classifier = LinearClassifier(
        describer,
        classes,
        l2=settings.l2,
        views=settings.views,
        synthetic_ratio=settings.synthetic_ratio,
        rng=numpy_rng(seed, "classify", category, fit_seed),
    )
    classifier.fit(data.pairs)
    folder.mkdir()
    classifier.save(folder)
    return classifier


def _counts(classifier: LinearClassifier, test: Sequence[Record], shots: OpenShots) -> NDArray[np.int64]:
    """Confusion counts by group of the test images, int64 [G, C, C]."""
    asked = ((record.sha256, shots.images.image(record)) for record in test)
    predicted = np.array([int(given.argmax()) for given in classifier.predict_proba(asked)])
    true = np.array([classifier.classes.index(str(record.defect)) for record in test])
    groups = np.array([record.group for record in test])
    return np.stack(
        [
            confusion(true[groups == group], predicted[groups == group], num_classes=len(classifier.classes))
            for group in np.unique(groups)
        ]
    )


def _arm_json(
    counts: NDArray[np.int64], data: ArmData, seeds: Sequence[int], classes: Sequence[str]
) -> dict[str, object]:
    """What one arm earned; `counts` are [S, G, C, C]."""
    whole = counts.sum(axis=1)
    return {
        "trained_on": {"counts": dict(data.counts), "licence": data.licence},
        "seeds": {
            str(seed): {
                **{name: round(float(metric(one)), 6) for name, metric in METRICS.items()},
                "f1": {name: _number(value) for name, value in zip(classes, class_f1(one), strict=True)},
                "confusion": one.tolist(),
            }
            for seed, one in zip(seeds, whole, strict=True)
        },
        **{
            name: _bounds_json(level_bounds(metric(whole), metric(_without(counts)), confidence=CONFIDENCE))
            for name, metric in METRICS.items()
        },
    }


def _gain_json(metric: object, arm: NDArray[np.int64], base: NDArray[np.int64]) -> dict[str, float | None]:
    assert callable(metric)
    full = metric(arm.sum(axis=1)), metric(base.sum(axis=1))
    return _bounds_json(difference_bounds(full, (metric(_without(arm)), metric(_without(base))), confidence=CONFIDENCE))


def _without(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts of all groups but one, [S, G, C, C]."""
    return np.asarray(counts.sum(axis=1, keepdims=True) - counts)


def _bounds_json(bounds: Bounds) -> dict[str, float | None]:
    return {name: _number(getattr(bounds, name)) for name in ("value", "low", "high")}


def _number(value: NDArray[np.float64] | float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


if __name__ == "__main__":
    main(run)
