import numpy as np
import pytest

from anosynth.imaging import resize_image
from anosynth.params import CutPasteMethod, ScreenParams
from anosynth.pools import pairs
from anosynth.pools.real import RealPair
from anosynth.screening.memorization import Match, NearestShot, PoolSoFar
from anosynth.sources.procedural.render import render
from tests.pools.small import job, normal

SIZE_PX = 128
LIMIT = ScreenParams().max_shot_similarity


def crop(image: np.ndarray, ratio: float, down: float, right: float) -> np.ndarray:
    side = image.shape[0]
    kept = round(ratio * side)
    top, left = round(down * (side - kept)), round(right * (side - kept))
    return resize_image(np.ascontiguousarray(image[top : top + kept, left : left + kept]), size_px=(side, side))


def brighter(image: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(image * factor, 0, 255).astype(np.uint8)


def planted_copies(image: np.ndarray) -> list[np.ndarray]:
    """What a memorising generator hands back."""
    return [
        image,
        image[:, ::-1],
        image[::-1],
        np.rot90(image),
        crop(image, 0.9, 0.2, 0.7),
        crop(image, 0.85, 1.0, 0.0),
        brighter(image, 1.1),
        brighter(image, 0.9),
        brighter(crop(image, 0.9, 0.5, 0.5)[:, ::-1], 1.1),
        np.clip(image + np.random.default_rng(0).normal(0, 4, image.shape), 0, 255).astype(np.uint8),
    ]


@pytest.fixture(scope="module", params=["washer", "brushed_metal", "tile"])
def scenes(request: pytest.FixtureRequest) -> tuple[list[RealPair], list[np.ndarray], list[np.ndarray]]:
    """Three anomalous shots, four normal shots and eight unseen pictures of one category."""

    def picture(defect: str | None, seed: int) -> np.ndarray:
        return render(request.param, defect=defect, seed=seed, size_px=SIZE_PX).image

    shots = []
    for seed in range(3):
        rendered = render(
            request.param, defect="scratch" if request.param != "tile" else "crack", seed=seed, size_px=SIZE_PX
        )
        shots.append(RealPair(rendered.image, rendered.mask, f"shot{seed}", "CC0-1.0"))
    normals = [picture(None, 20 + seed) for seed in range(4)]
    unseen = [picture(None, 40 + seed) for seed in range(4)] + [picture("stain", 60 + seed) for seed in range(4)]
    return shots, normals, unseen


def test_copies_are_caught_and_other_parts_in_the_same_pose_are_not(
    scenes: tuple[list[RealPair], list[np.ndarray], list[np.ndarray]],
) -> None:
    shots, normals, unseen = scenes
    nearest = NearestShot([shot.image for shot in shots], others=normals)
    caught = 0
    for index, shot in enumerate(shots):
        for copy in planted_copies(shot.image):
            match = nearest.match(np.ascontiguousarray(copy))
            assert match.similarity > LIMIT
            assert match.shot == index
            caught += 1
    assert caught == 30
    independent = [nearest.match(image).similarity for image in unseen]
    assert max(independent) < LIMIT - 0.15
    made = pairs.samples(
        job(6, method="cutpaste"),
        spec=CutPasteMethod(kind="cutpaste"),
        parents=[normal(image) for image in normals],
        shots=shots,
        max_attempts=32,
        size_px=SIZE_PX,
    )
    assert max(nearest.match(sample.image).similarity for sample in made) < LIMIT - 0.15


def test_a_shot_among_the_others_is_not_its_own_reference() -> None:
    normals = [render("wood", defect=None, seed=seed, size_px=64).image for seed in range(3)]
    nearest = NearestShot(normals, others=normals)
    for index, image in enumerate(normals):
        match = nearest.match(image)
        assert match.similarity > 0.99
        assert match.shot == index


def test_one_shot_without_others_and_pictures_of_other_sizes_work() -> None:
    shot = render("leather", defect=None, seed=0, size_px=SIZE_PX).image
    nearest = NearestShot([shot], others=[])
    assert nearest.match(shot) == Match(pytest.approx(1.0, abs=1e-4), 0)
    for size_px in ((96, 112), (256, 256)):
        assert nearest.match(resize_image(shot, size_px=size_px)).similarity > 0.85
    assert nearest.match(np.full((64, 64, 3), 128, np.uint8)).similarity < 0.1
    with pytest.raises(ValueError, match="no shots to compare with"):
        NearestShot([], others=[shot])


def test_repeats_in_a_pool_are_seen_and_the_same_parent_with_another_defect_is_not() -> None:
    image = render("cast_metal", defect=None, seed=1, size_px=64).image
    pool = PoolSoFar()
    first, second = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    first[10:20, 10:20], second[40:48, 30:50] = 255, 255
    assert pool.similarity(image, first) == -1.0
    pool.add(image, first)
    assert pool.similarity(image, first) == pytest.approx(1.0, abs=1e-5)
    assert pool.similarity(image, second) == pytest.approx(0.0, abs=1e-5)
    assert pool.similarity(np.ascontiguousarray(image[::-1]), first) < 0.5


def test_a_long_pool_is_remembered_whole() -> None:
    rng, pool = np.random.default_rng(5), PoolSoFar()
    images = rng.integers(0, 256, size=(150, 32, 32, 3), dtype=np.uint8)
    for image in images:
        pool.add(image, None)
    assert min(pool.similarity(image, None) for image in images) == pytest.approx(1.0, abs=1e-5)
    assert pool.similarity(rng.integers(0, 256, size=(32, 32, 3), dtype=np.uint8), None) < 0.6
