"""Ordinary dirt: dust specks and lint, part of every sound surface and weaker than any defect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anosynth.sources.procedural.canvas import smoothstep
from anosynth.sources.procedural.strokes import bent_line, nearest
from anosynth.sources.procedural.surface import Surface

if TYPE_CHECKING:
    from anosynth.sources.procedural.canvas import Canvas


@dataclass(frozen=True)
class Dust:
    """What lies about.

    Attributes:
        specks: number of specks, about 0.4 % of the picture side wide.
        lint: number of short fibers, about 0.3 % of the picture side wide.
        cover: how much of the surface they hide, [0, 1].
        grey: linear reflectance of the dust.
    """

    specks: int
    lint: int
    cover: float
    grey: float


def scatter(dust: Dust, surface: Surface, canvas: Canvas, *, name: str) -> Surface:
    """Return the surface with dust on it; `name` addresses its randomness on the canvas."""
    rng = canvas.rng(name, "dust")
    lines, half_widths = [], []
    for number in range(dust.specks + dust.lint):
        fiber = number >= dust.specks
        center = (float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.5, 0.5)))
        length = float(rng.uniform(0.03, 0.07) if fiber else rng.uniform(0.001, 0.006))
        half = float(rng.uniform(0.0012, 0.0018) if fiber else rng.uniform(0.0018, 0.0035))
        turn, bend = float(rng.uniform(0.0, 180.0)), float(rng.uniform(-0.3, 0.3))
        lines.append(bent_line(rng, center=center, length=length, angle_deg=turn, bend=bend)[:: 6 if fiber else 24])
        half_widths.append(half)
    cover = dust.cover * smoothstep(1.5, 0.5, nearest(canvas, lines, half_widths=half_widths, reach=1.5))
    return Surface(
        surface.height,
        surface.albedo + cover[:, :, None] * (dust.grey - surface.albedo),
        surface.roughness + cover * (0.9 - surface.roughness),
        surface.metal * (1.0 - cover),
    )
