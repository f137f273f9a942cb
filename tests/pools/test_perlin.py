import numpy as np
from scipy import ndimage

from anosynth.features.foreground import segment_object
from anosynth.params import PerlinMethod
from anosynth.pools.perlin import MIN_REGION_CHANGE, draft
from anosynth.pools.textures import OPERATIONS, procedural_texture, real_texture
from tests.pools.small import disk, normal, spotted, surface

SPEC = PerlinMethod(kind="perlin", max_octave=3)


def test_every_pixel_outside_the_mask_is_the_parents_and_every_region_inside_is_visible() -> None:
    parent, sources = normal(surface(0)), [normal(surface(1)), spotted(surface(2))]
    whole = np.full(parent.image.shape[:2], 255, np.uint8)
    regions = 0
    for seed in range(30):
        drawn = draft(parent, foreground=whole, spec=SPEC, sources=sources, rng=np.random.default_rng(seed))
        inside = drawn.mask > 0
        np.testing.assert_array_equal(drawn.image[~inside], parent.image[~inside])
        change = np.abs(drawn.image.astype(int) - parent.image).max(axis=2)
        labels, count = ndimage.label(inside)
        for region in range(1, count + 1):
            assert change[labels == region].mean() >= MIN_REGION_CHANGE
        regions += count
    assert regions > 30


def test_the_anomaly_stays_on_the_object() -> None:
    parent = normal(disk(0))
    foreground = segment_object(parent.image)
    assert 0 < np.count_nonzero(foreground) < foreground.size
    drawn_area = 0
    for seed in range(20):
        drawn = draft(parent, foreground=foreground, spec=SPEC, sources=[parent], rng=np.random.default_rng(seed))
        assert not drawn.mask[foreground == 0].any()
        drawn_area += np.count_nonzero(drawn.mask)
    assert drawn_area > 0


def test_the_texture_never_outweighs_the_opacity() -> None:
    parent = normal(np.full((64, 64, 3), 100, np.uint8))
    spec = PerlinMethod(kind="perlin", opacity=(0.2, 0.2), max_octave=2)
    whole = np.full((64, 64), 255, np.uint8)
    for seed in range(10):
        drawn = draft(parent, foreground=whole, spec=spec, sources=[parent], rng=np.random.default_rng(seed))
        assert np.abs(drawn.image.astype(int) - 100).max() <= round(0.2 * 155)


def test_real_textures_name_the_shot_and_its_licence() -> None:
    parent, other = normal(surface(0)), spotted(surface(1), licence="CC-BY-4.0")
    whole = np.full(parent.image.shape[:2], 255, np.uint8)
    drawn = [
        draft(parent, foreground=whole, spec=SPEC, sources=[parent, other], rng=np.random.default_rng(seed))
        for seed in range(20)
    ]
    named = [one for one in drawn if one.shot_ids]
    assert 3 <= len(named) <= 17
    assert {one.shot_ids for one in named} == {(other.sha256,)}
    assert {one.licences for one in named} == {("CC-BY-4.0",)}
    assert all(not one.licences for one in drawn if not one.shot_ids)


def test_textures_have_any_size_stay_in_range_and_differ() -> None:
    image = surface(3)
    for size in ((64, 64), (40, 72)):
        drawn = [real_texture(image, size_px=size, rng=np.random.default_rng(seed)) for seed in range(6)]
        drawn += [procedural_texture(size_px=size, rng=np.random.default_rng(seed)) for seed in range(6)]
        assert {texture.shape for texture in drawn} == {(*size, 3)}
        assert min(texture.min() for texture in drawn) >= 0.0
        assert max(texture.max() for texture in drawn) <= 1.0
        assert len({texture.tobytes() for texture in drawn}) == 12


def test_every_operation_changes_a_texture() -> None:
    pixels = surface(4) / 255.0
    for operation in OPERATIONS:
        changed = [operation(pixels, np.random.default_rng(seed)) for seed in range(3)]
        assert all(one.shape == pixels.shape for one in changed)
        assert max(np.abs(one - pixels).max() for one in changed) > 0.02
