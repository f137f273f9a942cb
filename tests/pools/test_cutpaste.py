import numpy as np
import pytest

from anosynth.features.foreground import segment_object
from anosynth.params import CutPasteMethod
from anosynth.pools.cutpaste import _cut, _places, _unlikeness, _Warp, draft_from_itself, draft_from_shot
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


def stripes(level: int, *, at: int) -> np.ndarray:
    """A bright band of 8 rows on a darker ground."""
    image = flat(level)
    image[at : at + 8] += 60
    return image


def test_a_matched_defect_goes_where_it_looks_as_around_it_in_its_shot() -> None:
    image, mask = stripes(100, at=20), np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    mask[26:31, 30:36] = 255  # on the lower edge of the band
    image[mask > 0] = 5
    shot = RealPair(image, mask, "s", "CC0-1.0")
    parent = normal(stripes(80, at=40))
    rows = {"matched": [], "anywhere": []}
    for seed in range(20):
        for how, where in (("matched", WHOLE), ("anywhere", None)):
            drawn = draft_from_shot(
                parent,
                shot,
                foreground=WHOLE,
                spec=spec(),
                rng=np.random.default_rng(seed),
                mirror=False,
                shot_foreground=where,
            )
            assert drawn is not None
            rows[how].append(int(np.argwhere(drawn.mask)[0][0]))
    assert set(rows["matched"]) <= {45, 46, 47}  # the same edge in the parent: the first row lies 6 rows into the band
    assert len(set(rows["anywhere"])) > 8


def test_unlikeness_is_the_mean_squared_difference_of_the_surroundings() -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, (SIZE_PX, SIZE_PX, 3)).astype(np.uint8)
    shot = rng.integers(0, 255, (SIZE_PX, SIZE_PX, 3)).astype(np.uint8)
    region = np.zeros((SIZE_PX, SIZE_PX), bool)
    region[20:26, 30:38] = True
    foreground = np.zeros((SIZE_PX, SIZE_PX), bool)
    foreground[:, 12:] = True
    cut = {"others": region, "warp": _Warp(0.0, 1.0, mirror=False), "feather_px": 1.0}
    piece, wide = _cut(shot, region, **cut), _cut(shot, region, **cut, surround_px=24.0)
    places = _places(piece.inside, foreground)
    found = _unlikeness(places, piece, wide, image, foreground, shot, np.ones_like(region))
    grey, there = image.mean(axis=2), shot.mean(axis=2)
    margin = [(a - b) // 2 for a, b in zip(wide.inside.shape, piece.inside.shape, strict=True)]
    for at in range(0, len(places), 97):
        top, left = places[at] - margin
        differences = []
        for row, column in np.argwhere(wide.known):
            y, x = top + row, left + column
            if 0 <= y < SIZE_PX and 0 <= x < SIZE_PX:
                own = wide.pixels[row, column].mean() / there.mean()
                differences.append((grey[y, x] / grey[foreground].mean() - own) ** 2)
        if len(differences) < 0.5 * wide.known.sum():
            assert found[at] == np.inf
        else:
            assert found[at] == pytest.approx(np.mean(differences), rel=1e-6)
    assert np.isfinite(found).any()


def test_without_mirror_a_defect_keeps_its_hand() -> None:
    shot = RealPair(*_black(flat(150), 20, 12), sha256="s", licence="CC0-1.0")
    shot.image[20:32, 20:24] = 90
    shot.mask[20:24, 24:32] = 0  # an L
    hands = set()
    for seed in range(12):
        for mirror in (True, False):
            drawn = draft_from_shot(
                normal(flat(150)),
                shot,
                foreground=WHOLE,
                spec=spec(),
                rng=np.random.default_rng(seed),
                mirror=mirror,
            )
            assert drawn is not None
            first = drawn.mask[np.argwhere(drawn.mask)[0][0]]
            whole = drawn.mask.any(axis=0)
            hands.add((mirror, bool(first[whole.argmax()])))  # whether the upper end is on the left
    assert hands == {(True, True), (True, False), (False, True)}


def test_a_chipped_edge_goes_to_an_edge() -> None:
    def plate(level: int) -> np.ndarray:
        image = flat(20)
        image[12:52, 12:52] = level
        return image

    image, mask = plate(180), np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    mask[12:18, 28:36] = 255  # at the upper edge
    image[mask > 0] = 20
    inside = plate(1) == 1
    foreground = np.where(inside[:, :, 0], np.uint8(255), np.uint8(0))
    for seed in range(12):
        drawn = draft_from_shot(
            normal(plate(150)),
            RealPair(image, mask, "s", "CC0-1.0"),
            foreground=foreground,
            spec=spec(),
            rng=np.random.default_rng(seed),
            mirror=False,
            shot_foreground=foreground,
        )
        assert drawn is not None
        assert np.argwhere(drawn.mask)[0][0] in (12, 13)
