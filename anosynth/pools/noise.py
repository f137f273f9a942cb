"""Gradient noise on pictures of any size (Perlin 1985; fade curve of Perlin 2002)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def perlin_noise(
    size: tuple[int, int], *, cells: tuple[float, float], angle_rad: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw one octave of gradient noise.

    Args:
        size: (height, width) of the result, pixels.
        cells: lattice cells along the height and the width, each above 0; more cells, finer noise.
        angle_rad: the lattice is turned by this angle about the middle of the picture.
        rng: draws the lattice's phase and the gradients.

    Returns:
        [H, W] in [-1, 1], mean near 0; sqrt(2) times the dot-product form, whose bound is sqrt(1/2).
    """
    height, width = size
    rows = (np.arange(height) + 0.5) / height - 0.5
    columns = (np.arange(width) + 0.5) / width - 0.5
    y, x = rows[:, None] + 0.0 * columns, columns + 0.0 * rows[:, None]
    sin, cos = math.sin(angle_rad), math.cos(angle_rad)
    phase_y, phase_x = rng.random(2)
    v = (cos * y - sin * x) * cells[0] + phase_y
    u = (sin * y + cos * x) * cells[1] + phase_x
    top, left = int(np.floor(v.min())), int(np.floor(u.min()))
    i, j = np.floor(v).astype(np.int64), np.floor(u).astype(np.int64)
    turn = rng.uniform(0.0, 2.0 * np.pi, size=(int(i.max()) - top + 2, int(j.max()) - left + 2))
    gradient_y, gradient_x = np.sin(turn), np.cos(turn)
    v, u = v - i, u - j
    i, j = i - top, j - left

    def corner(down: int, right: int) -> NDArray[np.float64]:
        at = (i + down, j + right)
        return np.asarray(gradient_y[at] * (v - down) + gradient_x[at] * (u - right))

    fade_v, fade_u = _fade(v), _fade(u)
    upper = corner(0, 0) + fade_u * (corner(0, 1) - corner(0, 0))
    lower = corner(1, 0) + fade_u * (corner(1, 1) - corner(1, 0))
    return np.asarray(math.sqrt(2.0) * (upper + fade_v * (lower - upper)))


def fractal_noise(
    size: tuple[int, int], *, cells: float, octaves: int, persistence: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Sum octaves of `perlin_noise`, each of twice the cells and `persistence` times the height: [H, W] in [-1, 1]."""
    total, heights = np.zeros(size), 0.0
    for octave in range(octaves):
        height = persistence**octave
        angle = float(rng.uniform(0.0, 2.0 * np.pi))
        total += height * perlin_noise(size, cells=(cells * 2**octave, cells * 2**octave), angle_rad=angle, rng=rng)
        heights += height
    return total / heights


def _fade(t: NDArray[np.float64]) -> NDArray[np.float64]:
    return t * t * t * (t * (t * 6.0 - 15.0) + 10.0)
