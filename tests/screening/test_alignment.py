import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from anosynth.screening.alignment import (
    FINE_PX,
    NUM_POSES,
    Template,
    grey_square,
    local_structure,
    partial_correlation,
    posed,
    unposed,
)


def blobs(seed: int, side: int = FINE_PX) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(side, side))
    smooth = ndimage.gaussian_filter(noise, 2.0)
    return (100 + 40 * smooth / smooth.std()).astype(np.float32)


def test_undoing_a_pose_gives_the_picture_back_and_all_poses_differ() -> None:
    picture = blobs(0)
    poses = [posed(picture, pose) for pose in range(NUM_POSES)]
    assert len({pose.tobytes() for pose in poses}) == 8
    for number, pose in enumerate(poses):
        np.testing.assert_array_equal(unposed(pose, number), picture)


def test_local_structure_ignores_light_and_contrast() -> None:
    picture = blobs(1)
    shade = np.linspace(-20, 20, FINE_PX)[None, :].astype(np.float32)
    plain, changed = local_structure(picture), local_structure(0.8 * picture + 15 + shade)
    assert np.corrcoef(plain.ravel(), changed.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    "truth",
    [
        [[1.0, 0.0, 1.5], [0.0, 1.0, -1.0]],
        [[1.05, 0.0, 0.0], [0.0, 1.05, 0.5]],
        [[np.cos(0.05), -np.sin(0.05), 0.5], [np.sin(0.05), np.cos(0.05), 0.0]],
        [[0.95, 0.02, -1.0], [-0.03, 1.04, 1.0]],
    ],
)
def test_refinement_finds_a_small_affine_warp(truth: list[list[float]]) -> None:
    other, warp = blobs(2), np.array(truth)
    made, inside = Template(other).warped(other, warp)
    template = Template(local_structure(made.reshape(FINE_PX, FINE_PX)))
    assert inside.mean() > 0.8
    found = template.refine(local_structure(other), np.eye(3)[:2], rounds=15)
    assert found is not None
    corners = np.array([[-24.0, -24.0, 1.0], [-24.0, 24.0, 1.0], [24.0, -24.0, 1.0], [24.0, 24.0, 1.0]]).T
    assert np.abs(found @ corners - warp @ corners).max() < 0.35


def test_pictures_that_hardly_overlap_are_given_up() -> None:
    template = Template(local_structure(blobs(3)))
    far = np.array([[1.0, 0.0, 0.8 * FINE_PX], [0.0, 1.0, 0.0]])
    assert template.refine(local_structure(blobs(4)), far, rounds=3) is None


@pytest.mark.parametrize("num_given", [0, 1, 5])
def test_partial_correlation_equals_correlating_least_squares_residuals(num_given: int) -> None:
    rng = np.random.default_rng(num_given)
    given = rng.normal(size=(num_given, 900)).astype(np.float32)
    shared = rng.normal(size=900)
    first, second = ((shared + rng.normal(size=900) + 3 * given.sum(axis=0) + 7).astype(np.float32) for _ in range(2))
    where = rng.random(900) < 0.7
    design = np.concatenate([np.ones((1, 900)), given])[:, where].T
    left = [y[where] - design @ np.linalg.lstsq(design, y[where], rcond=None)[0] for y in (first, second)]
    expected = np.corrcoef(*left)[0, 1]
    assert partial_correlation(first, second, given=given, where=where) == pytest.approx(expected, abs=0.02)


def test_nothing_left_means_no_correlation() -> None:
    plain = np.zeros(100, dtype=np.float32)
    given = np.zeros((0, 100), dtype=np.float32)
    assert partial_correlation(plain, plain, given=given, where=np.ones(100, dtype=bool)) == 0.0


@pytest.mark.parametrize("size", [(40, 40), (200, 90), (64, 64), (16, 300)])
def test_any_picture_becomes_a_square(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, size=(*size, 3), dtype=np.uint8)
    assert grey_square(image, side_px=FINE_PX).shape == (FINE_PX, FINE_PX)


@pytest.mark.parametrize(("height", "width"), [(96, 101), (70, 130)])
def test_a_grey_square_is_the_area_mean_and_mirrors_with_its_picture(height: int, width: int) -> None:
    image = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = grey_square(image, side_px=32)
    grey, factor = np.asarray(Image.fromarray(image).convert("L")).astype(float), 32
    large = np.kron(grey, np.ones((factor, factor)))  # every cell of the square is now a block of whole pixels
    wanted = large.reshape(32, height, 32, width).mean(axis=(1, 3))
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    for turned in (np.s_[:, ::-1], np.s_[::-1]):
        np.testing.assert_allclose(
            grey_square(np.ascontiguousarray(image[turned]), side_px=32), found[turned], atol=1e-3
        )
