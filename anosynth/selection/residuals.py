"""Near-copy detection: what two photographs share beyond what all photographs of the product share.

A copy of an image, stored again, shifted, brightened, mirrored or turned, has the same fine structure (grain,
scratches, sensor pattern). Two parts in one pose have not, but their common edges dominate every naive measure. The
measure here therefore works on residuals:

1. band-pass the grey image (light and shape below, coding noise above) and divide by the local root mean square, so
   that a few strong edges weigh no more than the surface between them;
2. if the images of the class align with their mean (one pose), project that mean and its first and second derivatives
   out of each, which also takes care of brightness and of sub-pixel misalignment, and weigh every pixel by how little
   it varies from image to image;
3. register the two by phase correlation (Kuglin and Hines 1975) and correlate them over their overlap, as the multiple
   correlation of one with the other and its derivatives, which tolerates a fraction of a pixel and a slight blur.

`coarse_correlations` does this for all pairs at 64 px by one product of spectra each, whitened by the mean spectrum of
the class, without registering first; `Fine.correlation` does it for one pair at 256 px.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import fft
from scipy.ndimage import gaussian_filter, shift

from anosynth.progress import track

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

FINE_PX = 256
COARSE_PX = 64
# The eight orientations of a square: `turned` says what each index does.
TURNS = (
    "as it is",
    "turned 90",
    "turned 180",
    "turned 270",
    "mirrored",
    "turned 90 and mirrored",
    "turned 180 and mirrored",
    "turned 270 and mirrored",
)
# At least this much of an aligned image must be its class's mean before the mean is taken out; images that have less of
# it in common correlate by no more than its square through it.
ONE_POSE = 0.5
TEMPLATE_IMAGES = 64
MIN_TEMPLATE_IMAGES = 3
MIN_OVERLAP = 0.25
# A residual of one grey level or less is rounding and coding noise, not surface.
NOISE_LEVELS = 1.0


@dataclass(frozen=True)
class Band:
    """A band of spatial frequencies, as standard deviations of Gaussians in pixels.

    Attributes:
        low: finer structure is blurred away.
        high: coarser structure is subtracted.
        local: window of the local root mean square.
    """

    low: float
    high: float
    local: float


# Measured on renders, worn steel and washers of grain alone: this band leaves independent pictures below 0.7 and
# copies above 0.9; small pictures have too little in it (independent pills of 64 px reach 0.94) and need a finer one.
FINE_BAND = Band(low=1.0, high=3.0, local=4.0)
SMALL_PX = 96
SMALL_BAND = Band(low=0.7, high=2.0, local=3.0)
COARSE_BAND = Band(low=0.7, high=3.0, local=4.0)


def grey_square(image: NDArray[np.uint8], *, side: int) -> NDArray[np.uint8]:
    """Reduce uint8 RGB [H, W, 3] to grey [side, side]: area average when shrinking, bicubic when growing."""
    small = Image.fromarray(image).convert("L")
    how = Image.Resampling.BOX if min(small.size) >= side else Image.Resampling.BICUBIC
    return np.array(small.resize((side, side), how))


def turned(squares: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """Bring squares [..., S, S] into one of eight orientations: `turn` % 4 quarter turns, from 4 on then mirrored."""
    rotated = np.rot90(squares, turn % 4, axes=(-2, -1))
    return np.ascontiguousarray(rotated[..., ::-1] if turn >= 4 else rotated)


def band_pass(squares: NDArray[np.uint8], band: Band) -> Floats:
    """Grey squares [N, S, S] -> local contrast in one band, float32 [N, S, S] of about unit size."""

    def blur(values: Floats, sigma: float) -> Floats:
        return gaussian_filter(values, (0.0, sigma, sigma), mode="nearest")

    grey = squares.astype(np.float32)
    detail = blur(grey, band.low) - blur(grey, band.high)
    contrast: Floats = detail / np.sqrt(blur(detail * detail, band.local) + np.float32(NOISE_LEVELS**2))
    return contrast


class ClassTemplate:
    """What the images of one class have in common: their mean when aligned, and how much each pixel varies around it.

    Attributes:
        strength: median correlation of the aligned images with their mean, [0, 1].
        one_pose: True if `strength` is at least 0.5; if not, there is nothing to take out and no method here does.
    """

    def __init__(self, bands: Floats) -> None:
        """Align, average, measure.

        Args:
            bands: float32 [N, S, S] from `band_pass`; fewer than three images have no template.
        """
        self._side = bands.shape[-1]
        units = _unit(bands)
        mean = _unit(units.mean(axis=0))
        aligned = units
        for _ in range(2):
            places = self._places(units, mean)
            aligned = np.stack([_moved(unit, -round(y), -round(x)) for unit, (y, x) in zip(units, places, strict=True)])
            mean = _unit(aligned.mean(axis=0))
        self._mean = mean
        enough = len(bands) >= MIN_TEMPLATE_IMAGES
        self.strength = float(np.median((_unit(aligned) * mean).sum(axis=(1, 2)))) if enough else 0.0
        self.one_pose = self.strength >= ONE_POSE
        self.basis = _derivatives(mean)
        self._orthonormal = np.linalg.qr(self.basis.reshape(len(self.basis), -1).T)[0].T
        spread = gaussian_filter(np.sqrt((self._without_mean(aligned) ** 2).mean(axis=0)), 2.0)
        usual = float(np.median(spread))
        self.weight: Floats = (usual / (spread + 0.25 * usual + 1e-12)).astype(np.float32)

    def place(self, band: Floats) -> tuple[float, float]:
        """Rows and columns by which the class's mean must be moved to lie on `band`, float32 [S, S]."""
        return self._places(_unit(band[None]), self._mean)[0]

    def residuals(self, bands: Floats) -> Floats:
        """Bring images into the template's frame and take the template out; float32 [N, S, S] of unit length each."""
        units = _unit(bands)
        if self.one_pose:
            places = self._places(units, self._mean)
            aligned = np.stack([shift(unit, (-y, -x), order=3) for unit, (y, x) in zip(units, places, strict=True)])
            units = self._without_mean(aligned) * self.weight
        tapered = units * _taper(self._side)
        limit = 4 * np.sqrt((tapered**2).mean(axis=(1, 2), keepdims=True))
        return _unit(np.clip(tapered, -limit, limit))

    def _without_mean(self, aligned: Floats) -> Floats:
        flat = aligned.reshape(len(aligned), -1)
        left: Floats = (flat - (flat @ self._orthonormal.T) @ self._orthonormal).reshape(aligned.shape)
        return left

    def _places(self, units: Floats, mean: Floats) -> list[tuple[float, float]]:
        size = (self._side, self._side)
        correlation = fft.irfft2(fft.rfft2(units) * fft.rfft2(mean).conj(), s=size)
        return [_peak(plane, reach=self._side // 8) for plane in correlation]


def coarse_correlations(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Correlate the residuals of every pair at 64 px, at their best shift, in eight orientations of the second.

    About 40 microseconds a pair and orientation on one core. The correlation is a lower bound of what a close look
    finds: shifts are whole pixels and wrap around.

    Args:
        first: grey squares [N, S, S].
        second: grey squares [M, S, S] of the same class.

    Returns:
        float32 [8, N, M], each in [-1, 1].
    """
    side = min(COARSE_PX, first.shape[-1])
    every = np.concatenate([first, second])
    small = np.stack([np.array(Image.fromarray(one).resize((side, side), Image.Resampling.BOX)) for one in every])
    bands = band_pass(small, COARSE_BAND)
    template = ClassTemplate(sample(bands))
    spectra = fft.rfft2(template.residuals(bands))
    power = gaussian_filter((np.abs(spectra) ** 2).mean(axis=0), 1.5, mode="nearest")
    whiten = (1 / np.sqrt(power + power.mean() + 1e-12)).astype(np.float32)

    def whitened(squares: NDArray[np.uint8]) -> NDArray[np.complex64]:
        colored = fft.rfft2(template.residuals(band_pass(squares, COARSE_BAND))) * whiten
        return fft.rfft2(_unit(fft.irfft2(colored, s=(side, side)))).astype(np.complex64)

    queries = whitened(small[: len(first)])
    found = np.empty((len(TURNS), len(first), len(second)), dtype=np.float32)
    references = [whitened(turned(small[len(first) :], turn)) for turn in range(len(TURNS))]
    for at, query in enumerate(track(queries, total=len(queries), doing="leak check", unit="image")):
        for turn, reference in enumerate(references):
            planes = fft.irfft2(reference * query.conj(), s=(side, side))
            found[turn, at] = planes.max(axis=(1, 2))
    return found


class Fine:
    """Compares single pairs of grey squares of one class at full working size."""

    def __init__(self, squares: NDArray[np.uint8]) -> None:
        """Learn what the class has in common.

        Args:
            squares: grey [N, S, S], all images of the class that are at hand, or a sample of them.
        """
        self._side = squares.shape[-1]
        self._band = FINE_BAND if self._side >= SMALL_PX else SMALL_BAND
        self._template = ClassTemplate(band_pass(sample(squares), self._band))
        self._window = _taper(self._side, share=0.5)
        self._margin = min(8, self._side // 8)
        self._stride = max(1, self._side // 128)

    def band(self, square: NDArray[np.uint8]) -> Floats:
        """What `correlation` compares of a grey square [S, S]."""
        return band_pass(square[None], self._band)[0]

    def correlation(self, a: Floats, b: Floats) -> tuple[float, tuple[int, int]]:
        """Correlate the residuals of two images after registration.

        Args:
            a: float32 [S, S] from `band`.
            b: the same of the other image.

        Returns:
            (correlation in [0, 1], (rows, columns) by which the content of `b` is moved against `a`). Copies are near
            1. The correlation is 0 if less than a quarter of the images overlaps, or if one is the other's negative.
        """
        rows, columns = self._shift(a, b)
        of_a, of_b = _overlap(self._side, rows, columns, margin=self._margin, stride=self._stride)
        target = a[of_a].reshape(1, -1)
        if target.size * self._stride**2 < MIN_OVERLAP * self._side**2:
            return 0.0, (rows, columns)
        model = _derivatives(b)[:, of_b[0], of_b[1]].reshape(6, -1)
        common = np.ones_like(target)
        if self._template.one_pose:
            down, right = self._template.place(a)
            weight = _moved(self._template.weight, round(down), round(right))[of_a].reshape(1, -1)
            basis = _moved(self._template.basis, round(down), round(right))[:, of_a[0], of_a[1]].reshape(6, -1)
            common = np.concatenate([common, basis]) * weight
            target, model = target * weight, model * weight
        return multiple_correlation(_left_over(target, common)[0], _left_over(model, common)), (rows, columns)

    def _shift(self, a: Floats, b: Floats) -> tuple[int, int]:
        """Rows and columns by which b's content is moved against a's: the peak of the phase correlation."""
        cross = fft.rfft2(b * self._window) * fft.rfft2(a * self._window).conj()
        size = np.abs(cross)
        plane = fft.irfft2(cross / (size + 0.1 * size.mean() + 1e-12), s=a.shape)
        rows, columns = _peak(plane, reach=self._side // 2 - 1)
        return round(rows), round(columns)


def multiple_correlation(target: Floats, model: Floats) -> float:
    """Multiple correlation R of a target [n] with the rows of a model [k, n], all of zero mean.

        R^2 = max_c  (1 - |target - c model|^2 / |target|^2)

    Returns:
        R in [0, 1]; 0 if the target and the model's first row do not correlate positively.
    """
    scaled = _scaled(model.astype(np.float64))
    y = target.astype(np.float64)
    products = scaled @ y
    if products[0] <= 0:
        return 0.0
    explained = float(products @ _solve(scaled @ scaled.T, products))
    return float(np.sqrt(min(1.0, max(0.0, explained / float(y @ y)))))


def sample(images: NDArray) -> NDArray:
    """Return at most 64 of the images [N, ...], evenly spaced: enough to know what they share."""
    return images[:: -(-len(images) // TEMPLATE_IMAGES)]


def _left_over(rows: Floats, common: Floats) -> Floats:
    """The rows [k, n] with everything removed that the rows of `common` [p, n] explain."""
    scaled = _scaled(common.astype(np.float64))
    wide = rows.astype(np.float64)
    left: Floats = (wide - _solve(scaled @ scaled.T, scaled @ wide.T).T @ scaled).astype(np.float32)
    return left


def _scaled(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = rows / np.sqrt((rows * rows).mean(axis=1, keepdims=True) + 1e-20)
    return scaled


def _solve(gram: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.solve(gram + np.eye(len(gram)) * (1e-6 * np.trace(gram) / len(gram) + 1e-12), right)


def _unit(images: Floats) -> Floats:
    """Zero mean and unit length over the last two axes."""
    centered = images - images.mean(axis=(-2, -1), keepdims=True)
    length = np.sqrt((centered * centered).sum(axis=(-2, -1), keepdims=True))
    unit: Floats = centered / np.maximum(length, 1e-6)
    return unit


def _derivatives(image: Floats) -> Floats:
    """An image [S, S] with its two first and three second derivatives, [6, S, S]."""
    down, right = np.gradient(image)
    down_down, down_right = np.gradient(down)
    return np.stack([image, down, right, down_down, down_right, np.gradient(right, axis=1)]).astype(np.float32)


def _peak(plane: Floats, *, reach: int) -> tuple[float, float]:
    """Where a circular correlation [S, S] peaks within +-reach, to a fraction of a pixel by a parabola."""
    side = plane.shape[-1]
    near = np.arange(-reach, reach + 1)
    window = plane[np.ix_(near % side, near % side)]
    row, column = divmod(int(np.argmax(window)), len(near))

    def vertex(before: float, at: float, after: float) -> float:
        bend = before - 2 * at + after
        return 0.0 if bend >= 0 else min(0.5, max(-0.5, 0.5 * (before - after) / bend))

    y, x = int(near[row]), int(near[column])
    vertical = vertex(*(float(plane[(y + step) % side, x % side]) for step in (-1, 0, 1)))
    horizontal = vertex(*(float(plane[y % side, (x + step) % side]) for step in (-1, 0, 1)))
    return y + vertical, x + horizontal


def _overlap(side: int, rows: int, columns: int, *, margin: int, stride: int) -> tuple[tuple[slice, slice], ...]:
    """Slices of a and of b that show the same content if b's is moved by (rows, columns), `margin` off every border."""

    def along(by: int) -> tuple[slice, slice]:
        start, stop = margin + max(-by, 0), side - margin - max(by, 0)
        stop = max(start, stop)
        return slice(start, stop, stride), slice(start + by, stop + by, stride)

    (rows_a, rows_b), (columns_a, columns_b) = along(rows), along(columns)
    return (rows_a, columns_a), (rows_b, columns_b)


def _moved(image: Floats, rows: int, columns: int) -> Floats:
    """Move content [..., S, S] down and to the right; zeros come in."""
    side = image.shape[-1]
    result = np.zeros_like(image)

    def along(by: int) -> tuple[slice, slice]:
        return slice(max(by, 0), side + min(by, 0)), slice(max(-by, 0), side + min(-by, 0))

    (to_rows, from_rows), (to_columns, from_columns) = along(rows), along(columns)
    result[..., to_rows, to_columns] = image[..., from_rows, from_columns]
    return result


def _taper(side: int, *, share: float = 0.125) -> Floats:
    """A window [S, S] that rises from 0 to 1 over `share` of the side at every border; 0.5 is Hann's."""
    at = np.arange(side) + 0.5
    edge = np.minimum(np.minimum(at, side - at) / (share * side), 1.0)
    rise = 0.5 - 0.5 * np.cos(np.pi * edge)
    window: Floats = (rise[:, None] * rise[None, :]).astype(np.float32)
    return window
