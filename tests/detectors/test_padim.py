from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from anosynth.detectors.padim import PaDiM
from anosynth.detectors.protocol import LabelledImage
from anosynth.errors import BackboneError, DataError
from anosynth.features.lite import LiteFeatures
from tests.detectors.planted import judge, planted


@pytest.fixture(scope="module")
def features() -> LiteFeatures:
    return LiteFeatures("lite0", size_px=64, levels=(2, 3))


def padim(features: LiteFeatures, **changes: float) -> PaDiM:
    values = {"channels": 12, "shrinkage": 0.5, "ridge": 0.01, "synthetic_weight": 1.0, "seed": 0, **changes}
    return PaDiM(features, **values)  # type: ignore[arg-type]


def fitted(features: LiteFeatures, **changes: float) -> PaDiM:
    detector = padim(features, **changes)
    detector.fit(planted("cast_metal", None, "train", 6), ())
    return detector


def as_synthetic(images: tuple[LabelledImage, ...]) -> tuple[LabelledImage, ...]:
    return tuple(LabelledImage(one.name, one.image, one.mask, synthetic=True) for one in images)


def test_it_finds_planted_defects_that_it_never_saw() -> None:
    detector = fitted(LiteFeatures("lite0", size_px=224, levels=(2, 3)), channels=40)
    verdict = judge(detector, "cast_metal", "hole", count=8)
    assert verdict.image_auroc > 0.85  # chance is 0.5
    assert verdict.pixel_auroc > 0.85
    assert verdict.peaks_on_defect >= 0.7


@pytest.mark.parametrize("shrinkage", [0.0, 0.5, 1.0])
def test_the_map_is_the_mahalanobis_distance_written_out(features: LiteFeatures, shrinkage: float) -> None:
    real, made = planted("cast_metal", None, "train", 4), as_synthetic(planted("cast_metal", None, "pool", 3))
    detector = padim(features, shrinkage=shrinkage, synthetic_weight=0.25)
    detector.fit((*real, *made), ())
    channels = detector._filled()["channels"]
    assert len(channels) == len(set(channels.tolist())) == 12
    x = features.patches([one.image for one in (*real, *made)])[..., channels].astype(np.float64)
    query = planted("cast_metal", "hole", "test", 1)[0].image
    q = features.patches([query])[0][..., channels].astype(np.float64)
    weights = [1.0] * 4 + [0.25] * 3
    means, covariances = np.empty((8, 8, 12)), np.empty((8, 8, 12, 12))
    for r in range(8):
        for c in range(8):
            means[r, c] = np.average(x[:, r, c], axis=0, weights=weights)
            covariances[r, c] = np.cov(x[:, r, c].T, aweights=weights, bias=True)
    common = covariances.mean(axis=(0, 1))
    distances = np.empty((8, 8))
    for r in range(8):
        for c in range(8):
            sigma = (1 - shrinkage) * covariances[r, c] + shrinkage * common
            sigma += 0.01 * x.reshape(-1, 12).reshape(7 * 64, 12).var(axis=0).mean() * np.eye(12)
            apart = q[r, c] - means[r, c]
            distances[r, c] = np.sqrt(apart @ np.linalg.solve(sigma, apart))
    found = next(detector.predict([("x", query)]))
    whitened = detector._filled()["whitening"].reshape(8, 8, 12, 12)
    ours = np.linalg.norm(np.einsum("rcde,rce->rcd", whitened, q - means), axis=2)
    np.testing.assert_allclose(ours, distances, rtol=1e-3)
    raised = np.kron(distances, np.ones((8, 8)))
    assert np.corrcoef(found.anomaly_map.ravel(), ndimage.gaussian_filter(raised, 4).ravel())[0, 1] > 0.99
    assert found.score == pytest.approx(float(found.anomaly_map.max()))


def test_images_of_little_weight_hardly_move_the_gaussians_and_copies_weigh_like_their_number(
    features: LiteFeatures,
) -> None:
    real, made = planted("cast_metal", None, "train", 4), as_synthetic(planted("leather", None, "pool", 4))
    means = {}
    for weight in (1e-6, 1.0):
        detector = padim(features, synthetic_weight=weight)
        detector.fit((*real, *made), ())
        means[weight] = detector._filled()["mean"]
    alone = padim(features)
    alone.fit(real, ())
    np.testing.assert_allclose(means[1e-6], alone._filled()["mean"], atol=1e-3)
    assert np.abs(means[1.0] - alone._filled()["mean"]).mean() > 0.01
    half = padim(features, synthetic_weight=0.5)
    half.fit((*real, *as_synthetic(real), *as_synthetic(real)), ())
    np.testing.assert_allclose(half._filled()["mean"], alone._filled()["mean"], atol=1e-5)
    np.testing.assert_allclose(half._filled()["whitening"], alone._filled()["whitening"], rtol=1e-3, atol=1e-3)


def test_one_image_is_enough_and_none_is_not(features: LiteFeatures) -> None:
    detector = padim(features)
    only = planted("cast_metal", None, "train", 1)
    detector.fit(only, ())
    itself, other = detector.predict([("a", only[0].image), ("b", planted("cast_metal", "hole", "test", 1)[0].image)])
    assert itself.score == pytest.approx(0.0, abs=1e-3)
    assert other.score > 1.0
    with pytest.raises(DataError, match=r"PaDiM needs normal images and was given none;.* real_normals"):
        detector.fit((), ())
    with pytest.raises(RuntimeError, match="fit or load"):
        next(padim(features).predict([]), None) or padim(features)._filled()


def test_samples_that_vary_no_real_image_are_passed_over(features: LiteFeatures) -> None:
    real, made = planted("cast_metal", None, "train", 3), as_synthetic(planted("leather", None, "pool", 2))
    free = tuple(replace(one, free=True) for one in made)
    fits = []
    for normals in (real, (*real, *free), (*real, *made)):
        detector = padim(features)
        detector.fit(normals, ())
        fits.append(detector._filled()["mean"])
    np.testing.assert_array_equal(fits[0], fits[1])
    assert np.abs(fits[0] - fits[2]).mean() > 0.01
    with pytest.raises(DataError, match=r"given 2 free samples;.* real_normals"):
        padim(features).fit(free, ())


def test_saving_and_loading_changes_no_bit_and_other_settings_are_refused(features: LiteFeatures, tmp_path) -> None:
    detector = fitted(features)
    detector.save(tmp_path)
    again = padim(features, seed=9)
    again.load(tmp_path)
    images = [(item.name, item.image[:50]) for item in planted("cast_metal", "hole", "test", 2)]
    compared = 0
    for first, second in zip(detector.predict(images), again.predict(images), strict=True):
        assert first.score == second.score
        assert np.array_equal(first.anomaly_map, second.anomaly_map)
        assert first.anomaly_map.shape == (50, 64)
        compared += 1
    assert compared == 2
    with pytest.raises(BackboneError, match=r"fitted with shrinkage 0\.5, now it is 0\.0"):
        padim(features, shrinkage=0.0).load(tmp_path)


def test_the_choice_of_channels_depends_on_the_seed_alone(features: LiteFeatures) -> None:
    chosen = [fitted(features, seed=seed)._filled()["channels"].tolist() for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]
    everything = fitted(features, channels=10_000)
    assert everything._filled()["channels"].tolist() == list(range(152))
