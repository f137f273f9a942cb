"""Judge every synthetic sample of one category: verdict rows beside the images, which stay as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from anosynth.features.encoder import build_features
from anosynth.layout import Layout
from anosynth.params import ComputeParams, FeatureSpec, GridParams, ScreenParams
from anosynth.progress import track
from anosynth.samples import Sample
from anosynth.screening.distance import NormalDistance
from anosynth.screening.judge import judge_normals, judge_pairs
from anosynth.screening.memorization import NearestShot
from anosynth.screening.objects import ObjectMasks
from anosynth.shards.manifest import read_manifest
from anosynth.shards.read import read_samples, write_verdicts
from anosynth.sources.lock import open_shots
from tasks._bind import main


def run(
    *,
    layout: Layout,
    category: str,
    compute: ComputeParams,
    grid: GridParams,
    features: FeatureSpec,
    screen: ScreenParams,
) -> None:
    """Write data/verdicts/<category>.parquet: one row per sample of the normal pool and of all pools of pairs."""
    torch.set_num_threads(compute.threads)
    shots = open_shots(layout.shots(category), layout.index(category))
    normals = shots.normal_images()
    pools = {key: layout.pairs(category, key.defect, key.method) for key in grid.pair_keys(category)}
    verdicts = list(
        judge_normals(
            _samples(layout.normals(category), f"screening normals of {category}"),
            shots=NearestShot(normals, others=normals),
            distance=NormalDistance(build_features(features, compute=compute), normals),
            limits=screen,
        )
    )
    records = {record.sha256: record for record in shots.images.records}
    objects = ObjectMasks(lambda sha256: shots.images.image(records[sha256]) if sha256 in records else None)
    nearest = {
        defect: NearestShot([image for image, _ in shots.anomalous_pairs(defect)], others=normals)
        for defect in grid.defects(category)
        if shots.lock.anomalous.get(defect)
    }
    for key, folder in pools.items():
        pool = _samples(folder, f"screening {key.method} pairs of {category} with {key.defect}")
        verdicts += judge_pairs(pool, foreground_of=objects.mask, shots=nearest.get(key.defect), limits=screen)
    write_verdicts(layout.verdicts(category), verdicts)
    refused = Counter(verdict.reason for verdict in verdicts if not verdict.keep)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items())) or "none"
    kept = len(verdicts) - refused.total()
    print(
        f"screen: {kept} of {len(verdicts)} samples of {category} kept, refused: {reasons}; {layout.verdicts(category)}"
    )


def _samples(folder: Path, doing: str) -> Iterator[Sample]:
    return track(read_samples(folder), total=read_manifest(folder).rows, doing=doing, unit="sample")


if __name__ == "__main__":
    main(run)
