"""What One-to-Normal learns from three references, against the formulas written out: usual values and threshold."""

from __future__ import annotations

import numpy as np
import pytest

from anosynth.features.aligned import class_prototypes
from tests.detectors.one_to_normal_parts import detector
from tests.detectors.planted import planted
from tests.detectors.tiny_aligned import TinyAligned

WEIGHTS = {"personalized": 1.0, "normal": 2.0, "text": 0.5}
PRIOR = 4.0


def usual(values: list[float], *, prior: float) -> tuple[float, float]:
    """Mean, and the spread with `prior` counted as four observations."""
    squares = sum((value - np.mean(values)) ** 2 for value in values)
    return float(np.mean(values)), float(np.sqrt((squares + PRIOR * prior**2) / (len(values) - 1 + PRIOR)))


def usual_places(maps: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread at every place, each level's own counted as four observations."""
    every = np.array(maps, np.float64)
    level_mean, level_variance = (np.array([f(every[:, level]) for level in (0, 1)]) for f in (np.mean, np.var))
    mean = (every.sum(axis=0) + PRIOR * level_mean[:, None, None]) / (len(maps) + PRIOR)
    squares = sum((one - mean) ** 2 for one in every)
    return mean, np.sqrt((squares + PRIOR * level_variance[:, None, None]) / (len(maps) + PRIOR))


@pytest.mark.parametrize("standardized", [False, True])
@pytest.mark.parametrize("by_place", [False, True])
def test_every_reference_is_judged_without_itself(standardized: bool, by_place: bool) -> None:
    changes = {"calibrate_positions": by_place, "calibrate_fusion": standardized, "alpha": 2.0, "threshold_sd": 3.0}
    built, encoder = detector(**changes), TinyAligned()
    shots = planted("cast_metal", None, "train", 3)
    built.fit(shots, ())
    images = [one.image for one in shots]
    patches = [[level[0] for level in encoder.patch_levels([image])] for image in images]
    drawn = [one.twins[one.likest] for one in built._generator().draw(images, strength=0.3)]
    twins = [[level[0] for level in encoder.patch_levels([one])] for one in drawn]
    maps = [
        np.array([1 - (own * twin).sum(-1) for own, twin in zip(patches[at], twins[at], strict=True)])
        for at in range(3)
    ]
    scores: dict[str, list[float]] = {"personalized": [], "normal": [], "text": []}
    for at in range(3):
        others = [i for i in range(3) if i != at]
        mean, spread = usual_places([maps[i] for i in others]) if by_place else (0.0, 1.0)
        scores["personalized"].append(((maps[at] - mean) / spread).max(axis=(1, 2)).mean())
        banks = [np.concatenate([patches[i][level].reshape(64, -1) for i in others]) for level in (0, 1)]
        cosines = [own.reshape(64, -1) @ bank.T for own, bank in zip(patches[at], banks, strict=True)]
        scores["normal"].append(np.mean([(1 - one.max(axis=1)).max() for one in cosines]))
        text = [encoder.project(level, patches[at][level]) @ class_prototypes(encoder, "washer").T for level in (0, 1)]
        logits = [np.exp(encoder.temperature * one) for one in text]
        scores["text"].append(np.mean([(one[..., 1] / one.sum(-1)).max() for one in logits]))

    known = built._known
    assert (known.positions is not None) == by_place
    if known.positions is not None:  # a query is judged by all three
        for found, wanted in zip((known.positions.mean, known.positions.spread), usual_places(maps), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    own = {name: usual(values, prior=max(0.01, 0.15 * abs(np.mean(values)))) for name, values in scores.items()}
    for name, (mean, spread) in own.items():
        assert float(known.branches[name].mean) == pytest.approx(mean, rel=1e-3)
        assert float(known.branches[name].spread) == pytest.approx(spread, rel=1e-3)
    for branches in (("normal", "text"), ("personalized", "normal", "text")):
        shift = {name: own[name] if standardized else (0.0, 1.0) for name in branches}
        sums = [sum(WEIGHTS[b] * (scores[b][at] - shift[b][0]) / shift[b][1] for b in branches) for at in range(3)]
        mean, spread = usual(sums, prior=sum(WEIGHTS[b] * (1.0 if standardized else own[b][1]) for b in branches))
        if len(branches) == 2:
            assert float(known.alone.mean) == pytest.approx(mean, rel=1e-3, abs=1e-6)
            assert float(known.alone.spread) == pytest.approx(spread, rel=1e-3)
        else:
            assert known.threshold == pytest.approx(mean + 3.0 * spread, rel=1e-3)
