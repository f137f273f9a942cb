"""Where the inspected object is: classical segmentation of one part on a plain background; no training, no torch.

A picture whose border does not look like a plain background (a surface that fills the frame) is all foreground.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

from anosynth.imaging import resize_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALGORITHM = 1
# Longest side while deciding; the outline then returns to the full size with subpixel precision.
WORK_PX = 160
# The border model: width of the ring as a share of the longest side, and the smallest spread per colour plane.
RING_RATIO = 0.04
MIN_SPREAD = 0.008
INLIER_SPREADS = 4.5
ROBUST_ROUNDS = 6
# What makes a region an object, found on rendered parts, worn metal surfaces, photographs and textures: objects lie 25
# spreads and more from their background, the largest odd region of a texture 8 and less.
MIN_DISTANCE = 12.0
MIN_AREA_RATIO = 0.02
MIN_RING_INLIERS = 0.6
MAX_RING_COVERED = 0.5
# Part of the object's typical distance at which its outline runs: above a shadow's distance, below the object's.
OUTLINE_RATIO = 0.3
# Components below this share of the largest are dirt; holes below it are engravings, glare or defects.
MIN_COMPONENT_RATIO = 0.1
MAX_HOLE_RATIO = 0.03


def segment_object(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Segment the object of an inspection picture.

    1. A plane is fitted to the colours of the border ring, without its outliers (parts that touch the border).
    2. Every pixel's distance to that plane is measured in spreads of the inliers, in opponent colours.
    3. Otsu's threshold on the logarithm of the distance finds a candidate (Otsu 1979).
    4. The candidate is an object if it is far from the background, large enough and mostly clear of the border; else
       the surface fills the frame. Shadows, less far than the object, are left outside; small holes are filled, large
       ones (the bore of a washer) stay open.

    Args:
        image: uint8 RGB [H, W, 3], at least 16 px a side.

    Returns:
        uint8 [H, W] in {0, 255}; all 255 if there is no plain background. Deterministic, never empty.
    """
    height, width = image.shape[:2]
    scale = min(1.0, WORK_PX / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    ring = _ring(size)
    distance, inliers = _distance_to_border(_opponent_colors(resize_image(image, size_px=size)), ring)
    candidate = _largest(ndimage.binary_opening(distance > _otsu_threshold(distance)))
    if not candidate.any() or candidate[ring].mean() > MAX_RING_COVERED or inliers < MIN_RING_INLIERS:
        return np.full((height, width), 255, dtype=np.uint8)
    typical = float(np.median(distance[candidate]))
    if typical < MIN_DISTANCE or candidate.mean() < MIN_AREA_RATIO:
        return np.full((height, width), 255, dtype=np.uint8)
    near = np.minimum(distance, typical)
    enlarged = np.asarray(Image.fromarray(near.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
    return np.where(_largest(enlarged > OUTLINE_RATIO * typical), 255, 0).astype(np.uint8)


def _opponent_colors(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Grey, red-green and yellow-blue planes in [-1, 1], lightly smoothed: [H, W, 3]."""
    red, green, blue = np.moveaxis(image.astype(np.float64) / 255.0, 2, 0)
    planes = np.stack([(red + green + blue) / 3.0, red - green, (red + green) / 2.0 - blue], axis=2)
    return ndimage.gaussian_filter(planes, (1.0, 1.0, 0.0), mode="nearest")


def _ring(size: tuple[int, int]) -> NDArray[np.bool_]:
    width = max(2, round(RING_RATIO * max(size)))
    ring = np.ones(size, dtype=bool)
    ring[width:-width, width:-width] = False
    return ring


def _distance_to_border(colors: NDArray[np.float64], ring: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Distance [H, W] of every pixel's colour to the border's, in spreads, and the share of the ring that is inlier."""
    height, width = ring.shape
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    plane = np.stack([np.ones_like(rows), rows, columns], axis=2)
    basis, target = plane[ring], colors[ring]
    deviation = np.abs(target - np.median(target, axis=0))
    inlier = (deviation <= 3.0 * np.maximum(_mad(deviation), 2.0 * MIN_SPREAD)).all(axis=1)
    for _ in range(ROBUST_ROUNDS):
        if inlier.mean() < 0.5 * MIN_RING_INLIERS:
            return np.zeros(ring.shape), 0.0
        coefficients = np.linalg.lstsq(basis[inlier], target[inlier], rcond=None)[0]
        residual = target - basis @ coefficients
        spread = np.maximum(_mad(np.abs(residual[inlier])), MIN_SPREAD)
        inlier = np.linalg.norm(residual / spread, axis=1) < INLIER_SPREADS
    return np.linalg.norm((colors - plane @ coefficients) / spread, axis=2), float(inlier.mean())


def _mad(deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of a normal distribution with these median absolute deviations, per column."""
    return np.asarray(1.4826 * np.median(deviations, axis=0))


def _otsu_threshold(distance: NDArray[np.float64]) -> float:
    """Otsu's threshold of log(1 + distance), as a distance; at least the bound of an inlier."""
    counts, edges = np.histogram(np.log1p(distance), bins=128)
    centers = (edges[1:] + edges[:-1]) / 2.0
    below = np.cumsum(counts) / counts.sum()
    moment = np.cumsum(counts * centers) / counts.sum()
    between = (moment[-1] * below - moment) ** 2 / np.maximum(below * (1.0 - below), 1e-12)
    return max(INLIER_SPREADS, float(np.expm1(edges[1:][np.argmax(between)])))


def _largest(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drop components much smaller than the largest and fill holes much smaller than it."""
    labels, count = ndimage.label(region)
    if count == 0:
        return region
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    kept = (areas >= MIN_COMPONENT_RATIO * areas.max())[labels]
    holes, _ = ndimage.label(~kept)
    hole_areas = np.bincount(holes.ravel())
    small = hole_areas < MAX_HOLE_RATIO * areas.max()
    small[0] = False
    small[np.unique(_border(holes))] = False
    return np.asarray(kept | small[holes])


def _border(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    return np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
