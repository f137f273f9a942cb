"""Structural similarity of two pictures (Wang et al. 2004), and the choice of the candidate nearest to a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from anosynth.imaging import resize_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE_PX = 240
"""Pictures are compared at One-to-Normal's input size."""
SIGMA_PX = 1.5
RADIUS_PX = 5
"""The window: 11 x 11 pixels, Gaussian."""
STABILITY = (0.01**2, 0.03**2)
TIE = 1e-4
LUMA = (0.299, 0.587, 0.114)


def structural_similarity(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Mean SSIM of two grey pictures.

    SSIM = (2 mu_x mu_y + C_1) (2 sigma_xy + C_2) / ((mu_x^2 + mu_y^2 + C_1) (sigma_x^2 + sigma_y^2 + C_2)), averaged
    over all places where the window fits.

    Args:
        first: float64 [H, W] in [0, 1], at least 11 x 11.
        second: the same.

    Returns:
        At most 1, which only equal pictures reach.

    Raises:
        ValueError: if sizes differ or are below the window's.
    """
    if first.shape != second.shape or min(first.shape) <= 2 * RADIUS_PX:
        raise ValueError(f"pictures {list(first.shape)} and {list(second.shape)} must be equal and at least 11 x 11")
    (c1, c2), x, y = STABILITY, first, second
    mu_x, mu_y, xx, yy, xy = (_blurred(value) for value in (x, y, x * x, y * y, x * y))
    covariance = xy - mu_x * mu_y
    variances = xx - mu_x * mu_x + yy - mu_y * mu_y
    top = (2.0 * mu_x * mu_y + c1) * (2.0 * covariance + c2)
    return float(np.mean(top / ((mu_x * mu_x + mu_y * mu_y + c1) * (variances + c2))))


def similarities(query: NDArray[np.uint8], candidates: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """SSIM of a query with each candidate, float64 [n]: grey levels in [0, 1] at 240 x 240 px.

    Args:
        query: uint8 RGB [H, W, 3].
        candidates: uint8 RGB of any sizes.
    """
    grey = _grey(query)
    return np.array([structural_similarity(grey, _grey(candidate)) for candidate in candidates])


def lowest(values: NDArray[np.float64]) -> int:
    """Index of the smallest value; values within 1e-4 of it are ties, which the lowest index wins.

    Rounding differs with the batch that a picture was drawn in, by far less than that, so the choice does not.
    """
    return int(np.flatnonzero(values <= values.min() + TIE)[0])


def _blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = slice(RADIUS_PX, -RADIUS_PX)
    smooth: NDArray[np.float64] = ndimage.gaussian_filter(values, SIGMA_PX, radius=RADIUS_PX)
    return smooth[inside, inside]


def _grey(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    small = resize_image(image, size_px=(SIZE_PX, SIZE_PX))
    grey: NDArray[np.float64] = small.astype(np.float64) @ np.array(LUMA) / 255.0
    return grey
