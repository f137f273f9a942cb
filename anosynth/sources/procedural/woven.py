"""Woven cloth: warp and weft yarns that rise and dive, each with its own thickness and shade."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.sources.procedural.canvas import rotate
from anosynth.sources.procedural.noise import spectral
from anosynth.sources.procedural.surface import Color, Surface, linear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anosynth.sources.procedural.canvas import Canvas


@dataclass(frozen=True)
class Weave:
    """A cloth.

    Attributes:
        warp, weft: sRGB of the yarns.
        yarns: yarns per picture side.
        float_yarns: yarns a yarn passes over at once: 1 is plain weave, 2 is 2/2 twill.
        thickness: of a yarn over its pitch, [0.6, 1.1].
        relief: height of a yarn over its pitch, [0, 1].
        unevenness: variation of shade and thickness from yarn to yarn, [0, 1].
        wander: how far the yarns leave the straight line, in yarns.
        twist: strands seen on a yarn, [0, 1].
        fuzz: loose fibers, [0, 1].
        angle_deg: direction of the weft.
    """

    warp: Color
    weft: Color
    yarns: float
    float_yarns: int
    thickness: float
    relief: float
    unevenness: float
    wander: float
    twist: float
    fuzz: float
    angle_deg: float


@dataclass(frozen=True)
class LostYarn:
    """Warp yarns missing over a part of their length.

    Attributes:
        x, y: middle of the gap, in picture sides.
        length: of the gap, in picture sides.
        count: adjacent yarns missing.
    """

    x: float
    y: float
    length: float
    count: int


def weave(material: Weave, canvas: Canvas, *, name: str, lost: LostYarn | None = None) -> Surface:
    """Build the cloth; `name` addresses its randomness on the canvas, `lost` leaves yarns out of the same cloth."""
    along, across = rotate(*canvas.grid(), material.angle_deg)
    drift = [spectral(canvas.rng(name, "drift", axis), canvas, exponent=1.4, low=0.7, high=12.0) for axis in ("x", "y")]
    fuzz = spectral(canvas.rng(name, "fuzz"), canvas, exponent=0.3, low=1.2 * material.yarns, high=5.0 * material.yarns)
    u = (along + 0.5) * material.yarns + material.wander * drift[0] + 64.0
    v = (across + 0.5) * material.yarns + material.wander * drift[1] + 64.0
    warp = _yarns(material, canvas, (name, "warp"), u, v, phase=0.0)
    weft = _yarns(material, canvas, (name, "weft"), v, u, phase=float(material.float_yarns))
    if lost is not None:
        warp = _without(warp, material, lost, u, v)
    top = warp.height >= weft.height
    pitch = 1.0 / material.yarns
    height = np.where(top, warp.height, weft.height)
    shade = np.where(top, warp.shade, weft.shade)
    depth = np.clip(0.55 + 0.75 * height, 0.25, 1.0)
    shade = shade * depth * (1.0 + 0.10 * material.fuzz * fuzz)
    color = np.where(top[:, :, None], linear(material.warp), linear(material.weft))
    height = material.relief * pitch * (height + 0.10 * material.fuzz * fuzz)
    albedo = np.clip(color * shade[:, :, None], 0.0, 1.0)
    return Surface(height, albedo, np.full_like(height, 0.85), np.zeros_like(height))


@dataclass(frozen=True, eq=False)
class _Yarns:
    height: NDArray[np.float64]
    shade: NDArray[np.float64]


def _without(warp: _Yarns, material: Weave, lost: LostYarn, u: NDArray[np.float64], v: NDArray[np.float64]) -> _Yarns:
    along, across = rotate(np.array(lost.x), np.array(lost.y), material.angle_deg)
    first = np.floor((float(along) + 0.5) * material.yarns + 64.0)
    middle = (float(across) + 0.5) * material.yarns + 64.0
    number = np.floor(u)
    gone = (number >= first) & (number < first + lost.count)
    ends = 0.5 * lost.length * material.yarns + 0.6 * np.sin(7.0 * number)
    gone &= np.abs(v - middle) < ends
    return _Yarns(np.where(gone, -1.2, warp.height), np.where(gone, 0.2, warp.shade))


def _yarns(
    material: Weave,
    canvas: Canvas,
    address: tuple[str, str],
    across: NDArray[np.float64],
    along: NDArray[np.float64],
    *,
    phase: float,
) -> _Yarns:
    """Height (in pitches, about [-1, 0.6]) and shade of the yarns that lie at whole numbers of `across`."""
    number = np.floor(across).astype(np.int64)
    table = canvas.rng(*address).standard_normal((3, 1024))
    index = number & 1023
    width = material.thickness * (1.0 + 0.10 * material.unevenness * table[0][index])
    side = (across - number - 0.5) / (0.5 * width)
    crown = np.sqrt(np.maximum(1.0 - side * side, 0.0))
    period = 2.0 * material.float_yarns
    wave = np.sin(2.0 * np.pi * (along - number + phase) / period)
    wave = wave * (1.35 if material.float_yarns > 1 else 1.0)
    height = 0.5 * crown + 0.5 * np.clip(wave, -1.0, 1.0) - 0.4
    height = np.where(np.abs(side) < 1.0, height, -1.2)
    strands = np.sin(2.0 * np.pi * (1.6 * along + 0.9 * side + table[1][index]))
    shade = 1.0 + 0.11 * material.unevenness * table[2][index] + 0.10 * material.twist * strands
    return _Yarns(height + 0.05 * material.twist * strands * crown, shade)
