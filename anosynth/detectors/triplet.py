"""The three comparisons of One-to-Normal (Li et al. 2024, section 4.2) on a grid of patches.

| here | meaning | symbol |
| --- | --- | --- |
| level l | depth of the encoder, 0 to n - 1; its patches have length 1 | l |
| `query` | patches of the query, per level [gh, gw, D_l] | F_q,l(g) |
| `twins` | patches of its normal twins, per level [c, gh, gw, D_l] | F_xhat,l(g) |
| `bank` | patches of all normal images, per level [M, D_l] | M_l |

Each comparison gives [n, gh, gw], higher is more anomalous. A branch's score is the mean over levels of the greatest
value (`branch_score`), its map the mean over levels (`branch_map`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from scipy import ndimage

from anosynth.detectors.maps import resize_map
from anosynth.features.patch_distances import nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMOOTHING_PX = 4.0


class TextSpace(Protocol):
    """What the text branch needs of an encoder."""

    @property
    def temperature(self) -> float:
        """Factor on cosines before the softmax, 100 for CLIP."""
        ...

    @property
    def text_levels(self) -> tuple[int, ...]:
        """The levels that `project` takes to text, at least one."""
        ...

    def project(self, level: int, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Patches [..., D_l] -> the text space [..., E], length 1."""
        ...


@dataclass(frozen=True, eq=False)
class Bank:
    """Normal patches of one level.

    Attributes:
        real: patches of real images, float32 [M, D], rows of length 1.
        synthetic: patches of generated images, float32 [N, D]; N may be 0.
        synthetic_weight: (0, 1]; a generated patch counts as 1 / weight times as far away. 1: both count alike.
    """

    real: NDArray[np.float32]
    synthetic: NDArray[np.float32]
    synthetic_weight: float


def same_position(
    query: Sequence[NDArray[np.float32]], twins: Sequence[NDArray[np.float32]], *, tolerance: int = 0
) -> NDArray[np.float32]:
    """S_P's map: cosine distance of each patch to the patch of its twin at the same place.

        1 - <F_q,l(g), F_xhat,l(g')>, the least over the twins and over |g' - g| <= tolerance

    Equal patches have distance exactly 0: 1 - <a, b> = |a - b|^2 / 2 for vectors of length 1.

    Args:
        query: per level [gh, gw, D_l].
        twins: per level [c, gh, gw, D_l]; several are compared patch by patch, so that a normal patch needs to be drawn
            well in one of them only.
        tolerance: 0 compares one place (the paper); 1 a neighbourhood of 3 x 3.

    Returns:
        float32 [n, gh, gw], in [0, 2].
    """
    maps = []
    for own, drawn in zip(query, twins, strict=True):
        rows, columns = own.shape[:2]
        padded = np.pad(drawn, ((0, 0), (tolerance,) * 2, (tolerance,) * 2, (0, 0)), mode="edge")
        least = np.full((rows, columns), np.inf, np.float32)
        for down in range(2 * tolerance + 1):
            for right in range(2 * tolerance + 1):
                apart = padded[:, down : down + rows, right : right + columns] - own
                least = np.minimum(least, 0.5 * np.einsum("cijd,cijd->cij", apart, apart).min(axis=0))
        maps.append(least)
    return np.stack(maps)


def nearest_normal(
    query: Sequence[NDArray[np.float32]], banks: Sequence[Bank], *, place_weight: float = 0.0
) -> NDArray[np.float32]:
    """S_N's map: cosine distance of each patch to the nearest normal patch, min_m (1 - <F_q,l(g), m>).

    Args:
        query: per level [gh, gw, D_l].
        banks: per level; with a place weight, whole images patch by patch, row after row.
        place_weight: w of the distance d / w_s + w |g - g_m|^2 that is minimized, with places as shares of the sides:
            what is normal here need not be normal elsewhere. 0 compares with every patch alike (the paper).

    Returns:
        float32 [n, gh, gw], at least 0; in [0, 2] without a place weight and generated patches of a weight below 1. 0
        for a patch of the bank at its place.
    """
    maps = []
    for own, bank in zip(query, banks, strict=True):
        least = _least_distance(own, bank.real, 1.0, place_weight)
        if len(bank.synthetic):
            least = np.minimum(least, _least_distance(own, bank.synthetic, bank.synthetic_weight, place_weight))
        maps.append(least.astype(np.float32))
    return np.stack(maps)


def _least_distance(
    own: NDArray[np.float32], rows: NDArray[np.float32], weight: float, place_weight: float
) -> NDArray[np.float32]:
    """Distance of each patch [gh, gw, D] to the nearest of the rows [M, D], [gh, gw]."""
    height, width, depth = own.shape
    if place_weight == 0.0:
        flat = np.ascontiguousarray(own.reshape(-1, depth))
        distances: NDArray[np.float32] = nearest(flat, rows)[0][:, 0].reshape(height, width) ** 2 / 2.0 / weight
        return distances
    images = rows.reshape(-1, height * width, depth)
    return nearest_in_place(own, images, weight=weight, place_weight=place_weight)


def nearest_in_place(
    own: NDArray[np.float32], images: NDArray[np.float32], *, weight: float, place_weight: float
) -> NDArray[np.float32]:
    """Least of (1 - cosine) / weight + place_weight |g - g_m|^2 over all patches of all images, for every patch.

    Candidates come from one matrix product per image; their distances are computed again by subtraction, so that equal
    patches at one place are at distance 0 exactly.

    Args:
        own: rows of length 1, float32 [gh, gw, D].
        images: likewise, float32 [R, gh * gw, D], R at least 1.
        weight: of the images, (0, 1].
        place_weight: w, above 0.

    Returns:
        float32 [gh, gw].
    """
    height, width, depth = own.shape
    rows, columns = np.divmod(np.arange(height * width), width)
    apart = [((at[:, None] - at[None]) / length) ** 2 for at, length in ((rows, height), (columns, width))]
    away = torch.from_numpy((place_weight * sum(apart)).astype(np.float32))
    flat = torch.from_numpy(np.ascontiguousarray(own.reshape(-1, depth)))
    least = torch.full((height * width,), float("inf"))
    for image in images:
        patches = torch.from_numpy(image)
        at = torch.addmm(away, flat, patches.T, alpha=-1.0 / weight).argmin(dim=1)
        exact = 0.5 * (flat - patches[at]).square().sum(dim=1) / weight
        least = torch.minimum(least, exact + away.gather(1, at[:, None])[:, 0])
    found: NDArray[np.float32] = least.reshape(height, width).numpy()
    return found


def text_probability(
    query: Sequence[NDArray[np.float32]], prototypes: NDArray[np.float32], space: TextSpace
) -> NDArray[np.float32]:
    """S_text's map: softmax(temperature F'_q,l(g) . F_text^T) at "abnormal".

    Without a trained projection only some levels are comparable with text; the mean is then over those alone.

    Args:
        query: per level [gh, gw, D_l].
        prototypes: F_text, mean embedding of the normal and of the abnormal prompts, float32 [2, E], length 1.
        space: projects patches into the text space.

    Returns:
        float32 [text levels, gh, gw], in [0, 1].
    """
    maps = []
    for level in space.text_levels:
        cosines = space.project(level, query[level]).astype(np.float64) @ prototypes.astype(np.float64).T
        apart = space.temperature * (cosines[..., 0] - cosines[..., 1])
        maps.append((1.0 / (1.0 + np.exp(np.clip(apart, -500.0, 500.0)))).astype(np.float32))
    return np.stack(maps)


def branch_score(maps: NDArray[np.float32], *, top_ratio: float = 0.0) -> float:
    """1/n sum_l max_g of [n, gh, gw]; with a ratio, the mean of that share of the patches in place of the greatest."""
    flat = maps.reshape(len(maps), -1)
    count = max(1, round(top_ratio * flat.shape[1]))
    return float(np.sort(flat, axis=1)[:, -count:].mean())


def branch_map(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """1/n sum_l of [n, gh, gw]: float32 [gh, gw]."""
    mean: NDArray[np.float32] = maps.mean(axis=0).astype(np.float32)
    return mean


def full_size(grid: NDArray[np.float32], *, size_px: tuple[int, int]) -> NDArray[np.float32]:
    """Raise a map of the grid to the image: bilinear, then a Gaussian of 4 pixels.

    Args:
        grid: float32 [gh, gw].
        size_px: height and width of the image.

    Returns:
        float32 [H, W].
    """
    raised = resize_map(grid.astype(np.float32, copy=False), size_px=size_px)
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(raised, SMOOTHING_PX, mode="nearest")
    return smooth
