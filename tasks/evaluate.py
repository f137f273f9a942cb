"""Measure every fit of one detector on real images of one category that no generator, gate or detector has seen."""

from __future__ import annotations

import itertools
from collections import Counter
from operator import itemgetter
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from anosynth.detectors.build import build_detector
from anosynth.detectors.fits import Fits, fit_folder, read_fits
from anosynth.errors import DataError
from anosynth.imaging import encode_png
from anosynth.layout import Layout
from anosynth.metrics.evaluation import Evaluation, json_numbers
from anosynth.metrics.failures import Failure, MostWrong, picture
from anosynth.metrics.fit import FitMeasure
from anosynth.params import (
    AlignedSpec,
    BackboneSpec,
    ComputeParams,
    DetectorSpec,
    EvaluateParams,
    FeatureSpec,
    ImageParams,
    ObjectParams,
)
from anosynth.progress import track
from anosynth.results import (
    LEFT_OUT_FILE,
    RESULT_FILE,
    VALIDATION_FOLDER,
    AtThreshold,
    LeftOutRow,
    Metrics,
    Result,
    TrainedOn,
    result_to_json,
    write_left_out,
)
from anosynth.samples import Record
from anosynth.sources.lock import OpenShots, open_shots
from tasks._bind import main
from tasks._outputs import whole_folder, write_json
from tasks._parts import detector_parts

VERSION = 1
CURVE_POINTS = 100
# Thresholds are chosen on val before test is measured.
ROLES: tuple[Literal["val", "test"], ...] = ("val", "test")


def run(
    *,
    layout: Layout,
    category: str,
    detector: str,
    compute: ComputeParams,
    image: ImageParams,
    objects: dict[str, ObjectParams],
    backbone: BackboneSpec,
    features: FeatureSpec,
    aligned: AlignedSpec,
    detector_spec: DetectorSpec,
    evaluate: EvaluateParams,
) -> None:
    """Write results/evaluate/<category>/<detector>: metrics.json, curves.json, two tables and failures/.

    scores.parquet has a row per image and fit, left_out.parquet the metrics without each group and each image.

    All that is about the test images. The same about the validation images, if there are some of both kinds, stands
    in val/: thresholds are chosen there and measured on both.

    Maps are compared with the masks at the original size of every test image. Where the source labels whole images and
    has no masks, pixel metrics are null and the curves empty.
    """
    torch.set_num_threads(compute.threads)
    shots = open_shots(layout.shots(category), layout.index(category))
    fits = read_fits(layout.detector(category, detector))
    parts = detector_parts(
        layout,
        category,
        object_name=objects[category].name,
        size_px=image.size_px,
        compute=compute,
        features=features,
        aligned=aligned,
        backbone=backbone,
    )
    roles = [_Role(role, records) for role in ROLES if (records := _records(shots, category, role))]
    jobs = [(arm, seed) for arm, fitted in fits.arms.items() for seed in fitted.fingerprints]
    with whole_folder(layout, layout.evaluation(category, detector)) as folder:
        todo = ((job, role, record) for job in jobs for role in roles for record in role.records)
        doing = f"evaluate {detector} on {category}"
        steps = track(todo, total=len(jobs) * sum(len(role.records) for role in roles), doing=doing, unit="image")
        for (arm, seed), of_fit in itertools.groupby(steps, key=itemgetter(0)):
            name = f"{detector} on {category}, arm {arm}, seed {seed}"
            built = build_detector(detector_spec, parts=parts, compute=compute, name=name)
            built.load(fit_folder(layout.detector(category, detector), arm=arm, seed=seed))
            thresholds: dict[str, float] = {}
            for role, of_role in itertools.groupby(of_fit, key=itemgetter(1)):
                found = FitMeasure(bits=evaluate.histogram_bits)
                drawn = role.name == "test" and seed == min(fits.arms[arm].fingerprints)
                wrong = MostWrong(evaluate.failures if drawn else 0)
                answers = built.predict((record.sha256, shots.images.image(record)) for record in role.records)
                for _, _, record in of_role:
                    answer, shown = next(answers), shots.images.image(record)
                    mask = None if record.is_image_level else shots.images.mask(record)
                    found.add(record, answer, mask)
                    wrong.add(Failure(record.path, record.defect, answer.score, shown, mask, answer.anomaly_map))
                    role.scores.append(_row(record, answer.score, arm, seed))
                if role.name == "val":
                    thresholds = found.best_thresholds()
                role.add(found, arm, str(seed), max_fpr=evaluate.aupro_max_fpr, thresholds=thresholds)
                _draw(wrong, folder / "failures" / arm)
        for role in roles:
            place = folder if role.name == "test" else folder / VALIDATION_FOLDER
            role.write(place, category, detector, fits, max_fpr=evaluate.aupro_max_fpr)
    said = ", ".join(f"{len(role.records)} {role.name}" for role in reversed(roles))
    print(
        f"evaluate: {len(jobs)} fits of {detector} on real images of {category} ({said}), "
        f"in {layout.evaluation(category, detector)}"
    )


class _Role:
    """What every fit earned on the images of one role."""

    def __init__(self, name: Literal["val", "test"], records: tuple[Record, ...]) -> None:
        self.name = name
        self.records = records
        self.scores: list[dict[str, object]] = []
        self._metrics: dict[str, dict[str, Metrics]] = {}
        self._by_defect: dict[str, dict[str, dict[str, Metrics]]] = {}
        self._bounds: dict[str, dict[str, Metrics]] = {}
        self._at: dict[str, dict[str, dict[str, AtThreshold]]] = {}
        self._curves: dict[str, dict[str, object]] = {}
        self._left_out: list[LeftOutRow] = []

    def add(self, found: FitMeasure, arm: str, seed: str, *, max_fpr: float, thresholds: dict[str, float]) -> None:
        measured = found.evaluation
        self._metrics.setdefault(arm, {})[seed] = json_numbers(measured.metrics(max_fpr=max_fpr))
        self._bounds.setdefault(arm, {})[seed] = json_numbers(measured.error_bounds(max_fpr=max_fpr))
        self._by_defect.setdefault(arm, {})[seed] = {
            defect: json_numbers(measured.metrics(max_fpr=max_fpr, defect=defect)) for defect in measured.defects
        }
        self._at.setdefault(arm, {})[seed] = found.at_thresholds(thresholds)
        self._curves.setdefault(arm, {})[seed] = _curve(measured)
        self._left_out += found.left_out_rows(arm, seed, max_fpr=max_fpr)

    def write(self, folder: Path, category: str, detector: str, fits: Fits, *, max_fpr: float) -> None:
        folder.mkdir(exist_ok=True)
        result = Result(
            category=category,
            detector=detector,
            role=self.name,
            spec=fits.spec,
            normals=fits.normals,
            aupro_max_fpr=max_fpr,
            test_images=dict(Counter(record.defect or "normal" for record in self.records)),
            test_groups=len({record.group for record in self.records}),
            test_licences=sorted({record.licence for record in self.records}),
            trained_on={arm: TrainedOn(one.counts, one.digests, one.licence) for arm, one in fits.arms.items()},
            metrics=self._metrics,
            by_defect=self._by_defect,
            error_bounds=self._bounds,
            at_thresholds=self._at,
        )
        write_json(folder / RESULT_FILE, result_to_json(result))
        write_json(folder / "curves.json", {"version": VERSION, "pixel_precision_recall": self._curves})
        pq.write_table(pa.Table.from_pylist(self.scores, schema=_SCHEMA), folder / "scores.parquet")
        write_left_out(folder / LEFT_OUT_FILE, self._left_out)


_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("group", pa.string()),
        ("defect", pa.string()),
        ("label", pa.int8()),
        ("arm", pa.string()),
        ("seed", pa.int64()),
        ("score", pa.float64()),
    ]
)


def _row(record: Record, score: float, arm: str, seed: int) -> dict[str, object]:
    return {
        "id": record.sha256,
        "path": record.path,
        "group": record.group,
        "defect": record.defect,
        "label": int(record.defect is not None),
        "arm": arm,
        "seed": seed,
        "score": score,
    }


def _records(shots: OpenShots, category: str, role: Literal["val", "test"]) -> tuple[Record, ...]:
    """The real images of a role, none of them a shot; for val nothing, if it lacks one kind of image."""
    records = tuple(record for record in shots.images.records if record.role == role)
    chosen = {shot.record.sha256 for shot in shots.lock.shots}
    assert not any(record.sha256 in chosen for record in records)
    kinds = {record.defect is None for record in records}
    for is_normal, kind in ((True, "normal"), (False, "anomalous")):
        if is_normal not in kinds and role == "val":
            return ()
        if is_normal not in kinds:
            raise DataError(
                f"{category} has no {kind} test image, so nothing can be measured; "
                "give the source test images of both kinds, or correct split in params.yaml"
            )
    return records


def _curve(found: Evaluation) -> dict[str, list[float]]:
    if not found.has_masks():
        return {"recall": [], "precision": []}
    recall, precision = found.pixels().precision_recall(points=CURVE_POINTS)
    return {
        "recall": [round(float(value), 6) for value in recall],
        "precision": [round(float(value), 6) for value in precision],
    }


def _draw(wrong: MostWrong, folder: Path) -> None:
    if not wrong.false_alarms and not wrong.misses:
        return
    folder.mkdir(parents=True)
    listed = []
    for kind, failures in (("false_alarm", wrong.false_alarms), ("miss", wrong.misses)):
        for rank, failure in enumerate(failures):
            name = f"{kind}-{rank}.png"
            (folder / name).write_bytes(encode_png(picture(failure, map_range=wrong.map_range), compress_level=6))
            listed.append({"file": name, "path": failure.path, "defect": failure.defect, "score": failure.score})
    write_json(folder / "failures.json", {"version": VERSION, "map_range": wrong.map_range, "failures": listed})


if __name__ == "__main__":
    main(run)
