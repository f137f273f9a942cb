"""Defects drawn along a line: scratches and cracks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from anosynth.sources.procedural.canvas import smoothstep
from anosynth.sources.procedural.strokes import Place, bent_line, jagged_line, stroke
from anosynth.sources.procedural.surface import Surface

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anosynth.sources.procedural.canvas import Canvas


@dataclass(frozen=True)
class Scratch:
    """A groove with a raised burr.

    Attributes:
        length, width: of the groove.
        depth: of the groove; the burr is a third as high.
        plough: share of the surface's own relief that is gone in the groove, [0, 1].
        bend: sagitta over length.
        tone: of the laid-open material, -1 is black, 0 as before, 1 is white.
        finish: change of roughness.
        twins: number of parallel grooves, 1 to 3.
    """

    length: float
    width: float
    depth: float
    plough: float
    bend: float
    tone: float
    finish: float
    twins: int


def scratch(defect: Scratch, surface: Surface, canvas: Canvas, place: Place, rng: np.random.Generator) -> Surface:
    """Plough the grooves, throw up the burr and lay open what is below."""
    height, albedo, roughness = surface.height, surface.albedo, surface.roughness
    smooth = ndimage.uniform_filter(height, 2 * round(0.02 * canvas.side) + 1, mode="nearest")
    turn = np.deg2rad(place.angle_deg + 90.0)
    for twin in range(defect.twins):
        shift = twin * defect.width * rng.uniform(2.2, 4.0)
        center = (place.x + shift * float(np.cos(turn)), place.y + shift * float(np.sin(turn)))
        length = defect.length * (1.0 if twin == 0 else rng.uniform(0.4, 0.8))
        line = bent_line(rng, center=center, length=length, angle_deg=place.angle_deg, bend=defect.bend)
        path = stroke(canvas, line, reach=2.5 * defect.width)
        t = path.progress
        taper = np.clip(np.minimum(t, 1.0 - t) * 7.0, 0.25, 1.0)
        wobble = 1.0 + 0.08 * np.sin(2.0 * np.pi * (t * rng.uniform(4.0, 9.0) + rng.random()))
        half = 0.5 * defect.width * taper * wobble
        groove = smoothstep(1.0, 0.35, path.distance / half)
        burr = np.where(path.side > 0.0, 1.0, 0.4) * np.exp(-(((path.distance / half - 1.45) / 0.4) ** 2))
        height = height + defect.plough * groove * (smooth - height) - defect.depth * taper * (groove - 0.33 * burr)
        albedo = _toned(albedo, defect.tone * groove)
        roughness = np.clip(roughness + defect.finish * groove, 0.1, 1.0)
    return Surface(height, albedo, roughness, surface.metal)


@dataclass(frozen=True)
class Crack:
    """A thin dark fissure with branches.

    Attributes:
        length, width: of the main fissure.
        depth: of the fissure.
        jag: first sideways step over the length.
        branches: number of side fissures.
        dark: how much light is lost in it, [0, 1].
    """

    length: float
    width: float
    depth: float
    jag: float
    branches: int
    dark: float


def crack(defect: Crack, surface: Surface, canvas: Canvas, place: Place, rng: np.random.Generator) -> Surface:
    """Open the fissure and its branches."""
    turn = np.deg2rad(place.angle_deg)
    start = (
        place.x - 0.5 * defect.length * float(np.cos(turn)),
        place.y - 0.5 * defect.length * float(np.sin(turn)),
    )
    trunk = jagged_line(rng, start=start, length=defect.length, angle_deg=place.angle_deg, jag=defect.jag)
    open_share = np.zeros_like(surface.height)
    for branch in range(defect.branches + 1):
        if branch == 0:
            line, width = trunk, defect.width
        else:
            joint = trunk[int(rng.integers(6, 27))]
            side = rng.choice([-1.0, 1.0]) * rng.uniform(28.0, 65.0)
            line = jagged_line(
                rng,
                start=(float(joint[0]), float(joint[1])),
                length=defect.length * rng.uniform(0.18, 0.42),
                angle_deg=place.angle_deg + float(side),
                jag=defect.jag,
            )
            width = 0.7 * defect.width
        path = stroke(canvas, line, reach=2.0 * width)
        thinning = 1.0 - 0.6 * path.progress if branch else 1.0 - 0.65 * np.abs(2.0 * path.progress - 0.8) ** 2
        open_share = np.maximum(open_share, smoothstep(1.15, 0.5, path.distance / (0.5 * width * thinning)))
    albedo = surface.albedo * (1.0 - defect.dark * open_share)[:, :, None]
    return Surface(
        surface.height - defect.depth * open_share,
        albedo,
        np.clip(surface.roughness + 0.3 * open_share, 0.0, 1.0),
        surface.metal * (1.0 - 0.8 * open_share),
    )


def _toned(albedo: NDArray[np.float64], tone: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move an albedo towards black (tone < 0) or white (tone > 0)."""
    up, down = np.maximum(tone, 0.0)[:, :, None], np.maximum(-tone, 0.0)[:, :, None]
    pale = 0.4 + 0.55 * albedo / np.maximum(albedo.max(axis=2, keepdims=True), 1e-3)
    return np.clip(albedo * (1.0 - down) * (1.0 - up) + pale * up, 0.0, 1.0)
