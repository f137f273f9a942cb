import numpy as np
import pytest

from anosynth.sources.procedural.canvas import Canvas, rotate, smoothstep
from anosynth.sources.procedural.noise import per_cell, spectral, worley


def _canvas(size_px=64, seed=0):
    return Canvas.for_picture(size_px, seed=seed)


def test_a_spectral_field_has_mean_zero_and_variance_one():
    canvas = _canvas()
    fields = [spectral(np.random.default_rng(seed), canvas, exponent=0.5, low=4.0, high=30.0) for seed in range(20)]
    assert len(fields) == 20
    assert abs(np.mean(fields)) < 0.02
    assert abs(np.var(fields) - 1.0) < 0.03


def test_a_spectral_field_stays_inside_its_band():
    canvas = _canvas()
    window = np.hanning(canvas.side)
    field = spectral(np.random.default_rng(1), canvas, exponent=0.0, low=10.0, high=20.0)
    power = np.abs(np.fft.fft2(field * window[:, None] * window[None, :])) ** 2
    cycles = np.abs(np.fft.fftfreq(canvas.side, 1.0 / canvas.side))
    radius = np.hypot(cycles[:, None], cycles[None, :])
    assert power[(radius > 6.0) & (radius < 28.0)].sum() / power.sum() > 0.98


def test_a_stretched_field_changes_slower_along_its_direction():
    canvas = _canvas(128)
    for angle in (0.0, 90.0, 30.0):
        field = spectral(
            np.random.default_rng(2), canvas, exponent=0.5, low=8.0, high=60.0, stretch=12.0, angle_deg=angle
        )
        slope_y, slope_x = np.gradient(field)
        along, across = rotate(slope_x, slope_y, angle)
        assert np.abs(across).mean() > 4.0 * np.abs(along).mean()


def test_a_spectral_field_is_the_same_at_another_size():
    small, large = _canvas(64), _canvas(128)
    arguments = {"exponent": 1.0, "low": 1.0, "high": 12.0, "stretch": 2.0, "angle_deg": 20.0}
    first = spectral(np.random.default_rng(3), small, **arguments)
    second = spectral(np.random.default_rng(3), large, **arguments)
    averaged = second.reshape(first.shape[0], 2, first.shape[1], 2).mean(axis=(1, 3))
    assert np.corrcoef(first.ravel(), averaged.ravel())[0, 1] > 0.99


def test_no_edge_of_a_spectral_field_continues_at_the_other():
    canvas = _canvas()
    seams, steps = [], []
    for seed in range(8):
        field = spectral(np.random.default_rng(seed), canvas, exponent=1.0, low=1.0, high=10.0)
        seams.append(np.abs(field[0] - field[-1]).mean())
        steps.append(np.abs(np.diff(field, axis=0)).mean())
    assert len(seams) == 8
    assert np.mean(seams) > 5.0 * np.mean(steps)


@pytest.mark.parametrize(("low", "high"), [(0.0, 5.0), (5.0, 5.0), (6.0, 5.0)])
def test_an_empty_band_is_refused(low, high):
    with pytest.raises(ValueError, match="0 < low < high"):
        spectral(np.random.default_rng(0), _canvas(), exponent=1.0, low=low, high=high)


def test_worley_finds_the_two_nearest_points_of_the_lattice():
    canvas = _canvas(32)
    x, y = canvas.grid()
    cells = worley(np.random.default_rng(4), x, y, cells=6.0, jitter=0.8)
    offsets = 0.5 + 0.8 * (np.random.default_rng(4).random((64, 64, 2)) - 0.5)
    points, keys = [], []
    for row in range(-5, 6):
        for column in range(-5, 6):
            offset = offsets[row % 64, column % 64]
            points.append((column + offset[0], row + offset[1]))
            keys.append((row % 64) * 64 + column % 64)
    points = np.array(points)
    checked = 0
    for row, column in np.random.default_rng(0).integers(0, canvas.side, (200, 2)):
        here = np.array([x[row, column], y[row, column]]) * 6.0
        distances = np.sqrt(((points - here) ** 2).sum(axis=1))
        order = np.argsort(distances)
        assert cells.nearest[row, column] == pytest.approx(distances[order[0]], abs=1e-12)
        # Feature points more than one cell away are not looked at, so the second may be overestimated, never under.
        assert cells.second[row, column] >= distances[order[1]] - 1e-12
        assert cells.key[row, column] == keys[order[0]]
        checked += 1
    assert checked == 200


def test_a_cell_has_one_random_number():
    canvas = _canvas()
    cells = worley(np.random.default_rng(5), *canvas.grid(), cells=5.0)
    numbers = per_cell(np.random.default_rng(6), cells)
    found = [np.unique(numbers[cells.key == key]) for key in np.unique(cells.key)]
    assert len(found) >= 25
    assert all(values.size == 1 for values in found)


def test_smoothstep_ramps_up_and_down():
    values = np.array([-1.0, 0.0, 0.25, 0.5, 1.0, 2.0])
    assert np.allclose(smoothstep(0.0, 1.0, values), [0.0, 0.0, 0.15625, 0.5, 1.0, 1.0])
    assert np.allclose(smoothstep(1.0, 0.0, values), [1.0, 1.0, 0.84375, 0.5, 0.0, 0.0])


def test_generators_of_a_canvas_depend_on_their_address_alone():
    canvas = _canvas(seed=9)
    first = canvas.rng("a").random(4)
    canvas.rng("b").random(100)
    assert np.array_equal(first, canvas.rng("a").random(4))
    assert not np.array_equal(first, canvas.rng("b").random(4))
    assert not np.array_equal(first, _canvas(seed=10).rng("a").random(4))


def test_a_canvas_refuses_sizes_it_cannot_draw():
    with pytest.raises(ValueError, match="at least 16 px"):
        Canvas(8, 2, 0)
