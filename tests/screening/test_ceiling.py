import json

import numpy as np
import pytest

from anosynth.imaging import resize_image
from anosynth.params import ScreenParams
from anosynth.samples import Verdict
from anosynth.screening.ceiling import Ceiling, Copies, count_copies, similarity_ceiling, unlike_shots
from anosynth.screening.memorization import NearestShot
from anosynth.sources.procedural.render import render

SIZE_PX = 96
LIMITS = ScreenParams()
KINDS = (("washer", "scratch"), ("cast_metal", "crack"), ("wood", "scratch"), ("leather", "stain"), ("tile", "crack"))
SHOTS = 4


def pictures(category: str, defect: str | None, number: int, *, first: int) -> list[np.ndarray]:
    return [render(category, defect=defect, seed=first + at, size_px=SIZE_PX).image for at in range(number)]


def copies_of(image: np.ndarray) -> list[np.ndarray]:
    """The five that the acceptance names: both flips, a crop, 10 % brighter, 10 % darker."""
    crop = resize_image(np.ascontiguousarray(image[4:-6, 8:-2]), size_px=(SIZE_PX, SIZE_PX))
    changed = [np.clip(image * factor, 0, 255).astype(np.uint8) for factor in (1.1, 0.9)]
    return [np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(image[::-1]), crop, *changed]


@pytest.mark.parametrize(("category", "defect"), KINDS)
def test_planted_copies_are_caught_in_twenty_of_twenty_per_category(category: str, defect: str) -> None:
    shots = pictures(category, defect, SHOTS, first=0)
    normals = pictures(category, None, 4, first=50)
    ceiling = similarity_ceiling(shots, [f"part {at}" for at in range(SHOTS)], others=normals)
    assert ceiling is not None
    assert ceiling.value <= ceiling.nearest < LIMITS.max_shot_similarity
    nearest = NearestShot(shots, others=normals)
    matches = [(at, nearest.match(copy)) for at, shot in enumerate(shots) for copy in copies_of(shot)]
    assert len(matches) == 100 / len(KINDS)
    assert all(match.shot == at for at, match in matches)
    assert min(match.similarity for _, match in matches) > LIMITS.max_shot_similarity
    unseen = [nearest.match(image).similarity for image in pictures(category, defect, 3, first=100)]
    assert max(unseen) < LIMITS.max_shot_similarity


def test_the_ceiling_is_the_percentile_over_shots_of_different_groups() -> None:
    shots, normals = pictures("washer", "scratch", 4, first=0), pictures("washer", None, 3, first=50)
    groups = ["a", "b", "a", "c"]
    found = similarity_ceiling(shots, groups, others=normals)
    rows: list[list[float]] = [
        [
            NearestShot([shots[other]], others=normals).match(shots[one]).similarity
            for other in range(4)
            if groups[one] != groups[other]
        ]
        for one in range(4)
    ]
    assert [len(row) for row in rows] == [2, 3, 2, 3]
    assert found == Ceiling(
        value=pytest.approx(np.percentile(np.concatenate(rows), 95), abs=1e-4),
        nearest=pytest.approx(np.percentile([max(row) for row in rows], 95), abs=1e-4),
        num_pairs=10,
        num_groups=3,
    )


def test_shots_of_one_group_have_no_ceiling_and_bad_input_is_refused() -> None:
    shots, normals = pictures("washer", "scratch", 2, first=0), pictures("washer", None, 1, first=50)
    assert similarity_ceiling(shots, ["a", "a"], others=normals) is None
    assert similarity_ceiling(shots[:1], ["a"], others=normals) is None
    assert similarity_ceiling([], [], others=normals) is None
    with pytest.raises(ValueError, match="2 shots and 1 groups"):
        similarity_ceiling(shots, ["a"], others=normals)
    with pytest.raises(ValueError, match="a shot is among the other images"):
        similarity_ceiling(shots, ["a", "b"], others=shots[:1])


def verdict(at: int, near: float | None, repeat: float, reason: str = "") -> Verdict:
    measures = {"duplicate_similarity": repeat} | ({} if near is None else {"shot_similarity": near})
    return Verdict(f"pairs/{at}", reason, measures)


def test_copies_are_counted_over_refused_samples_too() -> None:
    verdicts = [
        verdict(0, 0.2, -1.0),
        verdict(1, 0.5, 0.3),
        verdict(2, 0.65, 0.999, "duplicate"),
        verdict(3, 0.95, 0.1, "near_copy_of_shot"),
    ]
    ceiling = Ceiling(0.4, 0.6, 12, 4)
    found = count_copies(verdicts, measure="shot_similarity", gate=0.8, duplicate_gate=0.995, ceiling=ceiling)
    assert found == Copies(4, ceiling, 0.75, 0.5, 0.25, 0.25, pytest.approx(0.575), pytest.approx(0.905), 0.95)
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["ceiling"] == {"value": 0.4, "nearest": 0.6, "num_pairs": 12, "num_groups": 4}
    assert written["above_ceiling_ratio"] == 0.75


def test_what_cannot_be_said_is_none() -> None:
    unknown = count_copies(
        [verdict(0, None, 0.1)], measure="shot_similarity", gate=0.8, duplicate_gate=0.9, ceiling=None
    )
    assert unknown == Copies(1, None, None, None, None, 0.0, None, None, None)
    nothing = count_copies([], measure="shot_similarity", gate=0.8, duplicate_gate=0.9, ceiling=Ceiling(0.4, 0.6, 2, 2))
    assert (nothing.samples, nothing.above_ceiling_ratio, nothing.duplicate_ratio) == (0, None, None)


def test_a_normal_that_shows_a_shots_own_picture_is_left_out() -> None:
    washers = [render("washer", defect=None, seed=at, size_px=64).image for at in range(6)]
    shots = [render("washer", defect="scratch", seed=200 + at, size_px=64) for at in range(4)]
    groups = [f"part {at}" for at in range(4)]
    again = np.where(shots[2].mask[:, :, None] > 0, np.uint8(128), shots[2].image)
    normals = [*washers, again]
    kept = unlike_shots(normals, [one.image for one in shots], groups)
    assert len(washers) not in kept
    ceiling = similarity_ceiling([one.image for one in shots], groups, others=normals)
    assert ceiling is not None
    likeness = [
        NearestShot([one.image for one in shots], others=others).match(one).similarity
        for one, others in zip(normals, [normals[3:]] * 3 + [normals[:3]] * 4, strict=True)
    ]
    assert kept == tuple(at for at, similarity in enumerate(likeness) if similarity <= ceiling.value)
    assert likeness[-1] > 0.9
    assert unlike_shots(normals, [one.image for one in shots], ["one part"] * 4) == tuple(range(len(normals)))
    assert unlike_shots(normals, [], []) == tuple(range(len(normals)))
