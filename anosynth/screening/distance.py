"""How far a synthetic normal image lies from the real ones, in patch features (PatchCore's notion of normality)."""

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


class NormalDistance:
    """Distance to the normal shots, in units of the distance of the shots among each other."""

    def __init__(self, features: PatchFeatures, shots: Sequence[NDArray[np.uint8]]) -> None:
        """Describe the normal shots and measure how far each is from the others.

        Args:
            features: the encoder.
            shots: uint8 RGB [H, W, 3], at least one. A single shot is compared with its mirror image.

        Raises:
            ValueError: if there are no shots.
        """
        if not shots:
            raise ValueError("there are no normal shots to measure a distance to")
        self._features = features
        described = [self._patches(shot) for shot in shots]
        if len(shots) == 1:
            among = [_far(self._patches(np.ascontiguousarray(shots[0][:, ::-1])), described[0])]
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


def _far(queries: NDArray[np.float32], bank: NDArray[np.float32]) -> float:
    return float(np.quantile(nearest(queries, bank)[0], PATCH_QUANTILE))
