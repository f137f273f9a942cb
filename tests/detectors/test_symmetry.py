"""How references are alike, on patches made for it."""

from __future__ import annotations

import numpy as np
import pytest

from anosynth.detectors.one_to_normal import OneToNormal
from anosynth.detectors.symmetry import MIRRORS, mirrored, misalignment, normal_mirrors
from tests.detectors.one_to_normal_parts import source, spec
from tests.detectors.planted import planted
from tests.detectors.tiny_aligned import TinyAligned


def pixels_as_patches(images: list[np.ndarray]) -> list[np.ndarray]:
    """Every pixel a patch: its three channels, scaled to length 1."""
    values = np.stack(images).astype(np.float32) + 1.0
    return [values / np.linalg.norm(values, axis=-1, keepdims=True)]


def noisy(image: np.ndarray, *, seed: int) -> np.ndarray:
    return np.clip(image + np.random.default_rng(seed).normal(0.0, 2.0, image.shape), 0, 255).astype(np.uint8)


def ramps() -> np.ndarray:
    """Red grows to the right and green downwards, so no mirror image has the same colours at all; blue is constant."""
    image = np.full((8, 8, 3), 100, np.uint8)
    image[..., 0], image[..., 1] = np.arange(8) * 30, (np.arange(8) * 30)[:, None]
    return image


def test_a_mirror_image_is_the_picture_indexed_backwards() -> None:
    image = ramps()
    for mirror, (down, right) in zip(MIRRORS, ((False, True), (True, False), (True, True)), strict=True):
        for i in range(8):
            for j in range(8):
                wanted = image[7 - i if down else i, 7 - j if right else j]
                assert (mirrored(image, mirror)[i, j] == wanted).all()


def gradients(images: list[np.ndarray]) -> list[np.ndarray]:
    """A patch is its colour beside the change of red to the right and of green downwards: mirrors change its sign."""
    values = np.stack(images).astype(np.float32)
    slopes = [np.gradient(values[..., 0], axis=2), np.gradient(values[..., 1], axis=1)]
    rows = np.concatenate([np.full_like(values[..., :1], 10.0), np.stack(slopes, axis=-1)], axis=-1)
    return [(rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)]


def test_only_mirror_images_that_look_like_the_references_are_normal() -> None:
    even = np.full((8, 8, 3), 100, np.uint8)
    even[2:6, 3:5] = 200  # symmetric both ways
    lopsided = even.copy()
    lopsided[..., 0] = np.arange(8) * 30  # red rises to the right: only top and bottom may be swapped
    found = {}
    for name, image in (("even", even), ("lopsided", lopsided), ("ramps", ramps())):
        shots = [noisy(image, seed=seed) for seed in range(3)]
        found[name] = tuple(normal_mirrors(shots, gradients, tolerance=1.3))
    assert found == {"even": MIRRORS, "lopsided": ("top_bottom",), "ramps": ()}
    assert normal_mirrors([even, even], gradients, tolerance=0.0) == {}
    assert normal_mirrors([even], gradients, tolerance=9.0) == {}


def test_parts_that_lie_alike_are_aligned_and_a_texture_is_not() -> None:
    alike = pixels_as_patches([noisy(ramps(), seed=seed) for seed in range(3)])
    rng = np.random.default_rng(0)
    texture = pixels_as_patches([rng.integers(0, 256, (8, 8, 3)).astype(np.uint8) for _ in range(3)])
    assert misalignment(alike) < 0.2
    assert 0.8 < misalignment(texture) < 1.2


@pytest.mark.parametrize(("limit", "counts"), [(1e-9, False), (0.0, True), (9.0, True)])
def test_the_place_weight_counts_within_its_limit_alone(limit: float, counts: bool) -> None:
    shots = planted("cast_metal", None, "train", 3)
    changes = {"branches": ["normal"], "place_weight": 0.5, "place_limit": limit}
    built = OneToNormal(TinyAligned(), source(), spec=spec(**changes), name="washer", seed=0, opening={})
    built.fit(shots, ())
    assert built.learned()["place_weight"] == (0.5 if counts else 0.0)
    built.fit(shots[:1], ())  # a single reference agrees with nobody
    assert built.learned()["place_weight"] == (0.5 if limit == 0.0 else 0.0)


def test_mirror_images_join_the_bank_and_leave_it_with_their_reference() -> None:
    shots = planted("cast_metal", None, "train", 3)
    changes = {"branches": ["normal"], "mirror_tolerance": 10.0}
    built = OneToNormal(TinyAligned(), source(), spec=spec(**changes), name="washer", seed=0, opening={})
    built.fit(shots, ())
    references = built._known.references
    assert references.views == 4
    patches = TinyAligned().patch_levels([view for one in shots for view in (one.image, *(
        mirrored(one.image, mirror) for mirror in MIRRORS))])  # fmt: skip
    for own, wanted in zip(references.real, patches, strict=True):
        np.testing.assert_array_equal(own, wanted)
    for level, bank in enumerate(references.banks(synthetic_weight=1.0, without=1)):
        kept = np.delete(patches[level], slice(4, 8), axis=0)
        np.testing.assert_array_equal(bank.real, kept.reshape(-1, kept.shape[-1]))
