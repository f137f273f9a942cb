import numpy as np
import pytest

from anosynth.sources.procedural.canvas import Canvas
from anosynth.sources.procedural.shading import Camera, Light, photograph, shade
from anosynth.sources.procedural.surface import Surface, lay, linear, paint

CANVAS = Canvas(32, 2, 0)


def _surface(height, *, albedo=0.5, roughness=1.0, metal=0.0):
    size = height.shape
    return Surface(height, np.full((*size, 3), albedo), np.full(size, roughness), np.full(size, metal))


def _plane(slope_x=0.0, slope_y=0.0):
    x, y = CANVAS.grid()
    return slope_x * x + slope_y * y


def test_a_flat_chalk_surface_follows_lambert():
    surface = _surface(_plane())
    base = {"azimuth_deg": 0.0, "distance": 1000.0, "softness": 0.0, "fill": 0.0, "glow": 0.0}
    straight = shade(surface, Light(elevation_deg=90.0, **base), CANVAS).mean()
    checked = 0
    for elevation in (20.0, 45.0, 70.0):
        slanted = shade(surface, Light(elevation_deg=elevation, **base), CANVAS).mean()
        # Lambert's cosine plus an insulator's mirrored 4 % at most.
        assert slanted / straight == pytest.approx(np.sin(np.deg2rad(elevation)), rel=0.06)
        checked += 1
    assert checked == 3
    assert straight == pytest.approx(0.5, rel=0.05)


def test_a_slope_towards_the_lamp_is_brighter_than_one_away_from_it():
    light = Light(azimuth_deg=0.0, elevation_deg=40.0)
    facing = shade(_surface(_plane(slope_x=-0.3)), light, CANVAS).mean()
    level = shade(_surface(_plane()), light, CANVAS).mean()
    turned = shade(_surface(_plane(slope_x=0.3)), light, CANVAS).mean()
    assert facing > 1.1 * level
    assert turned < 0.9 * level


def test_a_wall_throws_its_shadow_away_from_the_lamp():
    x, _ = CANVAS.grid()
    wall = np.where(np.abs(x) < 0.05, 0.1, 0.0)
    light = Light(azimuth_deg=0.0, elevation_deg=45.0, softness=0.05, fill=0.1, glow=0.0)
    row = shade(_surface(wall), light, CANVAS)[32, :, 1]
    left, right = row[(x[32] > -0.12) & (x[32] < -0.08)].mean(), row[(x[32] > 0.08) & (x[32] < 0.12)].mean()
    assert left < 0.5 * right


def test_a_hollow_is_darker_than_open_ground_in_room_light():
    x, y = CANVAS.grid()
    pit = np.where(np.hypot(x, y) < 0.08, -0.08, 0.0)
    light = Light(azimuth_deg=0.0, elevation_deg=90.0, key=0.0, fill=1.0, glow=0.0)
    lit = shade(_surface(pit), light, CANVAS)[:, :, 0]
    assert lit[32, 32] < 0.7 * lit[4, 4]


def test_a_shadow_does_not_depend_on_a_hollow_far_away():
    x, y = CANVAS.grid()
    bumps = 0.01 * np.sin(40.0 * x) * np.sin(40.0 * y)
    hollow = np.where(np.hypot(x - 0.4, y - 0.4) < 0.05, bumps - 0.1, bumps)
    light = Light(azimuth_deg=200.0, elevation_deg=35.0)
    difference = np.abs(shade(_surface(bumps), light, CANVAS) - shade(_surface(hollow), light, CANVAS))
    assert difference[:32, :32].max() == 0.0
    assert difference.max() > 0.1


def test_a_metal_mirrors_its_own_color_and_an_insulator_does_not():
    light = Light(azimuth_deg=0.0, elevation_deg=88.0, fill=0.0, glow=1.0, key=0.0)
    red = np.zeros((64, 64, 3))
    red[:, :, 0] = 0.9
    flat, rough = _plane(), np.full((64, 64), 0.2)
    metal = shade(Surface(flat, red, rough, np.ones((64, 64))), light, CANVAS).mean(axis=(0, 1))
    plastic = shade(Surface(flat, red, rough, np.zeros((64, 64))), light, CANVAS).mean(axis=(0, 1))
    assert metal[0] > 20.0 * metal[1]
    assert plastic[0] == pytest.approx(plastic[1])


def test_a_picture_of_even_light_is_even_and_brighter_with_more_exposure():
    radiance = np.full((64, 64, 3), 0.3)
    levels = []
    for exposure in (0.5, 1.0, 2.0):
        camera = Camera(exposure=exposure, blur_px=0.5, noise=0.0, vignetting=0.0)
        picture = photograph(radiance, camera, CANVAS, rng=np.random.default_rng(0))
        assert picture.shape == (32, 32, 3)
        assert np.unique(picture).size == 1
        levels.append(int(picture[0, 0, 0]))
    assert len(levels) == 3
    assert levels == sorted(set(levels))


def test_vignetting_darkens_the_corners_and_noise_has_the_strength_asked_for():
    radiance = np.full((64, 64, 3), 0.3)
    dark = photograph(radiance, Camera(noise=0.0, vignetting=0.4), CANVAS, rng=np.random.default_rng(0))
    assert int(dark[16, 16, 0]) - int(dark[0, 0, 0]) > 10
    noisy = photograph(radiance, Camera(noise=4.0, vignetting=0.0), CANVAS, rng=np.random.default_rng(0))
    assert 3.0 < noisy.astype(np.float64).std() < 5.0


def test_a_lamp_below_the_surface_is_refused():
    with pytest.raises(ValueError, match="above the surface"):
        Light(azimuth_deg=0.0, elevation_deg=0.0)


def test_laying_a_surface_shows_the_top_where_it_covers():
    top, below = _surface(_plane() + 1.0, albedo=1.0), _surface(_plane(), albedo=0.0)
    cover = np.zeros((64, 64))
    cover[:32] = 1.0
    both = lay(top, below, cover=cover)
    assert np.array_equal(both.height[:32], top.height[:32])
    assert np.array_equal(both.albedo[32:], below.albedo[32:])


def test_a_surface_of_fields_that_disagree_is_refused():
    with pytest.raises(ValueError, match="agree in size"):
        Surface(np.zeros((4, 4)), np.zeros((4, 5, 3)), np.zeros((4, 4)), np.zeros((4, 4)))


def test_linear_light_and_blending():
    assert np.allclose(linear((0.0, 0.5, 1.0)), [0.0, 0.21404114, 1.0])
    mixed = paint(np.zeros(3), np.ones(3), np.array([[0.0, 0.25]]))
    assert np.allclose(mixed, [[[0.0] * 3, [0.25] * 3]])
