"""Choose the few real shots of one category, prove that none of them leaks into val or test, and lock the choice."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from anosynth.features.encoder import PatchFeatures, build_features
from anosynth.layout import Layout
from anosynth.params import ComputeParams, FeatureSpec, PairKey, SelectShotsParams
from anosynth.samples import Record
from anosynth.selection.leaks import check_copies, compare
from anosynth.selection.shots import select_shots as choose
from anosynth.sources.index import IndexImages
from anosynth.sources.lock import check_lock, write_lock
from tasks._bind import main

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGES_AT_ONCE = 16


def run(
    *,
    layout: Layout,
    category: str,
    seed: int,
    compute: ComputeParams,
    grid__pairs: dict[str, PairKey],
    features: FeatureSpec,
    select_shots: SelectShotsParams,
) -> None:
    """Write data/shots/<category>/shots.lock.json: shots for every defect type of the category in grid.pairs."""
    torch.set_num_threads(compute.threads)
    images = IndexImages(layout.index(category))

    @cache
    def encoder() -> PatchFeatures:
        return build_features(features, compute=compute)

    def describe(records: Sequence[Record]) -> NDArray[np.float32]:
        cuts = range(0, len(records), IMAGES_AT_ONCE)
        batches = ([images.image(record) for record in records[at : at + IMAGES_AT_ONCE]] for at in cuts)
        return np.concatenate([encoder().pooled(batch) for batch in batches])

    lock = choose(
        images.records,
        category=category,
        defects=tuple(dict.fromkeys(pair.defect for pair in grid__pairs.values() if pair.category == category)),
        normal=select_shots.normal,
        anomalous=select_shots.anomalous,
        method=select_shots.method,
        seed=select_shots.seed,
        root_seed=seed,
        describe=describe,
    )
    check_lock(lock, images.records)
    shots = {shot.record.path for shot in lock.shots}
    watched = [
        record
        for record in images.records
        if record.role != "train" or select_shots.near_copies == "train" or record.path in shots
    ]
    compared = compare(watched, image=images.image, phash_bits=select_shots.phash_bits)
    check_copies(compared, copy_correlation=select_shots.copy_correlation)
    path = layout.shots(category)
    write_lock(lock, path)
    counts = ", ".join(f"{len(shots)} {defect}" for defect, shots in lock.anomalous.items())
    print(
        f"select_shots: {len(lock.normal)} normal, {counts} shots of {category} by {lock.method}; "
        f"{len(compared)} pairs with val and test looked at closely, none a copy; in {path}"
    )


if __name__ == "__main__":
    main(run)
