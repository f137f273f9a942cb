"""Glazed tiles in grout, and plain coatings: paint, plastic, paper, tablet mass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.sources.procedural.canvas import rotate, smoothstep
from anosynth.sources.procedural.noise import per_cell, spectral, worley
from anosynth.sources.procedural.surface import Color, Surface, lay, linear, paint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anosynth.sources.procedural.canvas import Canvas


@dataclass(frozen=True)
class Coating:
    """A plain coat: paint, plastic, paper or pressed powder.

    Attributes:
        color: sRGB.
        fleck: sRGB of the flecks.
        flecks: share of the area in flecks, [0, 1).
        fleck_scale: possible flecks per picture side.
        peel: height of the fine relief.
        peel_scale: finest bumps of the relief per picture side.
        mottle: how much the color varies, [0, 1].
        roughness: of the coat.
    """

    color: Color
    fleck: Color
    flecks: float
    fleck_scale: float
    peel: float
    peel_scale: float
    mottle: float
    roughness: float


def coating(material: Coating, canvas: Canvas, *, name: str) -> Surface:
    """Build the coat; `name` addresses its randomness on the canvas."""
    x, y = canvas.grid()
    peel = spectral(
        canvas.rng(name, "peel"), canvas, exponent=0.8, low=0.12 * material.peel_scale, high=material.peel_scale
    )
    slow = spectral(canvas.rng(name, "slow"), canvas, exponent=1.6, low=0.7, high=24.0)
    albedo = linear(material.color) * (1.0 + 0.06 * material.mottle * (1.4 * slow + peel))[:, :, None]
    if material.flecks > 0.0:
        warp = 0.25 / material.fleck_scale
        spots = worley(canvas.rng(name, "flecks"), x + warp * slow, y + warp * peel, cells=material.fleck_scale)
        drawn = per_cell(canvas.rng(name, "size"), spots)
        radius = 0.42 * np.maximum(drawn - (1.0 - 2.2 * material.flecks), 0.0) / (2.2 * material.flecks)
        albedo = paint(albedo, linear(material.fleck), 0.85 * smoothstep(0.10, -0.10, spots.nearest - radius - 0.08))
    roughness = np.clip(material.roughness + 0.03 * slow, 0.1, 1.0)
    return Surface(material.peel * peel, np.clip(albedo, 0.0, 1.0), roughness, np.zeros_like(peel))


@dataclass(frozen=True)
class Tile:
    """Glazed stoneware tiles set in grout.

    Attributes:
        color: sRGB of the glaze.
        vein: sRGB of the clouds and specks in it.
        clouds: strength of the clouds, [0, 1].
        specks: share of the area in specks, [0, 0.5].
        pitch: tiles per picture side; below 1 a tile is larger than the picture.
        gap: width of the grout.
        grout: sRGB of the grout.
        bevel: width of the rounded edge.
        tilt: slope by which tiles lean differently.
        waviness: height of the glaze's slow waves.
        gloss: 0 is matt, 1 is mirror glaze.
        phase_x, phase_y: where the tiles begin, in tiles.
        angle_deg: direction of the rows.
    """

    color: Color
    vein: Color
    clouds: float
    specks: float
    pitch: float
    gap: float
    grout: Color
    bevel: float
    tilt: float
    waviness: float
    gloss: float
    phase_x: float
    phase_y: float
    angle_deg: float


def tile(material: Tile, canvas: Canvas, *, name: str) -> Surface:
    """Build the tiled wall; `name` addresses its randomness on the canvas."""
    x, y = canvas.grid()
    layout = tile_layout(material, canvas)
    own = canvas.rng(name, "tiles").uniform(-1.0, 1.0, (3, 256))
    inside, rounding = layout.inside, material.bevel

    slow = spectral(canvas.rng(name, "slow"), canvas, exponent=1.7, low=0.8, high=5.0)
    cloud = spectral(canvas.rng(name, "cloud"), canvas, exponent=1.3, low=1.5, high=50.0)
    fine = spectral(canvas.rng(name, "fine"), canvas, exponent=0.5, low=20.0, high=110.0)
    grain = worley(canvas.rng(name, "specks"), x + 0.006 * fine, y + 0.006 * cloud, cells=46.0)
    drawn = per_cell(canvas.rng(name, "drawn"), grain)
    speck = np.where(drawn < 1.6 * material.specks, smoothstep(0.55, 0.25, grain.nearest), 0.0)
    veins = np.clip(material.clouds * (0.35 + 0.30 * cloud + 0.05 * fine) + 0.75 * speck, 0.0, 1.0)
    glaze = paint(linear(material.color), linear(material.vein), veins) * (1.0 + 0.05 * own[0][layout.key])[:, :, None]
    edge = smoothstep(0.0, rounding, inside)
    height = (
        0.9 * rounding * (np.sqrt(np.clip(1.0 - (1.0 - np.clip(inside / rounding, 0.0, 1.0)) ** 2, 0.0, 1.0)) - 1.0)
    )
    height = (
        height
        + material.waviness * slow
        + material.tilt * (own[1][layout.key] * layout.u + own[2][layout.key] * layout.v)
    )
    face = Surface(
        height,
        np.clip(glaze * (0.9 + 0.1 * edge)[:, :, None], 0.0, 1.0),
        np.clip(0.62 - 0.45 * material.gloss + 0.02 * fine, 0.1, 1.0),
        np.zeros_like(height),
    )
    sand = np.clip(1.0 + 0.10 * fine + 0.06 * cloud, 0.3, 1.6)
    joint = Surface(
        0.0007 * fine - 1.1 * rounding,
        np.clip(linear(material.grout) * sand[:, :, None], 0.0, 1.0),
        np.full_like(height, 0.95),
        np.zeros_like(height),
    )
    return lay(face, joint, cover=smoothstep(-0.002, 0.002, inside))


@dataclass(frozen=True, eq=False)
class TileLayout:
    """Which tile each point of the canvas is on, each field [N, N].

    Attributes:
        key: number of the tile, [0, 256).
        u, v: place in the tile, [-0.5, 0.5].
        inside: distance to the tile's edge, positive on the tile, in picture sides.
    """

    key: NDArray[np.int64]
    u: NDArray[np.float64]
    v: NDArray[np.float64]
    inside: NDArray[np.float64]


def tile_layout(material: Tile, canvas: Canvas) -> TileLayout:
    """Where the tiles of a wall lie."""
    along, across = rotate(*canvas.grid(), material.angle_deg)
    u, v = along * material.pitch + material.phase_x + 8.0, across * material.pitch + material.phase_y + 8.0
    column, row = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    local_u, local_v = u - column - 0.5, v - row - 0.5
    inside_u = (0.5 - np.abs(local_u)) / material.pitch - 0.5 * material.gap
    inside_v = (0.5 - np.abs(local_v)) / material.pitch - 0.5 * material.gap
    rounding = material.bevel
    corner = np.hypot(np.maximum(rounding - inside_u, 0.0), np.maximum(rounding - inside_v, 0.0))
    near_corner = (inside_u < rounding) & (inside_v < rounding)
    inside = np.where(near_corner, rounding - corner, np.minimum(inside_u, inside_v))
    return TileLayout((row & 15) * 16 + (column & 15), local_u, local_v, inside)
