"""Bring two small pictures of the same thing into register: mirrored, turned, cropped, brighter or darker.

Refinement is inverse-compositional Gauss-Newton (Baker and Matthews 2004, "Lucas-Kanade 20 Years On", section 3.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

FINE_PX = 64
COARSE_PX = 32
NUM_POSES = 8
# Local structure: what lies between these two blurs (pixels), divided by its local strength. The floor, in grey
# levels, keeps sensor noise on plain areas from being blown up.
FINE_BLUR = 0.8
COARSE_BLUR = 3.0
STRENGTH_FLOOR = 1.0
# Less overlap than this, and two pictures are not the same.
MIN_OVERLAP = 0.35
MAX_STEP_PX = 3.0
RIDGE = 1e-3


def grey_square(image: NDArray[np.uint8], *, side_px: int) -> NDArray[np.float32]:
    """Luma of an image of any size at side_px x side_px: area mean when shrinking, bicubic when growing.

    The area mean shares a pixel that lies across a border between both sides, so that a mirrored picture gives the
    mirrored square. (Pillow's box filter gives such a pixel to one side.)
    """
    grey = Image.fromarray(image).convert("L")
    if min(image.shape[:2]) < side_px:
        return np.asarray(grey.resize((side_px, side_px), Image.Resampling.BICUBIC), dtype=np.float32)
    rows, columns = (_shares(size, side_px) for size in image.shape[:2])
    return np.asarray(rows @ np.asarray(grey, dtype=np.float64) @ columns.T, dtype=np.float32)


def _shares(size: int, side_px: int) -> NDArray[np.float64]:
    """Share of each of `size` pixels in each of `side_px` cells of equal length, [side_px, size], rows sum to 1."""
    length = size / side_px
    cells, pixels = np.arange(side_px)[:, None] * length, np.arange(size)[None, :]
    overlap = np.minimum(cells + length, pixels + 1.0) - np.maximum(cells, pixels)
    return np.asarray(np.clip(overlap, 0.0, None) / length)


def local_structure(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Band-pass a grey picture and normalize it locally, so that neither light nor contrast counts: [S, S], unit-less.

    With G_s a Gaussian blur: b = G_0.8 g - G_3 g;  result = b / (sqrt(G_3 b^2) + 1 grey level).
    """
    band = ndimage.gaussian_filter(grey, FINE_BLUR, mode="nearest")
    band -= ndimage.gaussian_filter(grey, COARSE_BLUR, mode="nearest")
    strength = np.sqrt(ndimage.gaussian_filter(band * band, COARSE_BLUR, mode="nearest"))
    return np.asarray(band / (strength + STRENGTH_FLOOR), dtype=np.float32)


def halved(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over 2 x 2 pixels."""
    side = grey.shape[0] // 2
    return np.asarray(grey.reshape(side, 2, side, 2).mean(axis=(1, 3)))


def posed(square: NDArray[np.float32], pose: int) -> NDArray[np.float32]:
    """One of the 8 poses of a square picture: pose % 4 quarter turns, after a left-right mirror from pose 4 on."""
    return np.ascontiguousarray(np.rot90(square[:, ::-1] if pose >= 4 else square, pose % 4))


def unposed(square: NDArray[np.float32], pose: int) -> NDArray[np.float32]:
    """Undo `posed`."""
    turned = np.rot90(square, -(pose % 4))
    return np.ascontiguousarray(turned[:, ::-1] if pose >= 4 else turned)


def zoomed(square: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Enlarge a picture about its middle, same size; beyond its edge the edge is repeated."""
    middle = (square.shape[0] - 1) / 2.0
    at = (np.indices(square.shape, dtype=np.float32) - middle) / scale + middle
    return np.asarray(ndimage.map_coordinates(square, at, order=1, mode="nearest"))


class Template:
    """A square picture that others are warped onto.

    A warp is a float64 [2, 3] matrix (A | d): the template's pixel m + x shows the other picture's pixel m + A x + d, m
    being the middle, x = (row, column).
    """

    def __init__(self, structure: NDArray[np.float32]) -> None:
        """Precompute gradients and the inverse Hessian of the template, [S, S] from `local_structure`."""
        side = structure.shape[0]
        self.side = side
        self.values = structure.ravel()
        self._middle = (side - 1) / 2.0
        self._rows, self._columns = (np.indices((side, side), dtype=np.float32) - self._middle).reshape(2, -1)
        down, right = (gradient.ravel() for gradient in np.gradient(structure))
        rows, columns = self._rows / (side / 2), self._columns / (side / 2)
        self._steepest = np.stack([down * rows, down * columns, down, right * rows, right * columns, right])
        hessian = (self._steepest @ self._steepest.T).astype(np.float64)
        self._inverse_hessian = np.linalg.inv(hessian + RIDGE * (np.trace(hessian) / 6.0 + 1e-9) * np.eye(6))

    def warped(
        self, other: NDArray[np.float32], warp: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Sample another picture [S, S] where the template's pixels fall: values [S * S], and which lie inside it."""
        rows = warp[0, 0] * self._rows + warp[0, 1] * self._columns + (warp[0, 2] + self._middle)
        columns = warp[1, 0] * self._rows + warp[1, 1] * self._columns + (warp[1, 2] + self._middle)
        last = self.side - 1
        inside = (rows >= 0) & (rows <= last) & (columns >= 0) & (columns <= last)
        return ndimage.map_coordinates(other, (rows, columns), order=1, mode="nearest"), inside

    def refine(
        self, other: NDArray[np.float32], warp: NDArray[np.float64], *, rounds: int
    ) -> NDArray[np.float64] | None:
        """Improve an affine warp by Gauss-Newton rounds; None if the overlap falls below MIN_OVERLAP.

        Each round solves for the step dp that the *template* would need, sum (S dp - e)^2 with S its steepest-descent
        images and e the gain-corrected difference, and composes the warp with the step's inverse.
        """
        half = self.side / 2.0
        for _ in range(rounds):
            values, inside = self.warped(other, warp)
            overlap = float(inside.mean())
            if overlap < MIN_OVERLAP:
                return None
            seen = values[inside] - values[inside].mean()
            wanted = self.values[inside] - self.values[inside].mean()
            gain = max(0.1, float(seen @ wanted) / (float(seen @ seen) + 1e-9))
            error = np.zeros_like(values)
            error[inside] = gain * seen - wanted
            step = self._inverse_hessian @ (self._steepest @ error).astype(np.float64) / overlap
            warp = _without_step(warp, np.clip(step, -MAX_STEP_PX, MAX_STEP_PX).reshape(2, 3) / [half, half, 1.0])
        return warp


def _without_step(warp: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compose a warp (A | d) with the inverse of the small warp (I + S | s), step = (S | s)."""
    (a, b), (c, d) = (1.0 + step[0, 0], step[0, 1]), (step[1, 0], 1.0 + step[1, 1])
    linear = warp[:, :2] @ np.array([[d, -b], [-c, a]]) / (a * d - b * c)
    return np.column_stack([linear, warp[:, 2] - linear @ step[:, 2]])


def partial_correlation(
    first: NDArray[np.float32], second: NDArray[np.float32], *, given: NDArray[np.float32], where: NDArray[np.bool_]
) -> float:
    """Correlation of what is left of two pictures after regressing out others (and a constant).

    Args:
        first: one picture, [P].
        second: the other, [P].
        given: [K, P] pictures that are regressed out of both; K may be 0 (the plain correlation).
        where: [P], the pixels that count.

    Returns:
        In [-1, 1]; 0 if nothing is left of one of them.
    """
    counts = where.astype(np.float32)
    regressors = np.concatenate([counts[None], given * counts])
    targets = np.stack([first, second]) * counts
    gram = (regressors @ regressors.T).astype(np.float64)
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram, (regressors @ targets.T).astype(np.float64)).astype(np.float32)
    left = targets - weights.T @ regressors
    lengths = float(left[0] @ left[0]) * float(left[1] @ left[1])
    return float(np.clip((left[0] @ left[1]) / np.sqrt(lengths), -1.0, 1.0)) if lengths > 1e-12 else 0.0
