"""Rendered parts with planted defects, small enough to fit a detector on in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from anosynth.detectors.protocol import Detector, LabelledImage
from anosynth.metrics.detection import PixelHistogram, image_metrics
from anosynth.seeding import seed_for
from anosynth.sources.procedural import render

SIZE_PX = 64


@cache
def planted(category: str, defect: str | None, part: str, count: int) -> tuple[LabelledImage, ...]:
    """Rendered pictures; `part` keeps the pictures of fitting and of testing apart."""
    rendered = [
        render(category, defect=defect, seed=seed_for(3, category, part, defect or "good", index), size_px=SIZE_PX)
        for index in range(count)
    ]
    return tuple(
        LabelledImage(f"{part}/{index}", one.image, one.mask if defect else None, synthetic=False)
        for index, one in enumerate(rendered)
    )


@dataclass(frozen=True)
class Verdict:
    """How well a fitted detector does on unseen pictures."""

    image_auroc: float
    pixel_auroc: float
    pixel_ap: float
    peaks_on_defect: float


def judge(detector: Detector, category: str, defect: str, *, count: int) -> Verdict:
    """Predict `count` normal and `count` anomalous unseen pictures."""
    test = (*planted(category, None, "test", count), *planted(category, defect, "test", count))
    predictions = list(detector.predict((item.name + str(at), item.image) for at, item in enumerate(test)))
    assert len(predictions) == 2 * count
    pixels = PixelHistogram(bits=16)
    peaks: list[bool] = []
    for item, prediction in zip(test, predictions, strict=True):
        mask: NDArray[np.uint8] = np.zeros(item.image.shape[:2], np.uint8) if item.mask is None else item.mask
        pixels.update(prediction.anomaly_map, mask)
        if item.mask is not None:
            peaks.append(bool(near(item.mask).flat[int(np.argmax(prediction.anomaly_map))]))
    scores = np.array([prediction.score for prediction in predictions])
    images = image_metrics(scores, np.array([item.mask is not None for item in test]))
    found = pixels.result()
    return Verdict(images.auroc, found.auroc, found.ap, float(np.mean(peaks)))


def near(mask: NDArray[np.uint8], *, reach: int = 3) -> NDArray[np.bool_]:
    """The mask widened by `reach` pixels: a peak on the rim of a defect is on the defect."""
    padded = np.pad(mask > 0, reach)
    height, width = mask.shape
    steps = range(2 * reach + 1)
    return np.any([padded[r : r + height, c : c + width] for r in steps for c in steps], axis=0)
