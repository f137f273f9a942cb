"""Random fields with an explicit generator: spectral (isotropic or stretched) and cellular (Worley 1996)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anosynth.sources.procedural.canvas import Canvas

# A spectral field is periodic over this many picture sides, so that no edge of a picture continues at the other.
PERIOD = 1.25
_FIRST_BLOCK = 5
_TABLE = 64


def spectral(
    rng: np.random.Generator,
    canvas: Canvas,
    *,
    exponent: float,
    low: float,
    high: float,
    stretch: float = 1.0,
    angle_deg: float = 0.0,
) -> NDArray[np.float64]:
    """A Gaussian random field with a power-law amplitude spectrum inside a soft band.

    A(f) = f^-exponent * (1 - exp(-(f/low)^4)) * exp(-(f/high)^4),   f^2 = (stretch * f_along)^2 + f_across^2

    Coefficients are drawn in blocks of growing frequency, so canvases of other sizes show the same field with more or
    less detail.

    Args:
        rng: drawn from; nothing else is random.
        canvas: gives the N x N points.
        exponent: 0 is white inside the band, 1 looks like clouds, 2 is smooth.
        low: lower end of the band in cycles per picture side, above 0.
        high: upper end of the band, above `low`.
        stretch: features are this many times longer along `angle_deg` than across it.
        angle_deg: direction of the stretch, 0 is +x.

    Returns:
        [N, N], mean 0 and variance 1 in expectation.
    """
    if not 0.0 < low < high:
        raise ValueError(f"a band needs 0 < low < high, got {low} and {high}")
    period = round(canvas.side * PERIOD)
    half = min(period // 2, int(np.ceil(1.5 * high * PERIOD)))
    along, across = _frequencies(half, angle_deg) if stretch != 1.0 else _frequencies(half, 0.0)
    squared = (stretch * along) ** 2 + across**2
    squared[0, 0] = 1.0
    amplitude = squared ** (-0.5 * exponent)
    amplitude *= (1.0 - np.exp(-((squared / low**2) ** 2))) * np.exp(-((squared / high**2) ** 2))
    amplitude[0, 0] = 0.0
    power = 2.0 * float(np.sum(amplitude[:, 1:] ** 2)) + float(np.sum(amplitude[:, 0] ** 2))
    if power <= 0.0:
        raise ValueError(f"the band {low} to {high} cycles holds no frequency of the canvas")
    coefficients = _coefficients(rng, half) * (amplitude / np.sqrt(power))
    spectrum = np.zeros((period, period // 2 + 1), dtype=np.complex128)
    spectrum[:half, :half] = coefficients[:half]
    spectrum[-half:, :half] = coefficients[half:]
    field = fft.irfft2(spectrum, s=(period, period), norm="forward", workers=1)
    return np.ascontiguousarray(field[: canvas.side, : canvas.side])


@lru_cache(maxsize=8)
def _frequencies(half: int, angle_deg: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows = np.concatenate([np.arange(half), np.arange(-half, 0)])[:, None] / PERIOD
    columns = np.arange(half)[None, :] / PERIOD
    turn = np.deg2rad(angle_deg)
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    return cos * columns + sin * rows, cos * rows - sin * columns


def _coefficients(rng: np.random.Generator, half: int) -> NDArray[np.complex128]:
    """Complex normals [2 half, half] in FFT order, E|c|^2 = 1; a larger `half` keeps the inner block."""
    side = _FIRST_BLOCK
    block = _complex_normal(rng, side)
    while side < half:
        wider = _complex_normal(rng, 2 * side)
        wider[:side, :side] = block[:side]
        wider[-side:, :side] = block[side:]
        block, side = wider, 2 * side
    if side == half:
        return block
    return np.concatenate([block[:half, :half], block[-half:, :half]])


def _complex_normal(rng: np.random.Generator, half: int) -> NDArray[np.complex128]:
    pairs = rng.standard_normal((2 * half, half, 2)) * np.sqrt(0.5)
    return pairs.view(np.complex128)[:, :, 0]


@dataclass(frozen=True)
class Cells:
    """A Worley field: every point belongs to the nearest of randomly placed feature points.

    Attributes:
        nearest: distance to the nearest feature point, in cells, [N, N].
        second: distance to the second nearest among the 3 x 3 lattice cells around; rarely an overestimate.
        key: integer [N, N] in [0, 4096), equal inside a cell; index a table of 4,096 random values with it.
    """

    nearest: NDArray[np.float64]
    second: NDArray[np.float64]
    key: NDArray[np.int64]

    @property
    def border(self) -> NDArray[np.float64]:
        """0 on the borders between cells, growing towards the middles (F2 - F1)."""
        return self.second - self.nearest


def worley(
    rng: np.random.Generator,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    cells: float,
    jitter: float = 1.0,
) -> Cells:
    """Cellular noise (Worley 1996, "A cellular texture basis function") with one feature point per lattice cell.

    Args:
        rng: drawn from.
        x: coordinates [N, N] to the right in picture sides; warp or stretch both for irregular cells.
        y: coordinates [N, N] downwards.
        cells: lattice cells per picture side. The lattice repeats after 64 cells.
        jitter: 0 is a regular lattice of points, 1 spreads each over its whole cell.
    """
    offsets = 0.5 + jitter * (rng.random((_TABLE, _TABLE, 2)) - 0.5)
    scaled_x, scaled_y = x * cells, y * cells
    column, row = np.floor(scaled_x).astype(np.int64), np.floor(scaled_y).astype(np.int64)
    local_x, local_y = scaled_x - column, scaled_y - row
    first = np.full(x.shape, np.inf)
    second = np.full(x.shape, np.inf)
    key = np.zeros(x.shape, dtype=np.int64)
    offset_x = np.ascontiguousarray(offsets[:, :, 0]).ravel()
    offset_y = np.ascontiguousarray(offsets[:, :, 1]).ravel()
    away, distance = np.empty_like(first), np.empty_like(first)
    columns = [(column + step_x) & (_TABLE - 1) for step_x in (-1, 0, 1)]
    for step_y in (-1, 0, 1):
        wrapped = ((row + step_y) & (_TABLE - 1)) * _TABLE
        for step_x in (-1, 0, 1):
            index = wrapped + columns[step_x + 1]
            np.take(offset_x, index, out=distance, mode="clip")
            distance += step_x
            distance -= local_x
            distance *= distance
            np.take(offset_y, index, out=away, mode="clip")
            away += step_y
            away -= local_y
            away *= away
            distance += away
            np.copyto(key, index, where=distance < first)
            np.maximum(first, distance, out=away)
            np.minimum(second, away, out=second)
            np.minimum(first, distance, out=first)
    return Cells(np.sqrt(first), np.sqrt(second), key)


def per_cell(rng: np.random.Generator, cells: Cells) -> NDArray[np.float64]:
    """One uniform number in [0, 1) per cell, spread over the cell's points, [N, N]."""
    return rng.random(_TABLE * _TABLE)[cells.key]
