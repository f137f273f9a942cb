"""Fit one detector on every arm and seed of one category; finished fits are found again in the store."""

from __future__ import annotations

import torch

from anosynth.detectors.build import build_detector, licence_of, shaping_values, spec_for, used_by
from anosynth.detectors.fits import ArmFits, Fits, fit_folder, keep, restore, state_licence, write_fits
from anosynth.fingerprint import digest_value
from anosynth.layout import Layout
from anosynth.params import (
    AlignedSpec,
    ArmParams,
    BackboneSpec,
    ComputeParams,
    DetectorSpec,
    FeatureSpec,
    FitDetectorParams,
    ImageParams,
    ObjectParams,
    PairKey,
)
from anosynth.seeding import seed_for
from anosynth.shards.store import ShardStore
from anosynth.sources.lock import open_shots
from tasks._arms import arm_reader
from tasks._bind import main
from tasks._outputs import whole_folder
from tasks._parts import detector_parts

STAGE = "fit_detector"


def run(
    *,
    layout: Layout,
    category: str,
    detector: str,
    seed: int,
    compute: ComputeParams,
    image: ImageParams,
    grid__pairs: dict[str, PairKey],
    objects: dict[str, ObjectParams],
    backbone: BackboneSpec,
    features: FeatureSpec,
    aligned: AlignedSpec,
    arms: dict[str, ArmParams],
    detector_spec: DetectorSpec,
    fit_detector: FitDetectorParams,
) -> None:
    """Write models/detectors/<category>/<detector>/<arm>-<seed> and fit.json."""
    torch.set_num_threads(compute.threads)
    shots = open_shots(layout.shots(category), layout.index(category))
    reader = arm_reader(layout, category, shots, grid__pairs, normals=fit_detector.normals)
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
    store = ShardStore(layout.store_url())
    fits: dict[str, ArmFits] = {}
    fitted = 0
    with whole_folder(layout, layout.detector(category, detector)) as folder:
        for arm in detector_spec.arms:
            data = reader.read(arm, used_by(detector_spec, arms[arm]))
            licence = licence_of(detector_spec, aligned, data=data.licence)
            spec_of_arm = spec_for(detector_spec, arms[arm])
            shaping = shaping_values(spec_of_arm, parts=parts)
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
                    built = build_detector(spec_of_arm, parts=parts, compute=compute, name=name, **seeds)
                    built.fit(data.normals, data.pairs)
                    built.save(place)
                    keep(store, fingerprint, place)
                    fitted += 1
                state_licence(place, licence)
            fits[arm] = ArmFits(data.counts, data.digests, licence, fingerprints)
        spec = detector_spec.model_dump(mode="json")
        write_fits(Fits(category, detector, spec, fit_detector.normals, fits), folder)
    total = len(detector_spec.arms) * len(fit_detector.seeds)
    print(
        f"{STAGE}: {total} fits of {detector} on {category} ({len(detector_spec.arms)} arms x "
        f"{len(fit_detector.seeds)} seeds, {fitted} fitted now), in {layout.detector(category, detector)}"
    )


if __name__ == "__main__":
    main(run)
