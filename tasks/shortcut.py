"""Ask every fitted detector of one category whether it tells real normals from their round trips; it should not.

No generator, gate or detector has seen these normals, and nothing is trained on their round trips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from anosynth.detectors.build import build_detector
from anosynth.detectors.fits import fit_folder, read_fits
from anosynth.diffusion.adapters import read_adapter
from anosynth.diffusion.decoder import personalized
from anosynth.diffusion.latent import open_backbone
from anosynth.errors import DataError
from anosynth.imaging import resize_image
from anosynth.layout import Layout
from anosynth.metrics.detection import image_metrics
from anosynth.params import (
    AlignedSpec,
    BackboneSpec,
    ComputeParams,
    DetectorSpec,
    FeatureSpec,
    ImageParams,
    ObjectParams,
    RoundTripParams,
    ShortcutParams,
    Slug,
)
from anosynth.pools import round_trips
from anosynth.progress import track
from anosynth.seeding import seed_for
from anosynth.sources.lock import OpenShots, open_shots
from tasks._bind import main
from tasks._outputs import write_json
from tasks._parts import detector_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 1


def run(
    *,
    layout: Layout,
    category: str,
    seed: int,
    compute: ComputeParams,
    image: ImageParams,
    grid__detectors: list[Slug],
    objects: dict[str, ObjectParams],
    backbone: BackboneSpec,
    features: FeatureSpec,
    aligned: AlignedSpec,
    detectors: dict[str, DetectorSpec],
    round_trip: RoundTripParams,
    shortcut: ShortcutParams,
) -> None:
    """Write results/shortcut/<category>.json: AUROC of round trips against their originals, by detector, arm, seed."""
    torch.set_num_threads(compute.threads)
    shots = open_shots(layout.shots(category), layout.index(category))
    name = objects[category].name
    real = _normals(shots, category, role=shortcut.role, count=shortcut.images, size_px=image.size_px)
    adapter = read_adapter(layout.normal_adapter(category))
    opened = open_backbone(backbone, compute=compute, root=layout.root)
    with personalized(opened, adapter):
        trip = round_trips.prepare(opened, adapter=adapter.digest, name=name, settings=round_trip)
        seeds = [seed_for(seed, "shortcut", category, at) for at in range(len(real))]
        step = round_trip.batch_size
        parts = [trip.images(real[at : at + step], seeds=seeds[at : at + step]) for at in range(0, len(real), step)]
    tripped = [one for part in parts for one in part]
    labels = np.repeat([False, True], len(real))
    asked = [(str(at), one) for at, one in enumerate([*real, *tripped])]
    building = detector_parts(
        layout,
        category,
        object_name=name,
        size_px=image.size_px,
        compute=compute,
        features=features,
        aligned=aligned,
        backbone=backbone,
    )
    found: dict[str, dict[str, dict[str, float]]] = {}
    for detector in track(grid__detectors, total=len(grid__detectors), doing=f"shortcut {category}", unit="detector"):
        for arm, fitted in read_fits(layout.detector(category, detector)).arms.items():
            for fit_seed in fitted.fingerprints:
                label = f"{detector} on {category}, arm {arm}, seed {fit_seed}"
                built = build_detector(detectors[detector], parts=building, compute=compute, name=label)
                built.load(fit_folder(layout.detector(category, detector), arm=arm, seed=fit_seed))
                scores = np.array([answer.score for answer in built.predict(asked)])
                auroc = round(image_metrics(scores, labels).auroc, 6)
                found.setdefault(detector, {}).setdefault(arm, {})[str(fit_seed)] = auroc
    above = sorted(
        f"{detector}/{arm}"
        for detector, arms in found.items()
        for arm, values in arms.items()
        if float(np.mean(list(values.values()))) > shortcut.max_auroc
    )
    path = layout.shortcuts(category)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        path,
        {
            "version": VERSION,
            "category": category,
            "role": shortcut.role,
            "images": len(real),
            "mean_difference": round(_mean_difference(real, tripped), 6),
            "strength": round_trip.strength,
            "backbone": opened.identity,
            "adapter": adapter.digest,
            "max_auroc": shortcut.max_auroc,
            "above": above,
            "shortcut_auroc": found,
        },
    )
    said = f"above {shortcut.max_auroc:g}: {', '.join(above)}" if above else f"none above {shortcut.max_auroc:g}"
    print(f"shortcut: {len(real)} normals of {category} against their round trips, {said}; {path}")


def _normals(shots: OpenShots, category: str, *, role: str, count: int, size_px: int) -> list[NDArray[np.uint8]]:
    """The first real normals of a role at the generator's size, so that a round trip differs by nothing but itself."""
    records = [one for one in shots.images.records if one.role == role and one.defect is None][:count]
    if len(records) < 2:
        raise DataError(
            f"{category} has {len(records)} normal images of role {role}, and a comparison needs 2; "
            "set shortcut.role in params.yaml to a role that has them, or split.val_ratio above 0"
        )
    return [resize_image(shots.images.image(record), size_px=(size_px, size_px)) for record in records]


def _mean_difference(real: list[NDArray[np.uint8]], tripped: list[NDArray[np.uint8]]) -> float:
    """Mean |round trip - original| in grey levels: 0 would mean that the control tests nothing."""
    return float(np.mean([np.abs(a.astype(np.int16) - b).mean() for a, b in zip(real, tripped, strict=True)]))


if __name__ == "__main__":
    main(run)
