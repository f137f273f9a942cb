import numpy as np
import pytest

from anosynth.features.foreground import segment_object
from anosynth.params import CutPasteMethod
from anosynth.pools.cutpaste import draft_from_itself, draft_from_shot
from anosynth.pools.real import RealPair
from tests.pools.small import SIZE_PX, disk, normal, spotted, surface

WHOLE = np.full((SIZE_PX, SIZE_PX), 255, np.uint8)


def spec(**changes: object) -> CutPasteMethod:
    values = {"kind": "cutpaste", "source": "shots", "scale": (1.0, 1.0), "max_turn_deg": 0.0, "feather_px": 0.0}
    return CutPasteMethod.model_validate({**values, **changes})


def flat(level: int) -> np.ndarray:
    return np.full((SIZE_PX, SIZE_PX, 3), level, np.uint8)


def test_a_plain_paste_moves_the_defect_and_nothing_else() -> None:
    parent, shot = normal(flat(120)), spotted(flat(120))
    placed = set()
    for seed in range(20):
        drawn = draft_from_shot(parent, shot, foreground=WHOLE, spec=spec(), rng=np.random.default_rng(seed))
        assert drawn is not None
        assert np.count_nonzero(drawn.mask) == 5 * 11
        assert (drawn.image[drawn.mask > 0] == 5).all()
        assert (drawn.image[drawn.mask == 0] == 120).all()
        placed.add(tuple(np.argwhere(drawn.mask)[0]))
    assert len(placed) > 10


@pytest.mark.parametrize("feather_px", [0.5, 1.0, 4.0])
def test_the_mask_is_exactly_where_at_least_half_of_the_pixel_is_pasted(feather_px: float) -> None:
    mask = spotted(flat(0)).mask
    shot = RealPair(flat(0), mask, "s", "CC0-1.0")  # all black: what is left of the parent's 200 is 1 - alpha
    soft = 0
    for seed in range(10):
        drawn = draft_from_shot(
            normal(flat(200)),
            shot,
            foreground=WHOLE,
            spec=spec(feather_px=feather_px, scale=(0.8, 1.6), max_turn_deg=180.0),
            rng=np.random.default_rng(seed),
        )
        assert drawn is not None
        left = drawn.image[:, :, 0].astype(int)
        assert drawn.mask[left < 100].all()
        assert not drawn.mask[left > 100].any()
        soft += int(np.count_nonzero((left > 0) & (left < 200)))
    assert soft > 100


def _black(image: np.ndarray, at: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[at : at + side, at : at + side] = 255
    image = image.copy()
    image[mask > 0] = 0
    return image, mask


@pytest.mark.parametrize(("scale", "expected"), [(0.5, 0.25), (1.0, 1.0), (1.5, 2.25)])
def test_scale_and_turn_change_the_area_as_they_should(scale: float, expected: float) -> None:
    shot = RealPair(*_black(flat(150), 20, 20), sha256="s", licence="CC0-1.0")
    drawn = draft_from_shot(
        normal(flat(150)),
        shot,
        foreground=WHOLE,
        spec=spec(scale=(scale, scale), max_turn_deg=180.0),
        rng=np.random.default_rng(1),
    )
    assert drawn is not None
    assert np.count_nonzero(drawn.mask) == pytest.approx(expected * 400, rel=0.08)


@pytest.mark.parametrize(("dark", "bright"), [(60, 130), (180, 90)])
def test_colours_are_matched_to_the_place(dark: int, bright: int) -> None:
    image, mask = flat(dark), np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    mask[20:30, 20:30] = 255
    image[20:30, 20:30] = dark // 2
    drawn = draft_from_shot(
        normal(flat(bright)),
        RealPair(image, mask, "s", "CC0-1.0"),
        foreground=WHOLE,
        spec=spec(),
        rng=np.random.default_rng(0),
    )
    assert drawn is not None
    assert drawn.image[drawn.mask > 0].mean() == pytest.approx(bright / 2, abs=1.5)


def test_a_defect_is_pasted_on_the_object() -> None:
    parent = normal(disk(0))
    foreground = segment_object(parent.image)
    for seed in range(20):
        drawn = draft_from_shot(
            parent,
            spotted(disk(1)),
            foreground=foreground,
            spec=spec(feather_px=1.0, max_turn_deg=180.0, scale=(0.7, 1.4)),
            rng=np.random.default_rng(seed),
        )
        assert drawn is not None
        assert not drawn.mask[foreground == 0].any()
        np.testing.assert_array_equal(drawn.image[foreground == 0], parent.image[foreground == 0])


def test_a_defect_larger_than_the_object_fits_nowhere() -> None:
    foreground = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    foreground[30:34, 30:34] = 255
    shot = RealPair(*_black(flat(150), 5, 50), sha256="s", licence="CC0-1.0")
    for one in (
        draft_from_shot(normal(flat(150)), shot, foreground=foreground, spec=spec(), rng=np.random.default_rng(0)),
        draft_from_shot(
            normal(flat(150)), shot, foreground=WHOLE, spec=spec(scale=(2.0, 2.0)), rng=np.random.default_rng(0)
        ),
    ):
        assert one is None


def test_a_speck_is_never_cut_alone() -> None:
    shot = spotted(flat(120))
    mask = shot.mask.copy()
    mask[60, 60] = 255
    both = RealPair(shot.image, mask, "s", "CC0-1.0")
    areas = set()
    for seed in range(40):
        drawn = draft_from_shot(normal(flat(120)), both, foreground=WHOLE, spec=spec(), rng=np.random.default_rng(seed))
        assert drawn is not None
        areas.add(int(np.count_nonzero(drawn.mask)))
    assert areas == {55, 56}


def test_a_piece_of_the_image_itself_is_a_rectangle_of_its_own_pixels() -> None:
    parent = normal(surface(0))
    hard, visible = spec(source="self", max_turn_deg=0.0), 0
    for seed in range(20):
        drawn = draft_from_itself(parent, foreground=WHOLE, spec=hard, rng=np.random.default_rng(seed))
        assert drawn is not None
        rows, columns = np.nonzero(drawn.mask)
        assert drawn.mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        np.testing.assert_array_equal(drawn.image[drawn.mask == 0], parent.image[drawn.mask == 0])
        assert drawn.shot_ids == ()
        assert drawn.licences == ()
        visible += int((drawn.image != parent.image).any())
    assert visible == 20
