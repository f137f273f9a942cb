"""Height-field and pattern primitives of the training corpus: spectra, cells, weaves, strokes.

All fields are float32 [n, n] arrays; every draw comes from the generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

Field = NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """Where the camera looks on an endless surface: its coordinates under every pixel.

    Attributes:
        n: height and width of the image [px].
        u: first surface coordinate under each pixel [px at the image centre], [n, n].
        v: second surface coordinate, [n, n].
    """

    n: int
    u: Field
    v: Field


def random_view(rng: np.random.Generator, n: int, *, max_turn_deg: float = 180.0) -> View:
    """A camera with random shift, turn and slight perspective."""
    y, x = np.mgrid[0:n, 0:n].astype(np.float32) - np.float32((n - 1) / 2)
    turn = np.deg2rad(rng.uniform(-max_turn_deg, max_turn_deg))
    if rng.random() < 0.3:
        turn = np.deg2rad(rng.normal(0.0, 2.0))
    depth = 1.0 + (rng.normal(0.0, 0.08) * x + rng.normal(0.0, 0.08) * y) / n
    u = (np.cos(turn) * x + np.sin(turn) * y) / depth + rng.uniform(0, 1000)
    v = (-np.sin(turn) * x + np.cos(turn) * y) / depth + rng.uniform(0, 1000)
    return View(n=n, u=u.astype(np.float32), v=v.astype(np.float32))


def spectrum_noise(
    rng: np.random.Generator, n: int, *, slope: float, low: float = 1.0, stretch: float = 1.0, angle: float = 0.0
) -> Field:
    """Gaussian noise whose amplitude falls as frequency**-slope, mean 0, standard deviation 1.

    Args:
        rng: source of the phases.
        n: side [px].
        slope: 0 is white, 1 rough, 2 cloudy.
        low: frequencies below this many cycles per image are damped to its level.
        stretch: above 1 the pattern is drawn out along `angle` by this factor.
        angle: direction of the stretch [rad].
    """
    fy = np.fft.fftfreq(n).astype(np.float32)[:, None] * n
    fx = np.fft.rfftfreq(n).astype(np.float32)[None, :] * n
    along = np.cos(angle) * fx + np.sin(angle) * fy
    across = -np.sin(angle) * fx + np.cos(angle) * fy
    radius = np.sqrt((along * np.sqrt(stretch)) ** 2 + (across / np.sqrt(stretch)) ** 2)
    amplitude = np.maximum(radius, low) ** np.float32(-slope)
    amplitude[0, 0] = 0.0
    white = scipy.fft.rfft2(rng.standard_normal((n, n), dtype=np.float32))
    field = scipy.fft.irfft2(white * amplitude, s=(n, n))
    return (field / (field.std() + 1e-9)).astype(np.float32)


def band_noise(rng: np.random.Generator, n: int, *, period_px: float, width: float = 0.35) -> Field:
    """Gaussian noise of one grain size, mean 0, standard deviation 1."""
    fy = np.fft.fftfreq(n).astype(np.float32)[:, None]
    fx = np.fft.rfftfreq(n).astype(np.float32)[None, :]
    radius = np.sqrt(fx**2 + fy**2) * np.float32(period_px)
    amplitude = np.exp(-0.5 * (np.log(np.maximum(radius, 1e-4)) / width) ** 2)
    field = scipy.fft.irfft2(scipy.fft.rfft2(rng.standard_normal((n, n), dtype=np.float32)) * amplitude, s=(n, n))
    return (field / (field.std() + 1e-9)).astype(np.float32)


@dataclass(frozen=True)
class Cells:
    """A cellular pattern (Worley 1996): distances in units of one cell.

    Attributes:
        nearest: distance to the nearest seed point, [n, n].
        border: distance to the second nearest minus the nearest; 0 on cell borders, [n, n].
        values: three independent uniform numbers of the cell each pixel belongs to, [3, n, n].
    """

    nearest: Field
    border: Field
    values: Field


def cells(rng: np.random.Generator, u: Field, v: Field, *, jitter: float = 1.0) -> Cells:
    """Jittered-grid cellular pattern; `u`, `v` are in units of one cell.

    Args:
        rng: source of the seed points.
        u: first coordinate, [n, n].
        v: second coordinate, [n, n].
        jitter: 0 is a square lattice, 1 fully irregular.
    """
    side = 64
    table = rng.random((5, side, side), dtype=np.float32)
    table[:2] = 0.5 + (table[:2] - 0.5) * np.float32(jitter)
    iu, iv = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    fu, fv = u - iu, v - iv
    best = np.full(u.shape, 9.0, np.float32)
    second = np.full(u.shape, 9.0, np.float32)
    owner = np.zeros(u.shape, np.int32)
    for du in (-1, 0, 1):
        for dv in (-1, 0, 1):
            key = ((iu + du) % side) * side + (iv + dv) % side
            distance = (du + table[0].ravel()[key] - fu) ** 2 + (dv + table[1].ravel()[key] - fv) ** 2
            closer = distance < best
            second = np.where(closer, best, np.minimum(second, distance))
            owner = np.where(closer, key, owner)
            best = np.where(closer, distance, best)
    nearest = np.sqrt(best)
    values = table[2:].reshape(3, -1)[:, owner]
    return Cells(nearest=nearest, border=np.sqrt(second) - nearest, values=values)


def smoothstep(low: float, high: float, x: Field) -> Field:
    """0 below `low`, 1 above `high`, smooth between (either order of the two)."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return (t * t * (3.0 - 2.0 * t)).astype(np.float32)


def blur(field: Field, sigma_px: float) -> Field:
    """Gaussian blur that repeats the border."""
    return gaussian_filter(field, sigma_px, mode="nearest", truncate=3.0)


def strokes(
    rng: np.random.Generator,
    n: int,
    *,
    count: int,
    length_px: float,
    width_px: float,
    angle: float,
    spread: float,
    bend: float = 0.0,
) -> tuple[Field, Field]:
    """Overlapping fibres, drawn one over the other at twice the resolution.

    Args:
        rng: source of places, turns, lengths and tones.
        n: side [px].
        count: number of fibres.
        length_px: mean length [px].
        width_px: mean width [px].
        angle: mean direction [rad].
        spread: standard deviation of the direction [rad].
        bend: standard deviation of the turn from one end to the other [rad].

    Returns:
        (depth, tone): depth in [0, 1] grows from the first fibre to the last, 0 where there is none; tone is a
        uniform number of the topmost fibre. Both [n, n].
    """
    canvas = Image.new("RGB", (2 * n, 2 * n))
    draw = ImageDraw.Draw(canvas)
    start = rng.uniform(-0.1, 1.1, (count, 2)) * 2 * n
    turn = rng.normal(angle, spread, count)
    lengths = rng.gamma(8.0, length_px / 8.0, count)
    widths = np.maximum(1, np.round(2 * width_px * rng.uniform(0.6, 1.4, count))).astype(int)
    turns = rng.normal(0.0, bend, count) if bend else np.zeros(count)
    tones = rng.integers(0, 256, count)
    for i in range(count):
        middle = start[i] + lengths[i] * np.array([np.cos(turn[i]), np.sin(turn[i])])
        end = middle + lengths[i] * np.array([np.cos(turn[i] + turns[i]), np.sin(turn[i] + turns[i])])
        level = int(40 + 215 * (i + 1) / count)
        draw.line([tuple(start[i]), tuple(middle), tuple(end)], fill=(level, int(tones[i]), 0), width=int(widths[i]))
    pixels = np.asarray(canvas.resize((n, n), Image.Resampling.BOX), np.float32) / 255.0
    return pixels[..., 0], pixels[..., 1]
