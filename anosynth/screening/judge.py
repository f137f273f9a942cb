"""From the samples of one pool to their verdicts, in order, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from anosynth.params import ScreenParams
from anosynth.samples import Sample, Verdict
from anosynth.screening.distance import NormalDistance
from anosynth.screening.gates import mask_measures, reason_to_refuse
from anosynth.screening.memorization import NearestShot, PoolSoFar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def judge_pairs(
    samples: Iterable[Sample],
    *,
    foreground_of: Callable[[Sample], NDArray[np.uint8]],
    shots: NearestShot | None,
    limits: ScreenParams,
) -> Iterator[Verdict]:
    """Judge a pool of pairs.

    Copies are looked for among the *anomalous* shots: a pair made on a real normal image resembles that one, and may.

    Args:
        samples: one pool of pairs; earlier samples win over later repeats.
        foreground_of: where the object is in a sample, uint8 [H, W] in {0, 255}.
        shots: the anomalous shots of the pool's defect, or None if there are none.
        limits: section `screen` of params.yaml.
    """
    accepted = PoolSoFar()
    for sample in samples:
        assert sample.mask is not None
        measures = mask_measures(sample.mask, foreground=foreground_of(sample))
        measures["mask_confidence"] = sample.mask_confidence
        if shots is not None:
            match = shots.match(sample.image)
            measures |= {"shot_similarity": match.similarity, "nearest_shot": float(match.shot)}
        yield _verdict(sample, measures, accepted=accepted, limits=limits)


def judge_normals(
    samples: Iterable[Sample], *, shots: NearestShot, distance: NormalDistance, limits: ScreenParams
) -> Iterator[Verdict]:
    """Judge the pool of normals: copies are looked for among the normal shots.

    Args:
        samples: the pool; earlier samples win over later repeats.
        shots: the normal shots.
        distance: to the normal shots.
        limits: section `screen` of params.yaml.
    """
    accepted = PoolSoFar()
    for sample in samples:
        match = shots.match(sample.image)
        measures = {
            "normal_distance": distance.measure(sample.image),
            "normal_similarity": match.similarity,
            "nearest_shot": float(match.shot),
        }
        yield _verdict(sample, measures, accepted=accepted, limits=limits)


def _verdict(sample: Sample, measures: dict[str, float], *, accepted: PoolSoFar, limits: ScreenParams) -> Verdict:
    measures["duplicate_similarity"] = accepted.similarity(sample.image, sample.mask)
    reason = reason_to_refuse(measures, limits)
    if not reason:
        accepted.add(sample.image, sample.mask)
    return Verdict(sample.sample_id, reason, measures)
