"""Measure every fit of one detector on the real test images of one category, and on nothing else."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import cache
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from anosynth.detectors.build import build_detector
from anosynth.detectors.fits import fit_folder, read_fits
from anosynth.errors import DataError
from anosynth.features.encoder import PatchFeatures, build_features
from anosynth.imaging import encode_png
from anosynth.layout import Layout
from anosynth.metrics.evaluation import Evaluation, json_numbers
from anosynth.metrics.failures import Failure, MostWrong, picture
from anosynth.params import ComputeParams, DetectorSpec, EvaluateParams, FeatureSpec
from anosynth.progress import track
from anosynth.results import Metrics, Result, TrainedOn, result_to_json
from anosynth.samples import Record
from anosynth.sources.lock import OpenShots, open_shots
from tasks._bind import main
from tasks._outputs import whole_folder, write_json

VERSION = 1
CURVE_POINTS = 100


def run(
    *,
    layout: Layout,
    category: str,
    detector: str,
    compute: ComputeParams,
    features: FeatureSpec,
    detector_spec: DetectorSpec,
    evaluate: EvaluateParams,
) -> None:
    """Write results/evaluate/<category>/<detector>: metrics.json, curves.json, scores.parquet and failures/.

    Maps are compared with the masks at the original size of every test image. Where the source labels whole images and
    has no masks, pixel metrics are null and the curves empty.
    """
    torch.set_num_threads(compute.threads)
    shots = open_shots(layout.shots(category), layout.index(category))
    records = _test_records(shots, category)
    fits = read_fits(layout.detector(category, detector))

    @cache
    def open_features() -> PatchFeatures:
        return build_features(features, compute=compute)

    metrics: dict[str, dict[str, Metrics]] = {}
    by_defect: dict[str, dict[str, dict[str, Metrics]]] = {}
    bounds: dict[str, dict[str, Metrics]] = {}
    curves: dict[str, dict[str, object]] = {}
    rows: list[dict[str, object]] = []
    limit = evaluate.aupro_max_fpr
    jobs = [(arm, seed) for arm, fitted in fits.arms.items() for seed in fitted.fingerprints]
    with whole_folder(layout, layout.evaluation(category, detector)) as folder:
        todo = ((job, record) for job in jobs for record in records)
        doing = f"evaluate {detector} on {category}"
        steps = track(todo, total=len(jobs) * len(records), doing=doing, unit="image")
        for (arm, seed), group in itertools.groupby(steps, key=itemgetter(0)):
            name = f"{detector} on {category}, arm {arm}, seed {seed}"
            built = build_detector(detector_spec, open_features=open_features, compute=compute, name=name)
            built.load(fit_folder(layout.detector(category, detector), arm=arm, seed=seed))
            found = Evaluation(bits=evaluate.histogram_bits)
            wrong = MostWrong(evaluate.failures if seed == min(fits.arms[arm].fingerprints) else 0)
            for _, record in group:
                image = shots.images.image(record)
                mask = None if record.is_image_level else shots.images.mask(record)
                answer = next(built.predict([(record.sha256, image)]))
                found.add(defect=record.defect, score=answer.score, anomaly_map=answer.anomaly_map, mask=mask)
                wrong.add(Failure(record.path, record.defect, answer.score, image, mask, answer.anomaly_map))
                rows.append(_row(record, answer.score, arm, seed))
            key = str(seed)
            metrics.setdefault(arm, {})[key] = json_numbers(found.metrics(max_fpr=limit))
            bounds.setdefault(arm, {})[key] = json_numbers(found.error_bounds(max_fpr=limit))
            by_defect.setdefault(arm, {})[key] = {
                defect: json_numbers(found.metrics(max_fpr=limit, defect=defect)) for defect in found.defects
            }
            curves.setdefault(arm, {})[key] = _curve(found)
            _draw(wrong, folder / "failures" / arm)
        count = Counter(record.defect or "normal" for record in records)
        result = Result(
            category=category,
            detector=detector,
            spec=fits.spec,
            normals=fits.normals,
            aupro_max_fpr=evaluate.aupro_max_fpr,
            test_images=dict(count),
            test_groups=len({record.group for record in records}),
            test_licences=sorted({record.licence for record in records}),
            trained_on={arm: TrainedOn(one.counts, one.digests, one.licence) for arm, one in fits.arms.items()},
            metrics=metrics,
            by_defect=by_defect,
            error_bounds=bounds,
        )
        write_json(folder / "metrics.json", result_to_json(result))
        write_json(folder / "curves.json", {"version": VERSION, "pixel_precision_recall": curves})
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), folder / "scores.parquet")
    normal = count.pop("normal", 0)
    print(
        f"evaluate: {sum(map(len, metrics.values()))} fits of {detector} on {normal} normal + {sum(count.values())} "
        f"anomalous real test images of {category}, in {layout.evaluation(category, detector)}"
    )


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


def _test_records(shots: OpenShots, category: str) -> tuple[Record, ...]:
    """The real test images; that none of them is a shot was checked when the lock was opened, and is again."""
    records = tuple(record for record in shots.images.records if record.role == "test")
    chosen = {shot.record.sha256 for shot in shots.lock.shots}
    assert not any(record.sha256 in chosen for record in records)
    kinds = {record.defect is None for record in records}
    for is_normal, kind in ((True, "normal"), (False, "anomalous")):
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
