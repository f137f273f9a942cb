"""Fit one detector on every arm and seed of one category; finished fits are found again in the store."""

from __future__ import annotations

from functools import cache

import torch

from anosynth.detectors.arms import ArmReader, PairPool
from anosynth.detectors.build import build_detector, shaping_values, used_by
from anosynth.detectors.fits import ArmFits, Fits, fit_folder, keep, restore, write_fits
from anosynth.detectors.protocol import LabelledImage
from anosynth.features.encoder import PatchFeatures, build_features
from anosynth.fingerprint import digest_value
from anosynth.layout import Layout
from anosynth.params import ArmParams, ComputeParams, DetectorSpec, FeatureSpec, FitDetectorParams, PairKey
from anosynth.samples import Record
from anosynth.seeding import seed_for
from anosynth.shards.read import read_verdicts
from anosynth.shards.store import ShardStore
from anosynth.sources.index import IndexImages
from anosynth.sources.lock import OpenShots, open_shots
from tasks._bind import main
from tasks._outputs import whole_folder

STAGE = "fit_detector"


def run(
    *,
    layout: Layout,
    category: str,
    detector: str,
    seed: int,
    compute: ComputeParams,
    grid__pairs: dict[str, PairKey],
    features: FeatureSpec,
    arms: dict[str, ArmParams],
    detector_spec: DetectorSpec,
    fit_detector: FitDetectorParams,
) -> None:
    """Write models/detectors/<category>/<detector>/<arm>-<seed> and fit.json."""
    torch.set_num_threads(compute.threads)
    shots = open_shots(layout.shots(category), layout.index(category))
    reader = _reader(layout, category, shots, grid__pairs, normals=fit_detector.normals)

    @cache
    def open_features() -> PatchFeatures:
        return build_features(features, compute=compute)

    shaping = shaping_values(detector_spec, open_features=open_features)
    store = ShardStore(layout.store_url())
    fits: dict[str, ArmFits] = {}
    fitted = 0
    with whole_folder(layout, layout.detector(category, detector)) as folder:
        for arm in detector_spec.arms:
            data = reader.read(arm, used_by(detector_spec, arms[arm]))
            fingerprints: dict[int, str] = {}
            for fit_seed in fit_detector.seeds:
                seeds = {
                    "init_seed": seed_for(seed, STAGE, category, detector, fit_seed),
                    "draw_seed": seed_for(seed, STAGE, category, detector, arm, fit_seed),
                }
                fingerprint = digest_value(
                    {
                        "stage": STAGE,
                        "detector": shaping,
                        "data": dict(data.digests),
                        "compute": compute.model_dump(mode="json"),
                        **seeds,
                    }
                )
                fingerprints[fit_seed] = fingerprint
                place = fit_folder(folder, arm=arm, seed=fit_seed)
                place.mkdir()
                if not restore(store, fingerprint, place):
                    name = f"{detector} on {category}, arm {arm}, seed {fit_seed}"
                    built = build_detector(
                        detector_spec, open_features=open_features, compute=compute, name=name, **seeds
                    )
                    built.fit(data.normals, data.pairs)
                    built.save(place)
                    keep(store, fingerprint, place)
                    fitted += 1
            fits[arm] = ArmFits(data.counts, data.digests, data.licence, fingerprints)
        spec = detector_spec.model_dump(mode="json")
        write_fits(Fits(category, detector, spec, fit_detector.normals, fits), folder)
    total = len(detector_spec.arms) * len(fit_detector.seeds)
    print(
        f"{STAGE}: {total} fits of {detector} on {category} ({len(detector_spec.arms)} arms x "
        f"{len(fit_detector.seeds)} seeds, {fitted} fitted now), in {layout.detector(category, detector)}"
    )


def _reader(layout: Layout, category: str, shots: OpenShots, pairs: dict[str, PairKey], *, normals: str) -> ArmReader:
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
        pair_pools=[
            PairPool(pair.defect, pair.method, layout.pairs(category, pair.defect, pair.method))
            for pair in pairs.values()
            if pair.category == category
        ],
        verdicts=read_verdicts(layout.verdicts(category)),
    )


def _labelled(record: Record, images: IndexImages) -> LabelledImage:
    mask = None if record.defect is None else images.mask(record)
    return LabelledImage(record.path, images.image(record), mask, synthetic=False)


if __name__ == "__main__":
    main(run)
