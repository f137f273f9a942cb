"""The pool figures on rendered parts: what they must say of copies, of real images and of noise."""

from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from anosynth.features import inception, lpips
from anosynth.features.inception import InceptionFeatures
from anosynth.features.lite import LiteFeatures
from anosynth.features.lpips import LpipsFeatures
from anosynth.metrics.synthesis import inception_score
from anosynth.params import EmbeddedFeatures, MeasureParams
from anosynth.screening.realism import Pictures, Realism
from anosynth.seeding import seed_for
from anosynth.sources.procedural import render
from tests.features.random_weights import inception_state, write_lpips

SIZE_PX = 64


@cache
def parts() -> tuple[LiteFeatures, MeasureParams]:
    spec = EmbeddedFeatures(kind="embedded", model="lite2", size_px=SIZE_PX, levels=(1, 2, 3, 4))
    features = LiteFeatures(spec.model, size_px=spec.size_px, levels=spec.levels)
    return features, MeasureParams(features=spec, neighbours=3, min_crop_px=16)


def judge() -> Realism:
    return Realism(*parts())


def rendered(part: str, count: int) -> Pictures:
    made = [render("washer", defect="scratch", seed=seed_for(1, part, i), size_px=SIZE_PX) for i in range(count)]
    return Pictures([one.image for one in made], [one.mask for one in made])


def compare(pool: Pictures, shots: Pictures) -> dict[str, Any]:
    return judge().compare(pool, reference=rendered("reference", 16), shots=shots.images, rng=np.random.default_rng(0))


def test_fresh_renders_are_nearer_to_real_than_noise_and_more_varied_than_copies() -> None:
    shots = rendered("shots", 2)
    fresh = compare(rendered("fresh", 16), shots)
    copies = compare(Pictures(list(shots.images) * 4, list(shots.masks) * 4), shots)
    noise = Pictures(
        [np.random.default_rng(i).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8) for i in range(16)],
        rendered("fresh", 16).masks,
    )
    noisy = compare(noise, shots)
    for name in ("kid_lite", "kid_lite_crops"):
        assert fresh[name]["value"] + 3 * fresh[name]["sd"] < noisy[name]["value"]
    assert copies["ic_lpips_lite"]["value"] == 0.0
    assert fresh["ic_lpips_lite"]["value"] > 0.1
    assert copies["manifolds"]["coverage"] < fresh["manifolds"]["coverage"]
    assert noisy["manifolds"]["precision"] == 0.0
    assert fresh["masks"]["regions"] >= 1.0


def test_an_empty_pool_and_one_without_masks_say_what_they_can() -> None:
    assert compare(Pictures([], []), rendered("shots", 2)) == {"images": 0}
    normal = Pictures(rendered("fresh", 4).images, [])
    found = judge().compare(normal, reference=normal, shots=[], rng=np.random.default_rng(0))
    assert set(found) == {"images", "reference_images", "kid_lite", "manifolds"}
    none_to_compare = judge().compare(normal, reference=Pictures([], []), shots=[], rng=np.random.default_rng(0))
    assert none_to_compare["kid_lite"] == {"value": None, "sd": None}


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[InceptionFeatures, LpipsFeatures]:
    """Random weights and small inputs: what is done with the networks' answers is in question here."""
    monkeypatch.setattr(inception, "INPUT_PX", 75)
    monkeypatch.setattr(lpips, "INPUT_PX", SIZE_PX)
    torch.save(inception_state(), tmp_path / "fid.pth")
    opened = InceptionFeatures(tmp_path / "fid.pth")
    return opened, LpipsFeatures(write_lpips(tmp_path / "lpips", "alex"), trunk="alex")


def frechet_by_square_root(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """FID with scipy's matrix square root, in the few dimensions that the rows span."""
    basis = np.linalg.qr(np.concatenate([x, y]).astype(np.float64).T)[0]
    a, b = x @ basis, y @ basis
    noise = 1e-9 * np.eye(basis.shape[1])
    sa, sb = np.cov(a.T) + noise, np.cov(b.T) + noise
    apart = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(apart + np.trace(sa + sb - 2.0 * np.real(sqrtm(sa @ sb))))


def test_published_figures_are_those_of_their_networks(networks: tuple[InceptionFeatures, LpipsFeatures]) -> None:
    pool, reference, shots = rendered("fresh", 12), rendered("reference", 5), rendered("shots", 2)
    realism = Realism(*parts(), inception=networks[0], lpips=networks[1])
    found: dict[str, Any] = realism.compare(pool, reference=reference, shots=shots.images, rng=np.random.default_rng(0))
    plain = judge().compare(pool, reference=reference, shots=shots.images, rng=np.random.default_rng(0))
    assert {key: value for key, value in found.items() if key in plain} == plain
    assert set(found) - set(plain) == {"fid", "inception_score", "ic_lpips"}

    rows, real = networks[0].pooled(pool.images), networks[0].pooled(reference.images)
    assert found["fid"] == {"value": pytest.approx(frechet_by_square_root(rows, real), rel=1e-3), "sd": None}
    score = inception_score(networks[0].class_probabilities(rows))
    assert found["inception_score"] == {"value": round(score.value, 6), "sd": round(score.sd, 6), "splits": 10}

    seen, near = networks[1].perceptual(pool.images), networks[1].perceptual(shots.images)
    joined = [min((0, 1), key=lambda at: np.square(row - near[at]).sum()) for row in seen]
    clusters = [[row for row, at in zip(seen, joined, strict=True) if at == shot] for shot in (0, 1)]
    means = [np.mean([np.square(a - b).sum() for a, b in combinations(one, 2)]) for one in clusters if len(one) > 1]
    assert found["ic_lpips"]["value"] == pytest.approx(np.mean(means), rel=1e-4)
    assert found["ic_lpips"]["cluster_sizes"] == [len(one) for one in clusters]
    assert found["ic_lpips"]["passes"] == len(pool.images) + len(shots.images)


def test_too_few_images_for_fid_and_for_the_inception_score_are_said_so(
    networks: tuple[InceptionFeatures, LpipsFeatures],
) -> None:
    realism = Realism(*parts(), inception=networks[0])
    few, one = rendered("fresh", 2), rendered("reference", 1)
    found: dict[str, Any] = realism.compare(few, reference=one, shots=[], rng=np.random.default_rng(0))
    assert found["fid"] == {
        "value": None, "sd": None, "reason": "FID needs at least 2 images on each side, got 2 and 1"
    }  # fmt: skip
    assert found["inception_score"]["value"] is None
    assert found["inception_score"]["reason"] == "the Inception score needs at least 10 images, got 2"
    assert "ic_lpips" not in found
