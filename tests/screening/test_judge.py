import numpy as np
import pytest

from anosynth.features.lite import LiteFeatures
from anosynth.params import ScreenParams
from anosynth.samples import Provenance, Sample, SampleSpec
from anosynth.screening.distance import NormalDistance
from anosynth.screening.judge import judge_normals, judge_pairs
from anosynth.screening.memorization import NearestShot
from anosynth.screening.objects import ObjectMasks
from tests.pools.small import SIZE_PX, disk, spotted, surface


def pair(index: int, image: np.ndarray, window: tuple[slice, slice], parent_id: str | None = None) -> Sample:
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[window] = 255
    spec = SampleSpec(pool="pairs", category="plate", defect="spot", method="test", index=index, seed=index)
    return Sample(spec, image, mask, Provenance(shot_ids=(), licence="CC0-1.0", parent_id=parent_id))


def picture(index: int, image: np.ndarray) -> Sample:
    spec = SampleSpec(pool="normals", category="plate", defect=None, method="test", index=index, seed=index)
    return Sample(spec, image, None, Provenance(shot_ids=(), licence="CC0-1.0"))


def test_a_pool_of_pairs_gets_a_verdict_each_with_all_measures() -> None:
    shot = spotted(surface(50))
    here, there = (slice(20, 28), slice(20, 28)), (slice(40, 48), slice(30, 44))
    pool = [
        pair(0, surface(0), here),
        pair(1, surface(0).copy(), here),
        pair(2, surface(0).copy(), there),
        pair(3, surface(1), (slice(5, 6), slice(5, 6))),
        pair(4, surface(2), (slice(0, 62), slice(0, 62))),
        pair(5, np.ascontiguousarray(shot.image[:, ::-1]), here),
        pair(6, surface(1).copy(), here),
    ]
    verdicts = list(
        judge_pairs(
            pool,
            foreground_of=ObjectMasks(lambda sha256: None).mask,
            shots=NearestShot([shot.image], others=[surface(60), surface(61)]),
            limits=ScreenParams(),
        )
    )
    assert [verdict.sample_id for verdict in verdicts] == [sample.sample_id for sample in pool]
    assert [verdict.reason for verdict in verdicts] == ["", "duplicate", "", "tiny", "huge", "near_copy_of_shot", ""]
    names = {"mask_ratio", "border_ratio", "on_object", "shot_similarity", "nearest_shot", "duplicate_similarity"}
    names.add("mask_confidence")
    for verdict in verdicts:
        assert verdict.measures.keys() == names
        assert all(np.isfinite(value) for value in verdict.measures.values())


def test_a_repeat_of_a_refused_sample_is_not_called_its_duplicate() -> None:
    far = (slice(5, 6), slice(5, 6))
    pool = [pair(0, surface(1), far), pair(1, surface(1).copy(), far)]
    verdicts = list(
        judge_pairs(pool, foreground_of=ObjectMasks(lambda sha256: None).mask, shots=None, limits=ScreenParams())
    )
    assert [verdict.reason for verdict in verdicts] == ["tiny", "tiny"]
    assert [verdict.measures["duplicate_similarity"] for verdict in verdicts] == [-1.0, -1.0]


def test_a_mask_beside_the_object_is_refused_and_one_on_the_parents_object_is_not() -> None:
    parent = disk(0)
    broken = parent.copy()
    window = (slice(28, 37), slice(44, 54))
    broken[window] = 40  # a bite out of the disk, in the ground's colour: only the parent shows that it was object
    pool = [
        pair(0, disk(1), (slice(2, 8), slice(2, 8))),
        pair(1, broken, window, parent_id="known"),
        pair(2, broken.copy(), window, parent_id="unknown"),
    ]
    objects = ObjectMasks({"known": parent}.get)
    verdicts = list(judge_pairs(pool, foreground_of=objects.mask, shots=None, limits=ScreenParams()))
    assert [verdict.reason for verdict in verdicts] == ["off_object", "", "off_object"]
    assert verdicts[1].measures["on_object"] > 0.6


@pytest.fixture(scope="module")
def features() -> LiteFeatures:
    return LiteFeatures("lite0", size_px=64, levels=(2, 3))


def test_normals_are_judged_by_copies_distance_and_repeats(features: LiteFeatures) -> None:
    shots = [surface(seed) for seed in range(4)]
    odd = np.random.default_rng(0).integers(0, 256, size=(SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    pool = [
        picture(0, surface(10)),
        picture(1, surface(2).copy()),
        picture(2, odd),
        picture(3, surface(10).copy()),
        picture(4, surface(11)),
    ]
    verdicts = list(
        judge_normals(
            pool,
            shots=NearestShot(shots, others=shots),
            distance=NormalDistance(features, shots),
            limits=ScreenParams(max_normal_distance=1.5),
        )
    )
    assert [verdict.reason for verdict in verdicts] == ["", "near_copy_of_normal", "unlike_normal", "duplicate", ""]
    assert verdicts[1].measures["nearest_shot"] == 2.0
    names = {"normal_distance", "normal_similarity", "nearest_shot", "duplicate_similarity"}
    assert all(verdict.measures.keys() == names for verdict in verdicts)


def test_distance_is_zero_for_a_shot_and_about_one_for_its_kind(features: LiteFeatures) -> None:
    shots = [surface(seed) for seed in range(4)]
    distance = NormalDistance(features, shots)
    assert distance.measure(shots[1]) == pytest.approx(0.0, abs=1e-3)
    assert 0.7 < distance.measure(surface(20)) < 1.4
    assert distance.measure(disk(0)) > 1.5


def test_distance_works_from_one_shot_and_needs_one(features: LiteFeatures) -> None:
    alone = NormalDistance(features, [surface(0)])
    assert 0.3 < alone.measure(surface(1)) < 3.0
    with pytest.raises(ValueError, match="no normal shots"):
        NormalDistance(features, [])


def test_the_scale_of_one_shot_comes_from_shifts_of_it_and_not_from_its_mirror_image(features: LiteFeatures) -> None:
    """A mirror image need not be normal: `mirror: false`. Shifted by 3 of 64 px, the border mirrored."""
    shot = surface(0)
    shot[:, : SIZE_PX // 4] //= 3  # a part that has a left and a right side

    def far(image: np.ndarray) -> float:
        own, bank = (features.patches([one])[0].reshape(-1, features.patches([one]).shape[-1]) for one in (image, shot))
        return float(np.quantile(np.sqrt(((own[:, None] - bank) ** 2).sum(-1)).min(axis=1), 0.99))

    padded = np.pad(shot, ((3, 3), (3, 3), (0, 0)), mode="symmetric")
    shifts = [padded[top : top + SIZE_PX, left : left + SIZE_PX] for top in (0, 6) for left in (0, 6)]
    unit, mirrored = np.mean([far(one) for one in shifts]), np.ascontiguousarray(shot[:, ::-1])
    distance = NormalDistance(features, [shot])
    assert distance.measure(surface(1)) == pytest.approx(far(surface(1)) / unit, rel=1e-3)
    assert distance.measure(mirrored) == pytest.approx(far(mirrored) / unit, rel=1e-3)
    assert abs(distance.measure(mirrored) - 1.0) > 0.05
