import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from anosynth.errors import DataError
from anosynth.imaging import decode_image, decode_mask, hamming_bits, perceptual_hash
from anosynth.params import ProceduralSource
from anosynth.seeding import seed_for
from anosynth.sources.procedural import CATEGORIES, DEFECTS, items, render
from anosynth.sources.procedural.__main__ import main, outlined
from anosynth.sources.procedural.demo import CAMERA, LIGHTS, MATERIALS, SHAPES, category_of
from anosynth.sources.procedural.metals import BrushedMetal
from anosynth.sources.procedural.ranges import Always, Between, Near, Recipe, Whole
from anosynth.sources.procedural.shading import Light

# sha256 of image, mask and object mask at 64 px, seed 7: sound, and with the category's last defect.
GOLDEN = {
    "cast_metal": ("5d899f995f607c4d", "328277413ef567ea"),
    "brushed_metal": ("55c7330d7c7e7434", "992dc834704d46c1"),
    "wood": ("e0b0332ba77100b5", "9c55ed98e9895351"),
    "fabric": ("9bdb8e320e7b376e", "5c09cc3c9cda46f9"),
    "leather": ("7562ed6aa556f4e3", "e7c40f891a758b39"),
    "tile": ("fe402e747a8fcb1c", "3ec87342d6ac36c2"),
    "washer": ("94926bd7e42e404d", "ce1f2f56a0405d61"),
    "pill": ("c540290ddee9fb5f", "c205c24080c7832c"),
}


def _digest(category, defect, seed, size_px):
    rendered = render(category, defect=defect, seed=seed, size_px=size_px)
    parts = (rendered.image, rendered.mask, rendered.object_mask)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:16]


def _digests():
    found = {}
    for category in CATEGORIES:
        defect = list(DEFECTS[category])[-1]
        found[category] = (_digest(category, None, 7, 64), _digest(category, defect, 7, 64))
    return found


def _spec(**counts):
    given = {"num_train_normal": 3, "num_test_normal": 2, "num_train_anomalous": 2, "num_test_anomalous": 1, **counts}
    return ProceduralSource(kind="procedural", size_px=64, **given)


def test_there_are_the_eight_demo_categories_with_their_defects():
    expected = ("cast_metal", "brushed_metal", "wood", "fabric", "leather", "tile", "washer", "pill")
    assert expected == CATEGORIES
    assert tuple(DEFECTS) == CATEGORIES
    assert {defect for table in DEFECTS.values() for defect in table} == {
        "scratch", "crack", "dent", "stain", "hole", "missing"
    }  # fmt: skip


def test_renders_of_one_seed_are_the_ones_they_always_were():
    assert len(GOLDEN) == 8
    assert _digests() == GOLDEN


def test_renders_do_not_depend_on_the_processor_s_vector_units():
    code = "from tests.sources.test_procedural import _digests; print(sorted(_digests().items()))"
    plain = {**os.environ, "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"}
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=plain, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(sorted(GOLDEN.items()))


def test_a_render_has_the_fields_it_promises():
    checked = 0
    for category in CATEGORIES:
        rendered = render(category, defect=None, seed=1, size_px=48)
        assert rendered.image.dtype == rendered.mask.dtype == rendered.object_mask.dtype == np.uint8
        assert rendered.image.shape == (48, 48, 3)
        assert not rendered.mask.any()
        whole = category not in SHAPES
        assert (rendered.object_mask == 255).all() == whole
        assert (rendered.object_mask > 0).mean() > 0.15
        assert rendered.caption.startswith("a photo of a ")
        checked += 1
    assert checked == 8


def test_a_caption_names_the_defect():
    assert render("washer", defect="scratch", seed=0, size_px=48).caption == "a photo of a steel washer with a scratch"
    assert render("fabric", defect="missing", seed=0, size_px=48).caption.endswith("with missing yarns")


def test_pictures_use_the_range_of_levels_without_clipping():
    checked = 0
    for category in CATEGORIES:
        pictures = [render(category, defect=None, seed=seed, size_px=64).image for seed in range(6)]
        levels = np.stack(pictures)
        assert 40 < levels.mean() < 225, category
        assert (levels == 0).mean() < 0.02, category
        assert (levels == 255).mean() < 0.10, category
        assert all(picture.std() > 5.0 for picture in pictures), category
        checked += 1
    assert checked == 8


def test_distinct_seeds_give_distinct_pictures():
    checked = 0
    for category in CATEGORIES:
        pictures = [render(category, defect=None, seed=seed, size_px=64).image for seed in range(12)]
        hashes = [perceptual_hash(picture) for picture in pictures]
        bits, differences = [], []
        for first in range(12):
            for second in range(first):
                bits.append(hamming_bits(hashes[first], hashes[second]))
                differences.append(np.abs(pictures[first].astype(int) - pictures[second]).mean())
        assert min(differences) > 4.0, category
        assert np.median(bits) >= 12, category
        checked += len(bits)
    assert checked == 8 * 66


def test_a_picture_of_another_size_shows_the_same_part():
    checked = 0
    for category in CATEGORIES:
        small = render(category, defect=None, seed=3, size_px=64).image.astype(float).mean(axis=2)
        large = render(category, defect=None, seed=3, size_px=128).image.astype(float).mean(axis=2)
        other = render(category, defect=None, seed=4, size_px=64).image.astype(float).mean(axis=2)
        reduced = large.reshape(32, 4, 32, 4).mean(axis=(1, 3))
        coarse = small.reshape(32, 2, 32, 2).mean(axis=(1, 3))
        same = np.corrcoef(coarse.ravel(), reduced.ravel())[0, 1]
        different = np.corrcoef(other.reshape(32, 2, 32, 2).mean(axis=(1, 3)).ravel(), reduced.ravel())[0, 1]
        assert same > 0.75, category
        assert 1.0 - same < 0.5 * (1.0 - different), category
        checked += 1
    assert checked == 8


def test_unknown_categories_and_defects_are_refused_by_name():
    with pytest.raises(DataError, match="no category 'bottle'; there: cast_metal"):
        render("bottle", defect=None, seed=0, size_px=64)
    with pytest.raises(DataError, match="wood has no defect 'missing'; there: scratch"):
        render("wood", defect="missing", seed=0, size_px=64)
    with pytest.raises(DataError, match=r"grid\.categories"):
        list(items(_spec(), category="bottle", defects=(), seed=0))
    with pytest.raises(DataError, match=r"grid\.pairs"):
        list(items(_spec(), category="wood", defects=("missing",), seed=0))


def test_the_source_lists_what_the_counts_ask_for():
    found = list(items(_spec(), category="washer", defects=("scratch", "dent"), seed=5))
    assert [item.path for item in found] == [
        "washer/train/good/000.png",
        "washer/train/good/001.png",
        "washer/train/good/002.png",
        "washer/train/scratch/000.png",
        "washer/train/scratch/001.png",
        "washer/train/dent/000.png",
        "washer/train/dent/001.png",
        "washer/test/good/000.png",
        "washer/test/good/001.png",
        "washer/test/scratch/000.png",
        "washer/test/dent/000.png",
    ]
    for item in found:
        assert item.category == "washer"
        assert item.part == item.path.split("/")[1]
        assert item.group == item.path
        assert item.licence == "CC0-1.0"
        assert (item.defect is None) == (item.read_mask is None) == (item.mask_path is None)
    masks = [item.mask_path for item in found if item.mask_path]
    assert len(set(masks)) == len(masks) == 6
    assert "washer/ground_truth/train/scratch/001.png" in masks


def test_all_defects_are_listed_where_none_is_named():
    found = list(items(_spec(num_train_anomalous=1, num_test_anomalous=0), category="tile", defects=(), seed=0))
    assert [item.defect for item in found if item.defect] == list(DEFECTS["tile"])


def test_listed_images_and_masks_are_the_renders_of_their_address():
    checked = 0
    for item in items(_spec(), category="leather", defects=("hole",), seed=5):
        folder, index = item.path.split("/")[2], int(item.path.split("/")[3][:-4])
        seed = seed_for(5, "procedural", "leather", item.part, folder, index)
        expected = render("leather", defect=item.defect, seed=seed, size_px=64)
        assert np.array_equal(decode_image(item.read_image(), name=item.path).image, expected.image)
        assert item.read_image() == item.read_image()
        if item.read_mask is not None:
            assert np.array_equal(decode_mask(item.read_mask(), name=item.path), expected.mask)
        checked += 1
    assert checked == 8


def test_growing_the_counts_keeps_the_images_there_were():
    few = {item.path: item.read_image() for item in items(_spec(), category="wood", defects=("stain",), seed=1)}
    more = _spec(num_train_normal=4, num_test_normal=3, num_train_anomalous=3, num_test_anomalous=2)
    many = {item.path: item.read_image() for item in items(more, category="wood", defects=("stain",), seed=1)}
    assert len(few) == 8
    assert len(many) == 12
    assert all(many[path] == data for path, data in few.items())
    assert len(set(many.values())) == 12


def test_a_recipe_draws_inside_its_ranges_and_knows_its_own_draws():
    checked = 0
    for category, recipe in MATERIALS.items():
        for seed in range(20):
            material = recipe.draw(np.random.default_rng(seed))
            assert recipe.holds(material)
            assert category_of(material) == category
            checked += 1
    assert checked == 160
    assert all(recipe.holds(recipe.draw(np.random.default_rng(0))) for recipe in (*LIGHTS.values(), CAMERA))


def test_a_material_outside_the_demo_ranges_belongs_to_no_demo_category():
    coarse = BrushedMetal((0.6, 0.6, 0.6), 40.0, 60.0, 0.0003, 0.8, 0.001, 0.35, 0.0)
    assert category_of(coarse) is None
    assert not MATERIALS["wood"].holds(coarse)


def test_ranges_of_every_kind_draw_what_they_say():
    rng = np.random.default_rng(0)
    lights = [
        Recipe(Light, {"azimuth_deg": Between(5.0, 6.0), "elevation_deg": Whole(40, 42)}).draw(rng) for _ in range(30)
    ]
    assert all(5.0 <= light.azimuth_deg <= 6.0 for light in lights)
    assert {light.elevation_deg for light in lights} == {40, 41, 42}
    named = Recipe(dict, {"name": Always("12"), "color": Near((0.5, 0.4, 0.3), 0.05)}).draw(rng)
    assert named["name"] == "12"
    assert np.abs(np.array(named["color"]) - (0.5, 0.4, 0.3)).max() <= 0.1


def test_the_outline_is_drawn_around_the_mask_and_not_on_it():
    rendered = render("wood", defect="hole", seed=2, size_px=64)
    drawn = outlined(rendered.image, rendered.mask)
    assert np.array_equal(drawn[rendered.mask > 0], rendered.image[rendered.mask > 0])
    assert (drawn != rendered.image).any()


def test_the_contact_sheet_command_writes_a_picture(tmp_path, capsys):
    out = tmp_path / "sheets" / "fabric.png"
    main(["--out", str(out), "--category", "fabric", "--columns", "2", "--size-px", "32"])
    picture = decode_image(out.read_bytes(), name=out.name).image
    assert picture.shape == (32 * 8, 64, 3)
    assert "64 x 256 px" in capsys.readouterr().out
