"""How far a synthetic normal image lies from the real ones, in patch features (PatchCore's notion of normality).

Differs: One-to-Normal (Li et al. 2024) describes no filter of its pool. The limit on this distance is a factor set by
hand, in units of how far the shots are from each other; it is no percentile of the distances of augmented shots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from anosynth.features.encoder import PatchFeatures
from anosynth.features.k_center import greedy_k_center
from anosynth.features.patch_distances import nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

# An image is as far away as all but 1 % of its patches are: one odd patch is no other picture.
PATCH_QUANTILE = 0.99
MAX_BANK = 4096
SHIFT_RATIO = 0.05


class NormalDistance:
    """Distance to the normal shots, in units of the distance of the shots among each other."""

    def __init__(self, features: PatchFeatures, shots: Sequence[NDArray[np.uint8]]) -> None:
        """Describe the normal shots and measure how far each is from the others.

        Args:
            features: the encoder.
            shots: uint8 RGB [H, W, 3], at least one. A single shot is compared with views of it that are shifted by 5 %
                of the sides along both diagonals; its mirror image need not be normal.

        Raises:
            ValueError: if there are no shots.
        """
        if not shots:
            raise ValueError("there are no normal shots to measure a distance to")
        self._features = features
        described = [self._patches(shot) for shot in shots]
        if len(shots) == 1:
            among = [_far(self._patches(view), described[0]) for view in _shifted(shots[0])]
        else:
            among = [
                _far(own, np.concatenate(described[:index] + described[index + 1 :]))
                for index, own in enumerate(described)
            ]
        self._unit = max(float(np.mean(among)), 1e-6)
        bank = np.concatenate(described)
        self._bank = bank[greedy_k_center(bank, k=MAX_BANK, first=0)] if len(bank) > MAX_BANK else bank

    def measure(self, image: NDArray[np.uint8]) -> float:
        """Distance of a uint8 RGB image [H, W, 3]: 1 is as far as the shots are from each other; 0 is a shot."""
        return _far(self._patches(image), self._bank) / self._unit

    def _patches(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        grid = self._features.patches([image])
        return grid.reshape(-1, grid.shape[-1])


def _shifted(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    height, width = image.shape[:2]
    down, right = max(1, round(SHIFT_RATIO * height)), max(1, round(SHIFT_RATIO * width))
    padded = np.pad(image, ((down, down), (right, right), (0, 0)), mode="symmetric")
    return [padded[top:, left:][:height, :width] for top in (0, 2 * down) for left in (0, 2 * right)]


def _far(queries: NDArray[np.float32], bank: NDArray[np.float32]) -> float:
    return float(np.quantile(nearest(queries, bank)[0], PATCH_QUANTILE))
