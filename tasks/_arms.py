"""What the arms of one category are put together from: the shots, the pools, the verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from anosynth.detectors.arms import ArmReader, PairPool
from anosynth.detectors.protocol import LabelledImage
from anosynth.layout import Layout
from anosynth.params import PairKey
from anosynth.samples import Record
from anosynth.shards.read import read_verdicts
from anosynth.sources.index import IndexImages
from anosynth.sources.lock import OpenShots


def arm_reader(
    layout: Layout,
    category: str,
    shots: OpenShots,
    pairs: Mapping[str, PairKey],
    *,
    normals: Literal["shots", "train"],
) -> ArmReader:
    """Open what arms train on; pools are read when an arm asks for them.

    Args:
        layout: the folders.
        category: slug.
        shots: the category's shots.
        pairs: `grid.pairs` of params.yaml.
        normals: which real normals: the shots, or all of role train.
    """
    lock, images = shots.lock, shots.images
    normal = [shot.record for shot in lock.normal]
    if normals == "train":
        normal = [record for record in images.records if record.role == "train" and record.defect is None]
    anomalous = [shot.record for chosen in lock.anomalous.values() for shot in chosen]
    return ArmReader(
        category=category,
        real_normals=[_labelled(record, images) for record in normal],
        real_pairs=[_labelled(record, images) for record in anomalous],
        real_licences=sorted({record.licence for record in (*normal, *anomalous)}),
        normal_pool=layout.normals(category),
        round_trip_pool=layout.round_trips(category),
        pair_pools=[
            PairPool(pair.defect, pair.method, layout.pairs(category, pair.defect, pair.method))
            for pair in pairs.values()
            if pair.category == category
        ],
        verdicts=read_verdicts(layout.verdicts(category)),
    )


def _labelled(record: Record, images: IndexImages) -> LabelledImage:
    mask = None if record.defect is None else images.mask(record)
    return LabelledImage(record.path, images.image(record), mask, synthetic=False, defect=record.defect)
