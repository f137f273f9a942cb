from __future__ import annotations

import math

import numpy as np
import pytest

from anosynth.detectors.patchcore import PatchCore
from anosynth.detectors.protocol import LabelledImage
from anosynth.errors import BackboneError, DataError
from anosynth.features.lite import LiteFeatures
from tests.detectors.planted import judge, planted


@pytest.fixture(scope="module")
def features() -> LiteFeatures:
    return LiteFeatures("lite0", size_px=128, levels=(2, 3))


def fitted(features: LiteFeatures, *, coreset_ratio: float = 0.25, neighbours: int = 5, seed: int = 0) -> PatchCore:
    detector = PatchCore(features, coreset_ratio=coreset_ratio, neighbours=neighbours, seed=seed)
    detector.fit(planted("cast_metal", None, "train", 6), ())
    return detector


def test_it_finds_planted_defects_that_it_never_saw() -> None:
    detector = fitted(LiteFeatures("lite0", size_px=224, levels=(2, 3)))
    verdict = judge(detector, "cast_metal", "hole", count=8)
    assert verdict.image_auroc > 0.9  # chance is 0.5
    assert verdict.pixel_auroc > 0.9
    assert verdict.peaks_on_defect >= 0.75


def test_an_image_of_its_own_bank_scores_0_everywhere(features: LiteFeatures) -> None:
    detector = fitted(features, coreset_ratio=1.0)
    normals = planted("cast_metal", None, "train", 6)
    predictions = list(detector.predict((item.name, item.image) for item in normals))
    assert len(predictions) == 6
    for prediction in predictions:
        assert prediction.score == 0.0
        assert not prediction.anomaly_map.any()


@pytest.mark.parametrize("neighbours", [1, 2, 5, 10_000])
def test_the_score_is_the_papers_reweighted_distance(features: LiteFeatures, neighbours: int) -> None:
    detector = fitted(features, neighbours=neighbours, coreset_ratio=0.02)
    bank = np.asarray(detector._filled(), np.float64)
    image = planted("cast_metal", "hole", "test", 1)[0].image
    patches = np.asarray(features.patches([image])[0], np.float64).reshape(-1, bank.shape[1])
    distances = [[math.dist(patch, m) for m in bank] for patch in patches]
    worst = max(range(len(patches)), key=lambda at: min(distances[at]))
    match = min(range(len(bank)), key=lambda at: distances[worst][at])
    s = distances[worst][match]
    if neighbours > 1:
        around = sorted(range(len(bank)), key=lambda at: math.dist(bank[at], bank[match]))[:neighbours]
        s *= 1.0 - math.exp(s) / sum(math.exp(distances[worst][at]) for at in around)
    assert next(detector.predict([("x", image)])).score == pytest.approx(s, rel=1e-4)


def test_the_coreset_has_the_asked_size_and_depends_on_the_seed(features: LiteFeatures) -> None:
    num_patches = 6 * 16 * 16
    banks = [fitted(features, coreset_ratio=0.1, seed=seed)._filled() for seed in (1, 1, 2)]
    assert all(len(bank) == round(0.1 * num_patches) for bank in banks)
    assert np.array_equal(banks[0], banks[1])
    assert not np.array_equal(banks[0], banks[2])


def test_pairs_are_ignored_and_normals_are_needed(features: LiteFeatures) -> None:
    detector = PatchCore(features, coreset_ratio=0.25, neighbours=5, seed=0)
    detector.fit(planted("cast_metal", None, "train", 6), planted("cast_metal", "hole", "train", 2))
    assert np.array_equal(detector._filled(), fitted(features)._filled())
    with pytest.raises(DataError, match="needs normal images"):
        detector.fit((), planted("cast_metal", "hole", "train", 2))
    with pytest.raises(RuntimeError, match="fit or load"):
        next(PatchCore(features, coreset_ratio=1.0, neighbours=1, seed=0).predict([]), None)


def test_saving_and_loading_changes_no_bit_of_a_prediction(features: LiteFeatures, tmp_path) -> None:
    detector = fitted(features)
    detector.save(tmp_path)
    again = PatchCore(features, coreset_ratio=0.25, neighbours=5, seed=9)
    again.load(tmp_path)
    images = [(item.name, item.image[:50]) for item in planted("cast_metal", "hole", "test", 3)]
    compared = 0
    for first, second in zip(detector.predict(images), again.predict(images), strict=True):
        assert first.score == second.score
        assert np.array_equal(first.anomaly_map, second.anomaly_map)
        assert first.anomaly_map.shape == (50, 64)
        compared += 1
    assert compared == 3


def test_a_state_of_other_settings_or_with_damage_is_refused(features: LiteFeatures, tmp_path) -> None:
    fitted(features).save(tmp_path)
    other = PatchCore(features, coreset_ratio=0.25, neighbours=9, seed=0)
    with pytest.raises(BackboneError, match="fitted with neighbours 5, now it is 9"):
        other.load(tmp_path)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BackboneError, match=r"damaged.*dvc repro"):
        fitted(features).load(tmp_path)
    weights.unlink()
    with pytest.raises(BackboneError, match="missing"):
        fitted(features).load(tmp_path)


@pytest.mark.parametrize("neighbours", [1, 5])
def test_a_generated_patch_counts_as_farther_away(features: LiteFeatures, neighbours: int) -> None:
    real = planted("cast_metal", None, "train", 2)
    made = tuple(
        LabelledImage(f"m{one.name}", one.image, None, synthetic=True) for one in planted("leather", None, "pool", 2)
    )
    near = planted("leather", None, "test", 1)[0].image
    scores = []
    for weight, normals in ((1.0, (*real, *made)), (0.5, (*real, *made)), (1.0, real)):
        detector = PatchCore(features, coreset_ratio=1.0, neighbours=neighbours, seed=0, synthetic_weight=weight)
        detector.fit(normals, ())
        scores.append(next(detector.predict([("x", near)])).score)
    assert scores[0] < scores[1] <= scores[2]
