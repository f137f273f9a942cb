import numpy as np
import pytest
from scipy import ndimage

from anosynth.sources.procedural import DEFECTS, render_pair
from anosynth.sources.procedural.blemishes import Chip, Dent, Hole, Stain
from anosynth.sources.procedural.canvas import Canvas
from anosynth.sources.procedural.defects import changed_mask, inflict
from anosynth.sources.procedural.demo import MATERIALS
from anosynth.sources.procedural.fissures import Crack, Scratch
from anosynth.sources.procedural.materials import build_surface
from anosynth.sources.procedural.render import MAX_MASK_RATIO, MIN_CONTRAST, MIN_MASK_RATIO
from anosynth.sources.procedural.strokes import FAR, Place, digits, nearest, stroke
from anosynth.sources.procedural.surface import Surface
from anosynth.sources.procedural.woven import LostYarn, Weave, weave

CANVAS = Canvas(64, 2, 0)
EVERYWHERE = np.ones((128, 128))
COMBINATIONS = [(category, defect) for category, table in DEFECTS.items() for defect in table]
NUM_SEEDS = 6

DEFECT_EXAMPLES = {
    "scratch": Scratch(0.5, 0.03, 0.005, plough=0.5, bend=0.05, tone=0.5, finish=0.1, twins=2),
    "crack": Crack(0.5, 0.03, 0.02, jag=0.15, branches=2, dark=0.9),
    "dent": Dent(0.1, 1.2, 0.03, rim=0.1, scuff=0.0),
    "stain": Stain(0.1, 1.2, 0.5, (0.3, 0.2, 0.1), 0.7, 0.1, softness=0.3, patches=0.5, finish=0.5, soak=0.5),
    "hole": Hole(0.08, 1.1, 0.4, depth=0.06, burr=0.003, color=(0.1, 0.1, 0.1)),
    "chip": Chip(0.1, 1.2, 0.5, depth=0.04, core=(0.6, 0.4, 0.3), terraces=0.2, roughness=0.9, metal=0.0),
}


def _flat():
    return Surface(
        np.zeros((128, 128)), np.full((128, 128, 3), 0.5), np.full((128, 128), 0.5), np.full((128, 128), 0.2)
    )


def _hit(name, surface, *, ground=None, cover=EVERYWHERE):
    place = Place(0.05, -0.05, 30.0)
    return inflict(
        DEFECT_EXAMPLES[name], surface, CANVAS, place=place, cover=cover, ground=ground, rng=np.random.default_rng(0)
    )


@pytest.fixture(scope="module")
def pairs():
    return {
        (category, defect, seed): render_pair(category, defect=defect, seed=seed, size_px=64)
        for category, defect in COMBINATIONS
        for seed in range(NUM_SEEDS)
    }


def test_every_defect_of_every_category_has_a_visible_mask_of_sensible_size(pairs):
    checked = 0
    for name, pair in pairs.items():
        mask, image = pair.defective.mask, pair.defective.image
        assert mask.dtype == np.uint8, name
        assert mask.shape == image.shape[:2] == (64, 64), name
        assert set(np.unique(mask)) == {0, 255}, name
        assert MIN_MASK_RATIO <= (mask > 0).mean() <= MAX_MASK_RATIO, name
        assert not pair.sound.mask.any(), name
        change = np.abs(image.astype(int) - pair.sound.image).max(axis=2)
        assert change[mask > 0].mean() >= MIN_CONTRAST, name
        checked += 1
    assert len(COMBINATIONS) == 36
    assert checked == 36 * NUM_SEEDS


def test_away_from_the_mask_the_sound_and_the_defective_picture_agree(pairs):
    checked = 0
    for name, pair in pairs.items():
        far = ~ndimage.binary_dilation(pair.defective.mask > 0, iterations=3)
        change = np.abs(pair.sound.image.astype(int) - pair.defective.image).max(axis=2)[far]
        # What is left is the shadow that a deep defect throws further than three pixels.
        assert change.mean() < 0.5, name
        assert (change > 8).mean() < 0.01, name
        checked += 1
    assert checked == 36 * NUM_SEEDS


def test_a_mask_lies_on_the_object(pairs):
    checked = 0
    for name, pair in pairs.items():
        on_object = ndimage.binary_dilation(pair.sound.object_mask > 0)
        assert on_object[pair.defective.mask > 0].all(), name
        assert np.array_equal(pair.sound.object_mask, pair.defective.object_mask), name
        checked += 1
    assert checked == 36 * NUM_SEEDS


def test_the_mask_is_where_the_surface_changed_beyond_the_thresholds():
    rng = np.random.default_rng(1)
    canvas = Canvas(16, 2, 0)
    size = (32, 32)
    before = Surface(np.zeros(size), np.full((*size, 3), 0.25), np.full(size, 0.5), np.zeros(size))
    after = Surface(
        rng.uniform(0.0, 0.0018, size),
        (0.5 + rng.uniform(0.0, 0.04, (*size, 3))) ** 2,
        0.5 + rng.uniform(0.0, 0.22, size),
        rng.uniform(0.0, 0.22, size),
    )
    expected = np.zeros((16, 16), dtype=np.uint8)
    for row in range(16):
        for column in range(16):
            for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
                at = (2 * row + y, 2 * column + x)
                tone = max(abs(np.sqrt(after.albedo[at][c]) - np.sqrt(before.albedo[at][c])) for c in range(3))
                finish = max(abs(after.roughness[at] - before.roughness[at]), abs(after.metal[at] - before.metal[at]))
                if after.height[at] >= 0.0015 or tone >= 0.035 or finish >= 0.2:
                    expected[row, column] = 255
    assert 0 < (expected > 0).sum() < expected.size
    assert np.array_equal(changed_mask(before, after, canvas), expected)


def test_a_surface_without_change_has_an_empty_mask():
    assert not changed_mask(_flat(), _flat(), CANVAS).any()


@pytest.mark.parametrize("name", ["scratch", "crack", "dent", "hole", "chip"])
def test_a_defect_takes_material_away(name):
    assert _hit(name, _flat()).height.min() < -0.003


def test_a_stain_leaves_the_height_alone_and_fades_at_its_rim():
    flat = _flat()
    stained = _hit("stain", flat)
    assert np.array_equal(stained.height, flat.height)
    change = np.abs(stained.albedo - flat.albedo).max(axis=2)
    assert change.max() > 0.2
    assert ((change > 0.02) & (change < 0.1)).sum() > 20


def test_a_scratch_throws_up_a_burr_and_a_dent_a_rim():
    assert _hit("scratch", _flat()).height.max() > 0.0005
    assert _hit("dent", _flat()).height.max() > 0.001


def test_a_crack_and_a_hole_are_dark_inside():
    for name in ("crack", "hole"):
        hit = _hit(name, _flat())
        deep = hit.height < 0.8 * hit.height.min()
        assert deep.sum() > 20
        assert hit.albedo[deep].mean() < 0.15


def test_a_defect_stays_on_the_part():
    cover = np.zeros((128, 128))
    cover[:, 64:] = 1.0
    checked = 0
    for name in DEFECT_EXAMPLES:
        hit = _hit(name, _flat(), cover=cover)
        assert np.array_equal(hit.height[:, :64], np.zeros((128, 64)))
        assert np.array_equal(hit.albedo[:, :64], np.full((128, 64, 3), 0.5))
        checked += 1
    assert checked == 6


def test_a_deep_chip_shows_the_ground():
    ground = Surface(
        np.full((128, 128), -0.02), np.full((128, 128, 3), 0.05), np.full((128, 128), 0.9), np.zeros((128, 128))
    )
    hit = _hit("chip", _flat(), ground=ground)
    assert hit.height.min() >= -0.02 - 1e-12
    assert (np.abs(hit.albedo - 0.05).max(axis=2) < 1e-9).sum() > 20


def test_lost_yarns_change_the_cloth_only_where_they_were():
    material = MATERIALS["fabric"].draw(np.random.default_rng(0))
    assert isinstance(material, Weave)
    whole = build_surface(material, CANVAS, name="cloth")
    torn = weave(material, CANVAS, name="cloth", lost=LostYarn(0.1, 0.0, 0.4, 2))
    changed = np.abs(torn.height - whole.height) > 0.0
    rows, columns = np.nonzero(changed)
    assert changed.mean() > 0.01
    assert np.ptp(columns) / 128 < 4.5 / material.yarns
    assert 0.25 < np.ptp(rows) / 128 < 0.55
    assert (torn.height <= whole.height + 1e-12).all()


def test_distances_to_lines_agree_with_a_plain_loop():
    canvas = Canvas(16, 1, 0)
    points = np.array([[-0.3, -0.2], [0.1, 0.3], [0.4, -0.1]])
    x, y = canvas.grid()
    measured = stroke(canvas, points, reach=2.0)
    scaled = nearest(canvas, [points], half_widths=[0.5], reach=4.0)
    lengths = np.sqrt((np.diff(points, axis=0) ** 2).sum(axis=1))
    checked = 0
    for row in range(16):
        for column in range(16):
            here = np.array([x[row, column], y[row, column]])
            found = []
            for number, (start, end) in enumerate([(points[0], points[1]), (points[1], points[2])]):
                share = np.clip(((here - start) * (end - start)).sum() / ((end - start) ** 2).sum(), 0.0, 1.0)
                walked = (lengths[:number].sum() + share * lengths[number]) / lengths.sum()
                found.append((float(np.sqrt(((here - start - share * (end - start)) ** 2).sum())), walked))
            distance, progress = min(found)
            assert measured.distance[row, column] == pytest.approx(distance)
            assert measured.progress[row, column] == pytest.approx(progress)
            assert scaled[row, column] == pytest.approx(distance / 0.5)
            checked += 1
    assert checked == 256


def test_only_digits_can_be_stamped():
    options = {"center": (0.0, 0.0), "height": 0.4, "angle_deg": 0.0, "half_width": 0.03}
    one, eight = (digits(CANVAS, text, **options) for text in ("1", "8"))
    assert 0 < (one < 1.0).sum() < (eight < 1.0).sum() < (eight < FAR).sum()
    with pytest.raises(ValueError, match="only digits"):
        digits(CANVAS, "M8", **options)
