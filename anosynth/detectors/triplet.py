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


def nearest_normal(query: Sequence[NDArray[np.float32]], banks: Sequence[Bank]) -> NDArray[np.float32]:
    """S_N's map: cosine distance of each patch to the nearest normal patch anywhere, min_m (1 - <F_q,l(g), m>).

    Args:
        query: per level [gh, gw, D_l].
        banks: per level.

    Returns:
        float32 [n, gh, gw], in [0, 2] (beyond for generated patches of a weight below 1); 0 for a patch of the bank.
    """
    maps = []
    for own, bank in zip(query, banks, strict=True):
        flat = np.ascontiguousarray(own.reshape(-1, own.shape[-1]))
        least = nearest(flat, bank.real)[0][:, 0] ** 2 / 2.0
        if len(bank.synthetic):
            least = np.minimum(least, nearest(flat, bank.synthetic)[0][:, 0] ** 2 / 2.0 / bank.synthetic_weight)
        maps.append(least.reshape(own.shape[:2]).astype(np.float32))
    return np.stack(maps)


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


def branch_score(maps: NDArray[np.float32]) -> float:
    """1/n sum_l max_g of [n, gh, gw]."""
    return float(maps.max(axis=(1, 2)).mean())


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
