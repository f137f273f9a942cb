"""Leather: pebbles between creases, pores and slow folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.sources.procedural.canvas import rotate, smoothstep
from anosynth.sources.procedural.noise import per_cell, spectral, worley
from anosynth.sources.procedural.surface import Color, Surface, linear

if TYPE_CHECKING:
    from anosynth.sources.procedural.canvas import Canvas


@dataclass(frozen=True)
class Leather:
    """A dressed hide.

    Attributes:
        color: sRGB of the pebbles.
        pebbles: per picture side.
        stretch: length of a pebble over its width, >= 1.
        relief: height of the pebbles.
        crease: how dark the creases are, [0, 1].
        folds: height of the slow folds.
        mottle: how much the color varies, [0, 1].
        gloss: 0 is nubuck, 1 is patent leather.
        angle_deg: direction of the stretch.
    """

    color: Color
    pebbles: float
    stretch: float
    relief: float
    crease: float
    folds: float
    mottle: float
    gloss: float
    angle_deg: float


def leather(material: Leather, canvas: Canvas, *, name: str) -> Surface:
    """Build the hide; `name` addresses its randomness on the canvas."""
    warp_x = spectral(canvas.rng(name, "warp", "x"), canvas, exponent=1.0, low=1.0, high=1.2 * material.pebbles)
    warp_y = spectral(canvas.rng(name, "warp", "y"), canvas, exponent=1.0, low=1.0, high=1.2 * material.pebbles)
    fine = spectral(canvas.rng(name, "fine"), canvas, exponent=0.4, low=material.pebbles, high=5.0 * material.pebbles)
    slow = spectral(canvas.rng(name, "slow"), canvas, exponent=1.8, low=0.7, high=6.0)
    along, across = rotate(*canvas.grid(), material.angle_deg)
    wobble = 0.30 / material.pebbles
    u, v = along / material.stretch + wobble * warp_x, across + wobble * warp_y
    large = worley(canvas.rng(name, "large"), u, v, cells=material.pebbles, jitter=0.9)
    small = worley(canvas.rng(name, "small"), u, v, cells=2.1 * material.pebbles, jitter=1.0)
    lift = per_cell(canvas.rng(name, "lift"), large)
    pebble = smoothstep(0.0, 0.30, large.border)
    grain = smoothstep(0.0, 0.30, small.border)
    dome = np.sqrt(np.clip(1.0 - 1.1 * large.nearest**2, 0.0, 1.0))
    body = pebble * (0.45 + 0.2 * lift) * (0.85 + 0.15 * grain) + 0.55 * dome
    height = material.relief * (body + 0.05 * fine) + material.folds * slow
    shade = 1.0 - material.crease * (0.62 * (1.0 - pebble) + 0.16 * (1.0 - grain))
    shade = shade * (1.0 + material.mottle * (0.14 * slow + 0.06 * fine + 0.14 * (lift - 0.5)))
    albedo = np.clip(linear(material.color) * np.clip(shade, 0.1, 2.0)[:, :, None], 0.0, 1.0)
    roughness = np.clip(0.80 - 0.45 * material.gloss + 0.2 * (1.0 - pebble) + 0.03 * fine, 0.2, 1.0)
    return Surface(height, albedo, roughness, np.zeros_like(height))
