"""Defects of no particular kind, planted into sound shots: what a generator can learn to leave out.

After the simulated anomalies of DRAEM (Zavrtanik et al. 2021) and CutPaste (Li et al. 2021), with which detectors are
trained. Differs: scratches, the defect those lack, are strokes of their own, and what is trained is a generator. A
change here changes adapters: raise `personalize.ALGORITHM`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from anosynth.seeding import numpy_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

# All sizes are in pixels of a picture of this side and grow with it.
UNIT_PX = 128.0
MORE_RATIO = (0.5, 0.3)  # chance of a second defect, and of a third
STROKE_RATIO = 0.7  # strokes among the defects, the others are patches
STROKE_POINTS = 64
STROKE_LENGTH_PX = (15.0, 90.0)
STROKE_WIDTH_PX = (0.6, 3.0)
STROKE_CONTRAST = (12.0, 110.0)  # grey levels
WORN_RATIO = 0.6  # strokes under which fine structure is worn off
PATCH_RADIUS_PX = (4.0, 22.0)
PATCH_OPACITY = (0.4, 1.0)


def planted(image: NDArray[np.uint8], *, seed: int) -> NDArray[np.uint8]:
    """Plant one to three strokes and patches anywhere in a picture.

    A stroke is a bent line across which the picture becomes lighter, darker, or both (as a groove in slanting light
    does). A patch is a ragged disk in which another place of the picture, or a blur of this one, shows in another tone.

    Args:
        image: uint8 RGB [H, W, 3].
        seed: of everything drawn.

    Returns:
        uint8 RGB [H, W, 3]; `image` is left as it was.
    """
    rng = numpy_rng(seed, "planting")
    pixels = image.astype(np.float64)
    for _ in range(1 + sum(bool(rng.random() < ratio) for ratio in MORE_RATIO)):
        pixels = _with_stroke(pixels, rng) if rng.random() < STROKE_RATIO else _with_patch(pixels, rng)
        pixels = np.clip(pixels, 0.0, 255.0)
    return np.rint(pixels).astype(np.uint8)


def _with_stroke(pixels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    unit = max(pixels.shape[:2]) / UNIT_PX
    apart, across, along = _along_a_line(pixels.shape[:2], rng.uniform(*STROKE_LENGTH_PX) * unit, rng)
    width = rng.uniform(*STROKE_WIDTH_PX) * unit
    ridge = np.exp(-0.5 * (apart / width) ** 2)
    profiles = (
        ridge,
        across / width * np.exp(0.5 - 0.5 * (apart / width) ** 2),
        ridge - 0.6 * np.exp(-0.5 * ((apart - 2.0 * width) / width) ** 2),
    )
    profile = profiles[rng.choice(3, p=(0.4, 0.4, 0.2))] * rng.choice((-1.0, 1.0))
    ends = np.minimum(1.0, 4.0 * np.minimum(along, 1.0 - along) + rng.uniform())
    tone = (profile * ends)[..., None] * rng.normal(1.0, 0.08, 3)
    if rng.random() < WORN_RATIO:
        cover = rng.uniform(0.2, 1.0) * np.exp(-0.5 * (apart / (1.2 * width)) ** 2)
        pixels = pixels + cover[..., None] * (gaussian_filter(pixels, (2.0 * unit, 2.0 * unit, 0.0)) - pixels)
    contrast = math.exp(rng.uniform(*np.log(STROKE_CONTRAST)))
    if rng.random() < 0.5:
        return pixels + contrast * tone
    return pixels * np.clip(1.0 + contrast / STROKE_CONTRAST[1] * tone, 0.1, 3.0)


def _along_a_line(
    shape: tuple[int, int], length_px: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of every pixel of [H, W]: distance to a bent line, the same with the sign of its side, nearest part in [0, 1]."""
    bend, wobble = rng.normal(0.0, 0.6) / STROKE_POINTS, rng.normal(0.0, 0.05, STROKE_POINTS)
    heading = rng.uniform(0.0, 2.0 * math.pi) + np.cumsum(wobble) + bend * np.arange(STROKE_POINTS)
    ahead = np.stack([np.sin(heading), np.cos(heading)], axis=1)
    line = np.cumsum(ahead, axis=0) * length_px / STROKE_POINTS
    line += rng.uniform(0.0, 1.0, 2) * shape - line.mean(axis=0)
    rows, columns = (axis.astype(np.float64) for axis in np.indices(shape))
    nearest = np.asarray(cKDTree(line).query(np.stack([rows, columns], axis=-1))[1])
    down, right = rows - line[nearest, 0], columns - line[nearest, 1]
    across = right * ahead[nearest, 0] - down * ahead[nearest, 1]
    return np.hypot(down, right), across, nearest / (STROKE_POINTS - 1.0)


def _with_patch(pixels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    height, width = pixels.shape[:2]
    unit = max(height, width) / UNIT_PX
    ragged = gaussian_filter(rng.normal(size=(height, width)), rng.uniform(2.0, 9.0) * unit, mode="wrap")
    rows, columns = np.indices((height, width))
    apart = np.hypot(rows - rng.uniform(0.0, height), columns - rng.uniform(0.0, width))
    radius = rng.uniform(*PATCH_RADIUS_PX) * unit
    inside = np.clip(3.0 * (1.2 - apart / radius + 0.3 * ragged / ragged.std()), 0.0, 1.0)
    if rng.random() < 0.5:
        other = np.roll(pixels, (int(rng.integers(height)), int(rng.integers(width))), axis=(0, 1))
    else:
        blur = rng.uniform(0.1, 4.0) * unit
        other = gaussian_filter(pixels, (blur, blur, 0.0))
    other = other + rng.normal(0.0, 30.0) + rng.normal(0.0, 8.0, 3)
    return pixels + (rng.uniform(*PATCH_OPACITY) * inside)[..., None] * (other - pixels)
