"""Sawn and finished wood: growth rings cut by a plane, fibers and pores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.sources.procedural.canvas import rotate, smoothstep
from anosynth.sources.procedural.noise import spectral
from anosynth.sources.procedural.surface import Color, Surface, linear, paint

if TYPE_CHECKING:
    from anosynth.sources.procedural.canvas import Canvas


@dataclass(frozen=True)
class Wood:
    """A board.

    Attributes:
        early, late: sRGB of the light and of the dark part of a ring.
        rings: growth rings per picture side.
        pith_x: where the tree's axis passes beside the picture's middle, in picture sides across the grain.
        pith_depth: how deep the axis lies below the board; large values give straight grain.
        tilt: slope of the axis; makes flames (cathedrals).
        waviness: how far the grain wanders, in rings.
        pores: how strongly pores are drawn, [0, 1].
        relief: height of the fibers.
        gloss: 0 is raw, 1 is lacquered.
        angle_deg: direction of the grain, 90 is vertical.
    """

    early: Color
    late: Color
    rings: float
    pith_x: float
    pith_depth: float
    tilt: float
    waviness: float
    pores: float
    relief: float
    gloss: float
    angle_deg: float


def wood(material: Wood, canvas: Canvas, *, name: str) -> Surface:
    """Build the board; `name` addresses its randomness on the canvas."""
    along, across = rotate(*canvas.grid(), material.angle_deg)
    turn = material.angle_deg
    wander = spectral(canvas.rng(name, "wander"), canvas, exponent=1.8, low=0.7, high=12.0, stretch=3.5, angle_deg=turn)
    fiber = spectral(
        canvas.rng(name, "fiber"), canvas, exponent=0.4, low=12.0, high=110.0, stretch=22.0, angle_deg=turn
    )
    pore = spectral(canvas.rng(name, "pore"), canvas, exponent=0.0, low=30.0, high=100.0, stretch=9.0, angle_deg=turn)
    tone = spectral(canvas.rng(name, "tone"), canvas, exponent=1.5, low=0.7, high=8.0, stretch=5.0, angle_deg=turn)
    distance = np.hypot(across - material.pith_x, material.pith_depth + material.tilt * along)
    ring = distance * material.rings + material.waviness * wander + 0.05 * fiber
    years = canvas.rng(name, "years").random(4096)
    year = np.floor(ring).astype(np.int64)
    phase = ring - year
    dark_year = 0.55 + 0.45 * years[year & 4095]
    late = dark_year * smoothstep(0.15, 0.86, phase) ** 2 * smoothstep(1.0, 0.93, phase)
    pores = material.pores * np.clip((pore - 1.1) * 1.2, 0.0, 1.0) * (0.35 + 0.65 * (1.0 - late))
    amount = np.clip(0.12 + 0.72 * late + 0.10 * fiber + 0.10 * tone, 0.0, 1.2)
    albedo = paint(linear(material.early), linear(material.late), amount)
    albedo = np.clip(albedo * (1.0 + 0.05 * tone - 0.55 * pores)[:, :, None], 0.0, 1.0)
    height = material.relief * (0.5 * fiber + 0.8 * late - 2.5 * pores)
    roughness = np.clip(0.75 - 0.4 * material.gloss + 0.05 * fiber + 0.15 * pores - 0.06 * late, 0.2, 1.0)
    return Surface(height, albedo, roughness, np.zeros_like(height))
