"""Measure how real and how varied the pools of one category are, beside the real shots; nothing is refused by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from anosynth.features.inception import InceptionFeatures
from anosynth.features.lite import LiteFeatures
from anosynth.features.lpips import LpipsFeatures
from anosynth.layout import Layout
from anosynth.params import ComputeParams, GridParams, MeasureParams, ScreenParams
from anosynth.progress import track
from anosynth.samples import Record, Verdict
from anosynth.screening.ceiling import count_copies, similarity_ceiling
from anosynth.screening.realism import KERNEL, Pictures, Realism
from anosynth.seeding import numpy_rng
from anosynth.shards.manifest import read_manifest
from anosynth.shards.read import read_rows, read_samples, read_verdicts
from anosynth.sources.lock import OpenShots, open_shots
from tasks._bind import main
from tasks._outputs import write_json

VERSION = 1


def run(
    *,
    layout: Layout,
    category: str,
    seed: int,
    compute: ComputeParams,
    grid: GridParams,
    screen: ScreenParams,
    measure: MeasureParams,
) -> None:
    """Write results/measure/<category>.json: every pool, and the real shots as the line to be compared with."""
    torch.set_num_threads(compute.threads)
    shots = open_shots(layout.shots(category), layout.index(category))
    spec = measure.features
    features = LiteFeatures(spec.model, size_px=spec.size_px, levels=spec.levels, device=compute.device)
    inception, lpips = _published_networks(measure, root=layout.root, device=compute.device)
    judge = Realism(features, measure, inception=inception, lpips=lpips)
    verdicts = read_verdicts(layout.verdicts(category))
    near = {kind: _shots(shots, kind) for kind in (None, *grid.defects(category))}
    normals = shots.normal_images()
    groups = {defect: [shot.record.group for shot in chosen] for defect, chosen in shots.lock.anomalous.items()}
    ceilings = {
        defect: similarity_ceiling(near[defect].images, groups.get(defect, ()), others=normals)
        for defect in grid.defects(category)
    }
    unseen = {kind: _pictures(shots, _unseen(shots, measure, kind)) for kind in near}
    made: dict[str, tuple[Path, str | None]] = {"normals": (layout.normals(category), None)}
    for key in grid.pair_keys(category):
        folder = layout.pairs(category, key.defect, key.method)
        made[f"{key.defect}/{key.method}"] = (folder, key.defect)
    pools: dict[str, object] = {}
    doing = f"measuring the pools of {category}"
    for name, (folder, defect) in track(made.items(), total=len(made), doing=doing, unit="pool"):
        rng = numpy_rng(seed, "measure", category, name)
        kept, seen = _kept(folder, verdicts)
        limit = screen.max_normal_similarity if defect is None else screen.max_shot_similarity
        pools[name] = {
            "samples": read_manifest(folder).rows,
            **judge.compare(kept, reference=unseen[defect], shots=near[defect].images, rng=rng),
            "memorization": count_copies(
                seen,
                measure="normal_similarity" if defect is None else "shot_similarity",
                gate=limit,
                duplicate_gate=screen.max_duplicate_similarity,
                ceiling=None if defect is None else ceilings[defect],
            ).to_json(),
        }
    floors: dict[str, object] = {}
    for kind, reference in unseen.items():
        rng = numpy_rng(seed, "measure", category, "shots", kind or "normal")
        floors[kind or "normals"] = judge.compare(near[kind], reference=reference, shots=(), rng=rng)
    path = layout.measures(category)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        path,
        {
            "version": VERSION,
            "category": category,
            "judge": {**spec.model_dump(mode="json"), "identity": features.identity, "kernel": KERNEL},
            "reference": measure.reference,
            "pools": pools,
            "real_shots": floors,
            **_provenance(measure, inception, lpips),
        },
    )
    print(f"measure: {len(pools)} pools of {category} against {measure.reference} real images, in {path}")


def _published_networks(
    measure: MeasureParams, *, root: Path, device: str
) -> tuple[InceptionFeatures | None, LpipsFeatures | None]:
    inception, lpips = None, None
    if measure.inception is not None:
        inception = InceptionFeatures(root / measure.inception, device=device)
    if measure.lpips is not None:
        lpips = LpipsFeatures(root / measure.lpips, trunk=measure.lpips_trunk, device=device)
    return inception, lpips


def _provenance(
    measure: MeasureParams, inception: InceptionFeatures | None, lpips: LpipsFeatures | None
) -> dict[str, object]:
    """Which weight files the published figures are of; nothing where there are none."""
    published: dict[str, object] = {}
    if inception is not None:
        published["inception"] = {"sha256": inception.sha256}
    if lpips is not None:
        published["lpips"] = {"trunk": measure.lpips_trunk, "sha256": lpips.sha256}
    return {"published": published} if published else {}


def _unseen(shots: OpenShots, measure: MeasureParams, defect: str | None) -> list[Record]:
    """Real images of one kind that no generator has seen: not the shots, and the test images only if asked for."""
    roles = ("test",) if measure.reference == "test" else ("train", "val")
    chosen = {shot.record.sha256 for shot in shots.lock.shots}
    return [
        record
        for record in shots.images.records
        if record.role in roles and record.defect == defect and record.sha256 not in chosen
    ]


def _pictures(shots: OpenShots, records: Sequence[Record]) -> Pictures:
    masks = [shots.images.mask(record) for record in records if record.defect is not None]
    return Pictures([shots.images.image(record) for record in records], masks)


def _shots(shots: OpenShots, defect: str | None) -> Pictures:
    chosen = shots.lock.normal if defect is None else shots.lock.anomalous.get(defect, ())
    return _pictures(shots, [shot.record for shot in chosen])


def _kept(folder: Path, verdicts: Mapping[str, Verdict]) -> tuple[Pictures, list[Verdict]]:
    """The samples that screening kept, and what it said of all."""
    seen = [verdicts[sample_id] for sample_id in read_rows(folder, ["sample_id"])["sample_id"].to_pylist()]
    kept = [verdict.sample_id for verdict in seen if verdict.keep]
    samples = list(read_samples(folder, keep=kept)) if kept else []
    return Pictures([one.image for one in samples], [one.mask for one in samples if one.mask is not None]), seen


if __name__ == "__main__":
    main(run)
