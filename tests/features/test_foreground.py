import numpy as np
import pytest
from skimage import data

from anosynth.features.foreground import segment_object
from anosynth.sources.procedural.render import render


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two {0, 255} masks."""
    return np.count_nonzero((first > 0) & (second > 0)) / np.count_nonzero((first > 0) | (second > 0))


@pytest.mark.parametrize(("category", "defects"), [("washer", ("crack", "missing")), ("pill", ("stain", "hole"))])
def test_objects_are_found_with_and_without_defects(category: str, defects: tuple[str, ...]) -> None:
    for seed, defect in enumerate((None, None, *defects)):
        for size_px in (64, 128):
            rendered = render(category, defect=defect, seed=seed, size_px=size_px)
            assert overlap(segment_object(rendered.image), rendered.object_mask) >= 0.9, (defect, seed, size_px)


@pytest.mark.parametrize("category", ["cast_metal", "brushed_metal", "wood", "fabric", "leather", "tile"])
def test_a_surface_that_fills_the_frame_is_all_foreground(category: str) -> None:
    for seed in range(3):
        assert segment_object(render(category, defect=None, seed=seed, size_px=128).image).all()


def test_photographed_textures_are_all_foreground() -> None:
    for texture in (data.brick(), data.grass(), data.gravel()):
        assert segment_object(np.repeat(texture[:256, :256, None], 3, axis=2)).all()


def disk(height: int, width: int, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.hypot(rows - height / 2, columns - width / 2) < radius


@pytest.mark.parametrize(("ground", "part"), [((240, 240, 240), (60, 70, 90)), ((20, 20, 25), (120, 110, 30))])
def test_any_contrast_and_shape_of_picture_works_under_uneven_light(
    ground: tuple[int, ...], part: tuple[int, ...]
) -> None:
    inside = disk(150, 260, 50)
    light = np.linspace(0.8, 1.0, 260)[None, :, None]
    noise = np.random.default_rng(0).normal(0, 3, size=(150, 260, 3))
    image = np.where(inside[:, :, None], part, ground) * light + noise
    mask = segment_object(np.clip(image, 0, 255).astype(np.uint8))
    assert mask.shape == (150, 260)
    assert mask.dtype == np.uint8
    assert overlap(mask, np.where(inside, 255, 0)) >= 0.95


def test_a_shadow_is_not_part_of_the_object() -> None:
    inside, shadow = disk(128, 128, 30), np.roll(disk(128, 128, 30), (10, 10), axis=(0, 1))
    grey = np.where(inside, 220, np.where(shadow, 45, 70)) + np.random.default_rng(1).normal(0, 2, size=(128, 128))
    mask = segment_object(np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2))
    assert overlap(mask, np.where(inside, 255, 0)) >= 0.95


def test_plain_colourful_and_tiny_pictures_have_an_answer() -> None:
    noise = np.random.default_rng(2).integers(0, 256, size=(64, 48, 3), dtype=np.uint8)
    for image in (np.full((64, 64, 3), 7, np.uint8), noise, noise[:4, :5]):
        assert segment_object(image).all()


def test_segmentation_is_deterministic_and_leaves_the_picture_alone() -> None:
    image = render("washer", defect=None, seed=5, size_px=96).image
    before = image.copy()
    np.testing.assert_array_equal(segment_object(image), segment_object(image))
    np.testing.assert_array_equal(image, before)
