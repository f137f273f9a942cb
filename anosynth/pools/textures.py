"""Foreign textures for the Perlin arm, without any outside data: real crops made strange, and procedural ones.

DRAEM (Zavrtanik et al. 2021, section 3.2) takes textures from DTD and changes each by three random operations. DTD's
images carry no licence to pass on, so ours come from the shots themselves and from noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from anosynth.imaging import resize_image
from anosynth.pools.noise import fractal_noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_OPERATIONS = 3
CROP_RATIO = (0.25, 0.8)


def real_texture(
    image: NDArray[np.uint8], *, size_px: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Cut a random crop from an image, turn and mirror it, and change it by three different operations.

    Args:
        image: uint8 RGB [H, W, 3].
        size_px: (height, width) of the result.
        rng: draws everything.

    Returns:
        Float [H, W, 3] in [0, 1].
    """
    ratio = rng.uniform(*CROP_RATIO)
    height, width = (max(1, round(side * ratio)) for side in image.shape[:2])
    top = int(rng.integers(image.shape[0] - height + 1))
    left = int(rng.integers(image.shape[1] - width + 1))
    crop = resize_image(np.ascontiguousarray(image[top : top + height, left : left + width]), size_px=size_px)
    quarter = 2 * int(rng.integers(2)) if size_px[0] != size_px[1] else int(rng.integers(4))
    turned = np.rot90(crop, quarter)
    pixels = (turned[:, ::-1] if rng.random() < 0.5 else turned) / 255.0
    for choice in rng.choice(len(OPERATIONS), size=NUM_OPERATIONS, replace=False):
        pixels = np.clip(OPERATIONS[choice](pixels, rng), 0.0, 1.0)
    return pixels


def procedural_texture(*, size_px: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw clouds or warped stripes in a gradient of three random colours, strong or faded, with grain.

    Args:
        size_px: (height, width) of the result.
        rng: draws everything.

    Returns:
        Float [H, W, 3] in [0, 1].
    """
    cells = float(2.0 ** rng.uniform(1.0, 4.0))
    field = fractal_noise(size_px, cells=cells, octaves=4, persistence=rng.uniform(0.4, 0.75), rng=rng)
    if rng.random() < 0.5:
        rows, columns = np.mgrid[: size_px[0], : size_px[1]] / max(size_px)
        angle, stripes = rng.uniform(0.0, np.pi), 2.0 ** rng.uniform(2.0, 5.0)
        across = rows * np.sin(angle) + columns * np.cos(angle)
        field = np.sin(2.0 * np.pi * stripes * across + rng.uniform(1.0, 6.0) * field)
    stops = rng.random((3, 3))
    grey = stops.mean(axis=1, keepdims=True)
    stops = grey + rng.random() * (stops - grey)
    level = np.clip(0.5 + 0.5 * field / max(float(np.abs(field).max()), 1e-9), 0.0, 1.0)
    pixels = np.stack([np.interp(level, [0.0, 0.5, 1.0], stops[:, c]) for c in range(3)], axis=2)
    return np.clip(pixels + rng.normal(0.0, rng.uniform(0.01, 0.06), size=(*size_px, 1)), 0.0, 1.0)


def _invert(pixels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    return 1.0 - pixels


def _posterize(pixels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    steps = int(rng.integers(2, 6))
    return np.rint(pixels * steps) / steps


def _solarize(pixels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    return np.where(pixels > rng.uniform(0.3, 0.7), 1.0 - pixels, pixels)


def _bend(pixels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    return np.asarray(pixels ** (2.0 ** rng.uniform(-1.3, 1.3)))


def _stretch(pixels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    low, high = np.percentile(pixels, (2.0, 98.0))
    return (pixels - low) / max(float(high - low), 1e-3)


def _swap_colors(pixels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    return pixels[:, :, rng.permutation(3)]


def _tint(pixels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    return pixels * rng.uniform(0.4, 1.6, size=3)


def _sharpen(pixels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    soft: NDArray[np.float64] = ndimage.gaussian_filter(pixels, (1.5, 1.5, 0.0), mode="nearest")
    return pixels + rng.uniform(1.0, 3.0) * (pixels - soft)


OPERATIONS: Sequence[Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]] = (
    _invert,
    _posterize,
    _solarize,
    _bend,
    _stretch,
    _swap_colors,
    _tint,
    _sharpen,
)
