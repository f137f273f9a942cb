"""Lines and blobs on the canvas: distance to a polyline, jagged and bent lines, ragged discs, stamped digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from anosynth.sources.procedural.noise import spectral

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anosynth.sources.procedural.canvas import Canvas

FAR = 4.0


@dataclass(frozen=True)
class Place:
    """Where something is drawn: (x, y) in picture sides and its direction."""

    x: float
    y: float
    angle_deg: float


@dataclass(frozen=True, eq=False)
class Stroke:
    """Where every point lies relative to a polyline.

    Attributes:
        distance: to the polyline in picture sides, [N, N]; FAR where it is beyond the reach asked for.
        progress: place of the nearest point of the line, 0 at its start, 1 at its end, [N, N].
        side: signed distance, positive on the right-hand side when walking along the line, [N, N].
    """

    distance: NDArray[np.float64]
    progress: NDArray[np.float64]
    side: NDArray[np.float64]


def stroke(canvas: Canvas, points: NDArray[np.float64], *, reach: float) -> Stroke:
    """Measure a polyline.

    Args:
        canvas: gives the N x N points.
        points: corners (x, y) in picture sides, [M, 2], M >= 2.
        reach: distances above this are not needed.
    """
    side = canvas.side
    x, y = canvas.grid()
    distance = np.full((side, side), FAR)
    progress = np.zeros((side, side))
    signed = np.full((side, side), FAR)
    steps = np.diff(points, axis=0)
    lengths = np.sqrt((steps * steps).sum(axis=1))
    total = float(lengths.sum())
    walked = 0.0
    for start, step, length in zip(points[:-1], steps, lengths, strict=True):
        window = _window(side, start, start + step, reach)
        if window is not None and length > 0.0:
            away_x, away_y = x[window] - start[0], y[window] - start[1]
            unit = step / length
            along = away_x * unit[0] + away_y * unit[1]
            across = away_y * unit[0] - away_x * unit[1]
            beyond = along - np.clip(along, 0.0, length)
            here = np.sqrt(across * across + beyond * beyond)
            closer = here < distance[window]
            np.copyto(distance[window], here, where=closer)
            np.copyto(progress[window], (walked + np.clip(along, 0.0, length)) / total, where=closer)
            np.copyto(signed[window], np.where(across < 0.0, -here, here), where=closer)
        walked += float(length)
    return Stroke(distance, progress, signed)


def nearest(
    canvas: Canvas, lines: Sequence[NDArray[np.float64]], *, half_widths: Sequence[float], reach: float
) -> NDArray[np.float64]:
    """Distance to the nearest of several polylines, each in units of its half width, [N, N].

    Args:
        canvas: gives the N x N points.
        lines: corners (x, y) of each line, [M, 2].
        half_widths: one per line; on a line's outline the result is 1.
        reach: half widths beyond which distances are not needed; FAR stands there.
    """
    side = canvas.side
    x, y = canvas.grid()
    least = np.full((side, side), FAR)
    for points, half in zip(lines, half_widths, strict=True):
        for start, end in pairwise(points):
            window = _window(side, start, end, reach * half)
            if window is None:
                continue
            away_x, away_y = x[window] - start[0], y[window] - start[1]
            step = end - start
            squared = max(float(step[0] ** 2 + step[1] ** 2), 1e-12)
            share = np.clip((away_x * step[0] + away_y * step[1]) / squared, 0.0, 1.0)
            away_x -= share * step[0]
            away_y -= share * step[1]
            here = np.sqrt(away_x * away_x + away_y * away_y)
            here /= half
            np.minimum(least[window], here, out=least[window])
    return least


def _window(
    side: int, start: NDArray[np.float64], end: NDArray[np.float64], reach: float
) -> tuple[slice, slice] | None:
    """Rows and columns of the points within `reach` of a segment's bounding box; None if there are none."""
    low = np.floor((np.minimum(start, end) - reach + 0.5) * side).astype(int)
    high = np.ceil((np.maximum(start, end) + reach + 0.5) * side).astype(int) + 1
    (left, top), (right, bottom) = np.clip(low, 0, side), np.clip(high, 0, side)
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def bent_line(
    rng: np.random.Generator, *, center: tuple[float, float], length: float, angle_deg: float, bend: float
) -> NDArray[np.float64]:
    """A gently bent line through `center`, [25, 2]; `bend` is the sagitta over the length, a little wobble is added."""
    t = np.linspace(-0.5, 0.5, 25)
    sag = bend * (0.25 - t * t) * 4.0 + 0.008 * np.sin(2.0 * np.pi * (rng.uniform(1.0, 2.5) * t + rng.random()))
    return _turned(t * length, sag * length, center, angle_deg)


def jagged_line(
    rng: np.random.Generator, *, start: tuple[float, float], length: float, angle_deg: float, jag: float
) -> NDArray[np.float64]:
    """A crack's path from `start`, [33, 2], by midpoint displacement; `jag` is the first step over the length."""
    across = np.zeros(2)
    size = jag
    for _ in range(5):
        middle = 0.5 * (across[:-1] + across[1:]) + size * rng.uniform(-1.0, 1.0, across.size - 1)
        woven = np.empty(2 * across.size - 1)
        woven[0::2], woven[1::2] = across, middle
        across, size = woven, 0.58 * size
    t = np.linspace(0.0, 1.0, across.size)
    return _turned(t * length, across * length, start, angle_deg)


def ragged_disc(
    rng: np.random.Generator,
    canvas: Canvas,
    *,
    center: tuple[float, float],
    radius: float,
    aspect: float,
    angle_deg: float,
    raggedness: float,
) -> NDArray[np.float64]:
    """Distance from a blob's middle over its radius, [N, N], with noise added: the blob is where it is below 1.

    Args:
        rng: drawn from.
        canvas: gives the N x N points.
        center: (x, y) in picture sides.
        radius: mean radius.
        aspect: length over width, >= 1.
        angle_deg: direction of the length.
        raggedness: 0 is an ellipse, 1 a torn blot.
    """
    x, y = canvas.grid()
    turn = np.deg2rad(angle_deg)
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    away_x, away_y = x - center[0], y - center[1]
    long, short = radius * float(np.sqrt(aspect)), radius / float(np.sqrt(aspect))
    u, v = (cos * away_x + sin * away_y) / long, (cos * away_y - sin * away_x) / short
    rough = spectral(rng, canvas, exponent=1.5, low=0.35 / radius, high=min(5.0 / radius, 0.5 * canvas.size_px))
    return np.sqrt(u * u + v * v) + 0.22 * raggedness * np.clip(rough, -2.0, 2.0)


def _turned(
    along: NDArray[np.float64], across: NDArray[np.float64], origin: tuple[float, float], angle_deg: float
) -> NDArray[np.float64]:
    turn = np.deg2rad(angle_deg)
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    return np.stack([origin[0] + cos * along - sin * across, origin[1] + sin * along + cos * across], axis=1)


# Corners of the digits' strokes, column and row in a box of 6 by 10.
_DIGITS: dict[str, str] = {
    "0": "30 51 65 58 3a 18 05 11 30",
    "1": "12 30 3a",
    "2": "02 10 50 62 54 0a 6a",
    "3": "00 60 34 65 67 5a 1a 08",
    "4": "4a 40 07 67",
    "5": "60 10 04 44 66 68 4a 0a",
    "6": "50 13 07 1a 4a 67 45 15",
    "7": "00 60 2a",
    "8": "35 12 30 52 35 07 3a 67 35",
    "9": "1a 47 63 40 10 03 15 55",
}


def digits(
    canvas: Canvas, text: str, *, center: tuple[float, float], height: float, angle_deg: float, half_width: float
) -> NDArray[np.float64]:
    """Distance to the strokes of a number over their half width, [N, N]: up to 1 on them, FAR beyond 2.

    Args:
        canvas: gives the N x N points.
        text: digits only.
        center: middle of the number.
        height: of a digit in picture sides.
        angle_deg: of the writing direction.
        half_width: of the strokes.
    """
    if not text or any(sign not in _DIGITS for sign in text):
        raise ValueError(f"only digits can be stamped, got {text!r}")
    lines = []
    for place, sign in enumerate(text):
        left = 0.85 * (place - 0.5 * (len(text) - 1)) - 0.3
        corners = np.array([[int(corner[0], 16), int(corner[1], 16)] for corner in _DIGITS[sign].split()]) / 10.0
        lines.append(_turned(height * (corners[:, 0] + left), height * (corners[:, 1] - 0.5), center, angle_deg))
    return nearest(canvas, lines, half_widths=[half_width] * len(lines), reach=2.0)
