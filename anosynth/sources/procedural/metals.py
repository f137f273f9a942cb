"""Bare metals: cast, brushed and turned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.sources.procedural.canvas import smoothstep
from anosynth.sources.procedural.noise import per_cell, spectral, worley
from anosynth.sources.procedural.surface import Color, Surface, linear

if TYPE_CHECKING:
    from anosynth.sources.procedural.canvas import Canvas


@dataclass(frozen=True)
class CastMetal:
    """A sand-cast skin: grains, pits and a rolling ground.

    Attributes:
        color: sRGB of the metal.
        grain: grains per picture side.
        relief: height of the grains.
        rolling: height of the slow ups and downs.
        pitting: share of the area in pits, [0, 0.3].
        mottle: how much the color varies, [0, 1].
        roughness: of the skin.
        bare: share of bare metal, the rest is oxide that scatters light, [0, 1].
    """

    color: Color
    grain: float
    relief: float
    rolling: float
    pitting: float
    mottle: float
    roughness: float
    bare: float


def cast_metal(material: CastMetal, canvas: Canvas, *, name: str) -> Surface:
    """Build the skin; `name` addresses its randomness on the canvas."""
    x, y = canvas.grid()
    fine = spectral(
        canvas.rng(name, "fine"), canvas, exponent=0.6, low=0.25 * material.grain, high=2.2 * material.grain
    )
    slow = spectral(canvas.rng(name, "slow"), canvas, exponent=1.6, low=0.7, high=10.0)
    warp = 0.12 / material.grain
    sand = worley(canvas.rng(name, "sand"), x + warp * fine, y + warp * slow, cells=material.grain)
    grains = per_cell(canvas.rng(name, "size"), sand)
    dome = 1.0 - np.minimum(sand.nearest, 1.0) ** 2
    height = material.relief * (0.6 * dome * (0.4 + grains) + 0.45 * fine) + material.rolling * slow
    pits = worley(canvas.rng(name, "pits"), x + 0.004 * fine, y, cells=0.28 * material.grain)
    chosen = per_cell(canvas.rng(name, "pitted"), pits) < 4.0 * material.pitting
    pit = np.where(chosen, smoothstep(0.34, 0.12, pits.nearest), 0.0)
    height -= 2.2 * material.relief * pit
    shade = 1.0 + material.mottle * (0.16 * slow + 0.10 * fine + 0.25 * (grains - 0.5)) - 0.4 * pit
    albedo = linear(material.color) * np.clip(shade, 0.15, 2.0)[:, :, None]
    roughness = np.clip(material.roughness + 0.06 * fine + 0.1 * pit, 0.15, 1.0)
    return Surface(height, np.clip(albedo, 0.0, 1.0), roughness, material.bare * (1.0 - 0.6 * pit))


@dataclass(frozen=True)
class BrushedMetal:
    """A ground or brushed sheet: long fine grooves in one direction.

    Attributes:
        color: sRGB of the metal.
        grooves: finest grooves per picture side.
        stretch: length of a groove over its width.
        relief: height of the grooves.
        streaks: how much broad streaks differ in gloss, [0, 1].
        bow: height of the slow waves of the sheet.
        roughness: of the metal between the grooves.
        angle_deg: direction of the grooves, 0 is +x.
    """

    color: Color
    grooves: float
    stretch: float
    relief: float
    streaks: float
    bow: float
    roughness: float
    angle_deg: float


def brushed_metal(material: BrushedMetal, canvas: Canvas, *, name: str) -> Surface:
    """Build the sheet; `name` addresses its randomness on the canvas."""
    turn = material.angle_deg
    fine = spectral(
        canvas.rng(name, "fine"),
        canvas,
        exponent=0.3,
        low=0.15 * material.grooves,
        high=material.grooves,
        stretch=material.stretch,
        angle_deg=turn,
    )
    broad = spectral(
        canvas.rng(name, "broad"),
        canvas,
        exponent=0.7,
        low=1.5,
        high=30.0,
        stretch=1.5 * material.stretch,
        angle_deg=turn,
    )
    bow = spectral(canvas.rng(name, "bow"), canvas, exponent=2.0, low=0.7, high=4.0)
    deep = np.maximum(fine - 1.2, 0.0)
    height = material.relief * (0.5 * fine - 1.2 * deep + 0.5 * broad) + material.bow * bow
    gloss = 1.0 + material.streaks * (0.10 * broad + 0.06 * fine) - 0.12 * deep
    albedo = np.clip(linear(material.color) * np.clip(gloss, 0.3, 1.5)[:, :, None], 0.0, 1.0)
    roughness = np.clip(material.roughness * (1.0 - 0.12 * material.streaks * broad), 0.12, 1.0)
    return Surface(height, albedo, roughness, np.ones_like(height))


@dataclass(frozen=True)
class TurnedMetal:
    """A face turned on a lathe: concentric tool marks around a center.

    Attributes:
        color: sRGB of the metal.
        marks: tool marks per picture side along the radius.
        relief: height of the marks.
        wear: how much the gloss varies in blotches, [0, 1].
        roughness: of the metal.
        center_x, center_y: of the turning, in picture sides.
    """

    color: Color
    marks: float
    relief: float
    wear: float
    roughness: float
    center_x: float
    center_y: float


def turned_metal(material: TurnedMetal, canvas: Canvas, *, name: str) -> Surface:
    """Build the face; `name` addresses its randomness on the canvas."""
    x, y = canvas.grid()
    blotch = spectral(canvas.rng(name, "blotch"), canvas, exponent=1.2, low=1.5, high=40.0)
    fine = spectral(canvas.rng(name, "fine"), canvas, exponent=0.3, low=20.0, high=110.0)
    radius = np.hypot(x - material.center_x, y - material.center_y)
    rng = canvas.rng(name, "marks")
    groove = np.zeros_like(radius)
    for multiple in (0.23, 0.41, 0.67, 1.0, 1.37):
        phase = rng.random()
        groove += np.cos(2.0 * np.pi * (radius * material.marks * multiple + phase) + 0.5 * blotch) * rng.uniform(
            0.3, 1.0
        )
    height = material.relief * (0.35 * groove + 0.25 * fine)
    gloss = 1.0 + material.wear * (0.12 * blotch + 0.05 * fine) + 0.03 * groove
    albedo = np.clip(linear(material.color) * np.clip(gloss, 0.3, 1.6)[:, :, None], 0.0, 1.0)
    roughness = np.clip(material.roughness * (1.0 - 0.2 * material.wear * blotch), 0.12, 1.0)
    return Surface(height, albedo, roughness, np.ones_like(height))
