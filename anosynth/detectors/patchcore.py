"""PatchCore: distance to a coreset of normal patches (Roth et al. 2022, "Towards Total Recall", CVPR)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from anosynth.detectors.maps import resize_map
from anosynth.detectors.protocol import LabelledImage
from anosynth.detectors.state import read_state, write_state
from anosynth.errors import DataError
from anosynth.features.encoder import PatchFeatures
from anosynth.features.k_center import greedy_k_center
from anosynth.features.patch_distances import nearest, nearest_weighted
from anosynth.samples import Prediction
from anosynth.seeding import numpy_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALGORITHM = 2
# The paper smooths with a Gaussian of 4 pixels on maps of 224 pixels over 28 patches: 8 pixels a patch.
PIXELS_A_PATCH = 8
SMOOTHING_PX = 4.0
_LARGEST_EXPONENT = 700.0


class PatchCore:
    """A memory bank of normal patches; one-class, so pairs are ignored; satisfies `protocol.Detector`."""

    def __init__(
        self,
        features: PatchFeatures,
        *,
        coreset_ratio: float,
        neighbours: int,
        seed: int,
        synthetic_weight: float = 1.0,
    ) -> None:
        """Prepare an empty bank.

        Args:
            features: the frozen encoder.
            coreset_ratio: share of the patches kept, (0, 1]; 1 keeps all.
            neighbours: b of the re-weighting, at least 1; 1 switches it off.
            seed: of the coreset's first patch, [0, 2**63).
            synthetic_weight: (0, 1]; a generated patch counts as 1 / weight times as far away. 1: both count alike.
        """
        self._features = features
        self._coreset_ratio = coreset_ratio
        self._neighbours = neighbours
        self._seed = seed
        self._synthetic_weight = synthetic_weight
        self._bank: NDArray[np.float32] | None = None
        self._weights: NDArray[np.float32] = np.ones(0, np.float32)

    def fit(self, normals: Sequence[LabelledImage], pairs: Sequence[LabelledImage]) -> None:
        """Fill the bank M with a greedy k-centre coreset of all patches of the normals (Algorithm 1).

        Differs: no random projection before the selection; it saves time only at sizes beyond ours.

        Args:
            normals: real and, if the arm says so, synthetic normal images; the coreset is chosen from all alike.
            pairs: ignored.

        Raises:
            DataError: if there is no normal image.
        """
        del pairs
        if not normals:
            raise DataError("PatchCore needs normal images and was given none; let the arm use real_normals")
        patches = self._features.patches([labelled.image for labelled in normals])
        points = patches.reshape(-1, patches.shape[-1])
        of_images = np.array([self._synthetic_weight if one.synthetic else 1.0 for one in normals], np.float32)
        weights = np.repeat(of_images, len(points) // len(normals))
        k = max(1, round(self._coreset_ratio * len(points)))
        if k < len(points):
            first = int(numpy_rng(self._seed, "coreset").integers(len(points)))
            kept = greedy_k_center(points, k=k, first=first)
            points, weights = points[kept], weights[kept]
        self._bank, self._weights = np.ascontiguousarray(points), weights

    def predict(self, images: Iterable[tuple[str, NDArray[np.uint8]]]) -> Iterator[Prediction]:
        """Score images by the distance of their patches to the bank.

        The score is the image score s; the map holds the patch distances, raised bilinearly to 8 pixels a patch,
        smoothed with a Gaussian of 4 pixels (the paper's numbers), then resized to the image.
        """
        bank = self._filled()
        for name, image in images:
            patches = self._features.patches([image])[0]
            rows, columns, width = patches.shape
            queries = np.ascontiguousarray(patches.reshape(-1, width))
            distances, indices = nearest_weighted(queries, bank, self._weights)
            score = self._image_score(queries, distances, indices)
            grid = distances.reshape(rows, columns)
            raised = resize_map(grid, size_px=(rows * PIXELS_A_PATCH, columns * PIXELS_A_PATCH))
            smooth = ndimage.gaussian_filter(raised, SMOOTHING_PX, mode="nearest")
            yield Prediction(name, score, resize_map(smooth, size_px=(image.shape[0], image.shape[1])))

    def _image_score(
        self, queries: NDArray[np.float32], distances: NDArray[np.float32], indices: NDArray[np.int64]
    ) -> float:
        """The re-weighted distance of the most anomalous patch (section 3.3).

        | variable   | paper                                                              |
        | ---------- | ------------------------------------------------------------------ |
        | `worst`    | m^{test,*}, the test patch farthest from the bank                  |
        | `match`    | m^*, its nearest neighbour in M                                    |
        | `distance` | s^* = ||m^{test,*} - m^*||_2                                       |
        | `around`   | N_b(m^*), the b patches of M nearest to m^*, itself included       |
        | `weight`   | w = 1 - exp ||m^{test,*} - m^*|| / sum_{m in N_b} exp ||m^{test,*} - m|| |

        Differs: with b = 1 the formula gives 0 for every image; then w = 1. s^* of a generated match is divided by its
        weight; w compares plain distances.
        """
        bank = self._filled()
        # 1. the patch with the greatest distance, and its match
        at = int(np.argmax(distances))
        worst, match, distance = queries[at], bank[indices[at]], float(distances[at])
        b = min(self._neighbours, len(bank))
        if b == 1:
            return distance
        # 2. the neighbourhood of the match in the bank
        around = bank[nearest(match[None], bank, k=b)[1][0]]
        # 3. a match in a sparse neighbourhood says less about what is normal, and weighs more
        far = np.linalg.norm(around.astype(np.float64) - worst, axis=1)
        plain = distance * float(self._weights[indices[at]])
        weight = 1.0 - 1.0 / float(np.sum(np.exp(np.minimum(far - plain, _LARGEST_EXPONENT))))
        return weight * distance

    def save(self, folder: Path) -> None:
        """Write the bank and its settings; see `protocol.Detector.save`."""
        write_state(folder, settings=self._settings(), tensors={"bank": self._filled(), "weights": self._weights})

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; see `protocol.Detector.load`."""
        state = read_state(folder, settings=self._settings())
        self._bank = state["bank"].astype(np.float32, copy=False)
        self._weights = state["weights"].astype(np.float32, copy=False)

    def _settings(self) -> dict[str, str | int | float | bool]:
        return {
            "kind": "patchcore",
            "algorithm": ALGORITHM,
            "features": self._features.identity,
            "coreset_ratio": self._coreset_ratio,
            "neighbours": self._neighbours,
            "synthetic_weight": self._synthetic_weight,
        }

    def _filled(self) -> NDArray[np.float32]:
        if self._bank is None:
            raise RuntimeError("PatchCore is empty: call fit or load first")
        return self._bank
