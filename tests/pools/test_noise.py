import numpy as np
import pytest

from anosynth.pools.noise import fractal_noise, perlin_noise


def naive_perlin(size: int, cells: int, gradients: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Perlin's definition, pixel by pixel, on an upright lattice."""

    def fade(t: float) -> float:
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    result = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            v = ((row + 0.5) / size - 0.5) * cells + phase[0]
            u = ((column + 0.5) / size - 0.5) * cells + phase[1]
            i, j = int(np.floor(v)), int(np.floor(u))
            total = 0.0
            for down in (0, 1):
                for right in (0, 1):
                    gradient = gradients[i + down, j + right]
                    dot = gradient[0] * (v - i - down) + gradient[1] * (u - j - right)
                    total += (
                        dot * (fade(v - i) if down else 1 - fade(v - i)) * (fade(u - j) if right else 1 - fade(u - j))
                    )
            result[row, column] = total * np.sqrt(2)
    return result


def test_noise_equals_its_definition() -> None:
    noise = perlin_noise((24, 24), cells=(3.0, 3.0), angle_rad=0.0, rng=np.random.default_rng(5))
    rng = np.random.default_rng(5)
    phase = rng.random(2)
    lowest = np.floor(-0.5 * 3 * 23 / 24 + phase).astype(int)
    highest = np.floor(0.5 * 3 * 23 / 24 + phase).astype(int)
    turn = rng.uniform(0, 2 * np.pi, size=tuple(highest - lowest + 2))
    gradients = np.stack([np.sin(turn), np.cos(turn)], axis=-1)
    shifted = {
        (i, j): gradients[i - lowest[0], j - lowest[1]]
        for i in range(lowest[0], highest[0] + 2)
        for j in range(lowest[1], highest[1] + 2)
    }
    np.testing.assert_allclose(noise, naive_perlin(24, 3, shifted, phase), atol=1e-12)


@pytest.mark.parametrize("size", [(40, 40), (17, 60), (1, 9)])
@pytest.mark.parametrize("cells", [(1.0, 1.0), (4.0, 16.0), (7.3, 0.5)])
def test_any_size_and_lattice_stays_within_one(size: tuple[int, int], cells: tuple[float, float]) -> None:
    for seed in range(3):
        noise = perlin_noise(size, cells=cells, angle_rad=float(seed), rng=np.random.default_rng(seed))
        assert noise.shape == size
        assert np.abs(noise).max() <= 1.0


def test_more_cells_make_finer_noise() -> None:
    def roughness(cells: float) -> float:
        noise = fractal_noise((64, 64), cells=cells, octaves=1, persistence=0.5, rng=np.random.default_rng(0))
        return float(np.abs(np.diff(noise, axis=0)).mean() / noise.std())

    assert roughness(2.0) < roughness(8.0) < roughness(24.0)
