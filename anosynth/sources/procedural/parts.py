"""Objects on a ground: a washer and a tablet, each with a pose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.sources.procedural.canvas import rotate, smoothstep
from anosynth.sources.procedural.strokes import digits, nearest
from anosynth.sources.procedural.surface import Surface, lay

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anosynth.sources.procedural.canvas import Canvas


@dataclass(frozen=True)
class Pose:
    """Where an object lies: middle (x, y) in picture sides and turn; angle 0 is as drawn."""

    x: float
    y: float
    angle_deg: float


@dataclass(frozen=True, eq=False)
class Part:
    """An object lying on its ground.

    Attributes:
        surface: both together.
        ground: the ground alone.
        cover: share of each point that the object covers, [N, N].
        inside: distance to the object's outline, positive inside, [N, N], picture sides.
    """

    surface: Surface
    ground: Surface
    cover: NDArray[np.float64]
    inside: NDArray[np.float64]


@dataclass(frozen=True)
class Washer:
    """A flat ring with rounded edges and a stamped number.

    Attributes:
        outer, inner: radii.
        edge: width of the rounded edges.
        thickness: of the ring.
        stamp: digits stamped into the face.
        stamp_height: height of a digit.
        stamp_depth: how deep it is.
    """

    outer: float
    inner: float
    edge: float
    thickness: float
    stamp: str
    stamp_height: float
    stamp_depth: float


def washer(shape: Washer, pose: Pose, *, face: Surface, ground: Surface, canvas: Canvas) -> Part:
    """Cut a ring out of the surface `face` and lay it on `ground`."""
    x, y = canvas.grid()
    radius = np.hypot(x - pose.x, y - pose.y)
    inside = np.minimum(shape.outer - radius, radius - shape.inner)
    turn = np.deg2rad(pose.angle_deg)
    middle = 0.5 * (shape.outer + shape.inner)
    at = (pose.x + middle * float(np.sin(turn)), pose.y - middle * float(np.cos(turn)))
    number = digits(
        canvas,
        shape.stamp,
        center=at,
        height=shape.stamp_height,
        angle_deg=pose.angle_deg,
        half_width=0.11 * shape.stamp_height,
    )
    deep = smoothstep(1.6, 0.3, number)
    height = shape.thickness + _rounded(inside, shape.edge) - shape.stamp_depth * deep
    return _on_ground(
        Surface(
            height + face.height,
            face.albedo * (1.0 - 0.45 * deep)[:, :, None],
            np.clip(face.roughness + 0.1 * deep, 0.0, 1.0),
            face.metal,
        ),
        ground,
        inside,
        canvas,
    )


@dataclass(frozen=True)
class Tablet:
    """A pressed tablet with a number and a breaking groove.

    Attributes:
        length, width: of the outline (an ellipse-like curve).
        thickness: height of the outline's edge above the ground.
        dome: height of the curved face above the edge.
        squareness: 2 is an ellipse, larger is boxier.
        stamp: digits pressed into both halves.
        stamp_height: height of a digit.
        stamp_depth: how deep it is, above 0.
        groove: depth of the breaking groove across the middle, 0 is none.
    """

    length: float
    width: float
    thickness: float
    dome: float
    squareness: float
    stamp: str
    stamp_height: float
    stamp_depth: float
    groove: float


def tablet(shape: Tablet, pose: Pose, *, face: Surface, ground: Surface, canvas: Canvas) -> Part:
    """Press a tablet of the surface `face` and lay it on `ground`."""
    x, y = canvas.grid()
    along, across = rotate(x - pose.x, y - pose.y, pose.angle_deg)
    u, v = np.abs(along) / (0.5 * shape.length), np.abs(across) / (0.5 * shape.width)
    rho = (u**shape.squareness + v**shape.squareness) ** (1.0 / shape.squareness)
    inside = (1.0 - rho) * 0.5 * shape.width
    dome = shape.dome * (1.0 - np.minimum(rho, 1.0) ** 2.4)
    turn = np.deg2rad(pose.angle_deg)
    unit = np.array([float(np.cos(turn)), float(np.sin(turn))])
    middle = np.array([pose.x, pose.y])
    pressed = np.zeros_like(x)
    for half in (-1.0, 1.0):
        at = middle + half * 0.235 * shape.length * unit
        number = digits(
            canvas,
            shape.stamp,
            center=(float(at[0]), float(at[1])),
            height=shape.stamp_height,
            angle_deg=pose.angle_deg,
            half_width=0.15 * shape.stamp_height,
        )
        pressed = np.maximum(pressed, shape.stamp_depth * smoothstep(1.3, 0.3, number))
    if shape.groove > 0.0:
        normal = np.array([-unit[1], unit[0]])
        ends = np.stack([middle - 0.5 * shape.width * normal, middle + 0.5 * shape.width * normal])
        line = nearest(canvas, [ends], half_widths=[0.022], reach=1.0)
        pressed = np.maximum(pressed, shape.groove * smoothstep(1.0, 0.0, line))
    height = shape.thickness + _rounded(inside, 0.012) + dome - pressed + face.height
    dusty = np.clip(1.0 - 0.2 * pressed / max(shape.stamp_depth, shape.groove), 0.0, 1.0)
    albedo = face.albedo * dusty[:, :, None]
    return _on_ground(Surface(height, albedo, face.roughness, face.metal), ground, inside, canvas)


def _rounded(inside: NDArray[np.float64], edge: float) -> NDArray[np.float64]:
    """Height of a rounded edge below the face: 0 from `edge` inwards, -edge at the outline."""
    t = np.clip(inside / edge, 0.0, 1.0)
    return edge * (np.sqrt(1.0 - (1.0 - t) ** 2) - 1.0)


def _on_ground(top: Surface, ground: Surface, inside: NDArray[np.float64], canvas: Canvas) -> Part:
    soft = 0.75 / canvas.side
    cover = smoothstep(-soft, soft, inside)
    return Part(lay(top, ground, cover=cover), ground, cover, inside)
