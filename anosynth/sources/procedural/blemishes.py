"""Defects that cover an area: dents, stains, holes and chips."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from anosynth.sources.procedural.canvas import smoothstep
from anosynth.sources.procedural.noise import spectral
from anosynth.sources.procedural.strokes import Place, ragged_disc
from anosynth.sources.procedural.surface import Color, Surface, lay, linear

if TYPE_CHECKING:
    from anosynth.sources.procedural.canvas import Canvas


@dataclass(frozen=True)
class Dent:
    """A smooth hollow with a raised rim.

    Attributes:
        radius: of the hollow.
        aspect: length over width.
        depth: of the hollow.
        rim: height of the rim over the depth.
        scuff: change of roughness inside.
    """

    radius: float
    aspect: float
    depth: float
    rim: float
    scuff: float


def dent(defect: Dent, surface: Surface, canvas: Canvas, place: Place, rng: np.random.Generator) -> Surface:
    """Press the hollow and its rim."""
    r = ragged_disc(
        rng,
        canvas,
        center=(place.x, place.y),
        radius=defect.radius,
        aspect=defect.aspect,
        angle_deg=place.angle_deg,
        raggedness=0.25,
    )
    hollow = np.where(r < 1.0, (1.0 - np.minimum(r, 1.0) ** 2) ** 1.5, 0.0)
    rim = defect.rim * np.where(np.abs(r - 1.0) < 0.3, (1.0 - ((r - 1.0) / 0.3) ** 2) ** 2, 0.0)
    inner = smoothstep(1.05, 0.8, r)
    return Surface(
        surface.height - defect.depth * (hollow - rim),
        surface.albedo,
        np.clip(surface.roughness + defect.scuff * inner, 0.1, 1.0),
        surface.metal,
    )


@dataclass(frozen=True)
class Stain:
    """A foreign substance that dried on the surface.

    Attributes:
        radius, aspect, raggedness: shape of the blot.
        color: sRGB of the substance.
        strength: how much it covers in its middle, (0, 1].
        ring: extra cover of the dried rim, [0, 1].
        softness: width of the fading border over the radius, (0, 1].
        patches: how uneven the cover is, [0, 1].
        finish: roughness of the substance.
        soak: share of the surface's own relief and metal it hides, [0, 1].
    """

    radius: float
    aspect: float
    raggedness: float
    color: Color
    strength: float
    ring: float
    softness: float
    patches: float
    finish: float
    soak: float


def stain(defect: Stain, surface: Surface, canvas: Canvas, place: Place, rng: np.random.Generator) -> Surface:
    """Dry the substance on the surface; its heights stay."""
    r = ragged_disc(
        rng,
        canvas,
        center=(place.x, place.y),
        radius=defect.radius,
        aspect=defect.aspect,
        angle_deg=place.angle_deg,
        raggedness=defect.raggedness,
    )
    body = smoothstep(1.0 + 0.4 * defect.softness, 1.0 - 0.6 * defect.softness, r)
    ring = defect.ring * np.exp(-(((r - 0.93) / 0.10) ** 2))
    uneven = spectral(rng, canvas, exponent=1.0, low=4.0, high=48.0)
    uneven = 1.0 + defect.patches * np.clip(0.35 * uneven, -0.7, 0.5)
    amount = np.clip((defect.strength * uneven + ring) * body, 0.0, 0.97)
    color = linear(defect.color)
    # A film darkens by absorption (multiply) and, where it is thick, shows its own color.
    filmed = surface.albedo * (1.0 - amount[:, :, None] * (1.0 - color))
    solid = surface.albedo + amount[:, :, None] * (color - surface.albedo)
    hide = defect.soak * body
    return Surface(
        surface.height,
        0.5 * filmed + 0.5 * solid,
        surface.roughness + amount * (defect.finish - surface.roughness),
        surface.metal * (1.0 - hide),
    )


@dataclass(frozen=True)
class Hole:
    """A deep hole with a raised rim.

    Attributes:
        radius, aspect, raggedness: shape of the mouth.
        depth: of the hole.
        burr: height of the rim.
        color: sRGB of what is seen inside.
    """

    radius: float
    aspect: float
    raggedness: float
    depth: float
    burr: float
    color: Color


def hole(defect: Hole, surface: Surface, canvas: Canvas, place: Place, rng: np.random.Generator) -> Surface:
    """Bore the hole and turn up its rim."""
    r = ragged_disc(
        rng,
        canvas,
        center=(place.x, place.y),
        radius=defect.radius,
        aspect=defect.aspect,
        angle_deg=place.angle_deg,
        raggedness=defect.raggedness,
    )
    opening = smoothstep(1.0, 0.82, r)
    burr = defect.burr * np.exp(-(((r - 1.08) / 0.14) ** 2))
    wall = smoothstep(1.0, 0.35, r)
    inside = linear(defect.color) * (1.0 - 0.6 * wall)[:, :, None]
    return Surface(
        surface.height + burr - defect.depth * wall,
        surface.albedo + opening[:, :, None] * (inside - surface.albedo),
        surface.roughness + opening * (0.95 - surface.roughness),
        surface.metal * (1.0 - opening),
    )


@dataclass(frozen=True)
class Chip:
    """A piece broken off at an edge.

    Attributes:
        radius, aspect, raggedness: shape of the scar.
        depth: how much is gone; where nothing is left the ground is seen.
        core: sRGB of the fracture.
        terraces: height of the steps of the fracture over the depth, [0, 0.5].
        roughness: of the fracture.
        metal: metalness of the fracture.
    """

    radius: float
    aspect: float
    raggedness: float
    depth: float
    core: Color
    terraces: float
    roughness: float
    metal: float


def chip(
    defect: Chip,
    surface: Surface,
    canvas: Canvas,
    place: Place,
    ground: Surface | None,
    rng: np.random.Generator,
) -> Surface:
    """Break the piece off; where less than nothing is left of it the ground is seen."""
    r = ragged_disc(
        rng,
        canvas,
        center=(place.x, place.y),
        radius=defect.radius,
        aspect=defect.aspect,
        angle_deg=place.angle_deg,
        raggedness=defect.raggedness,
    )
    gone = smoothstep(1.0, 0.93, r)
    scoop = gone * (0.35 + 0.65 * np.sqrt(np.maximum(1.0 - np.minimum(r, 1.0), 0.0)))
    step = 4.0 * r - np.floor(4.0 * r) - 0.5
    height = surface.height - defect.depth * scoop * (1.0 + defect.terraces * step)
    core = linear(defect.core) * (1.0 + 0.2 * defect.terraces * step)[:, :, None]
    fracture = Surface(
        height,
        np.clip(surface.albedo + gone[:, :, None] * (core - surface.albedo), 0.0, 1.0),
        surface.roughness + gone * (defect.roughness - surface.roughness),
        surface.metal + gone * (defect.metal - surface.metal),
    )
    if ground is None:
        return fracture
    through = smoothstep(0.004, 0.0, height - ground.height) * gone
    standing = replace(fracture, height=np.maximum(height, ground.height))
    return lay(ground, standing, cover=through)
