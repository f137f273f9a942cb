"""PaDiM: one Gaussian of normal patches per position (Defard et al. 2020, "PaDiM")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anosynth.detectors.protocol import LabelledImage
from anosynth.detectors.state import read_state, write_state
from anosynth.detectors.triplet import full_size
from anosynth.errors import DataError
from anosynth.features.encoder import PatchFeatures
from anosynth.samples import Prediction
from anosynth.seeding import numpy_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALGORITHM = 2


class PaDiM:
    """Mahalanobis distance of every patch to the normal patches of its own place; satisfies `protocol.Detector`.

    It needs aligned images: a part that lies elsewhere is anomalous. Differs: One-to-Normal, which fits it on generated
    images, adds them all; images drawn from noise alone keep no place and are passed over. One-class, so pairs are
    ignored.
    """

    def __init__(
        self,
        features: PatchFeatures,
        *,
        channels: int,
        shrinkage: float,
        ridge: float,
        synthetic_weight: float,
        seed: int,
    ) -> None:
        """Prepare an unfitted detector.

        Args:
            features: the frozen encoder.
            channels: d, how many randomly chosen channels are looked at; all if there are no more.
            shrinkage: s in [0, 1]: share of the covariance that all positions have in common. 0 is the paper.
            ridge: added to every variance, as a share of the channels' mean variance over all patches; above 0.
            synthetic_weight: (0, 1], what a generated image counts beside a real one's 1.
            seed: of the choice of channels, [0, 2**63).
        """
        self._features = features
        self._channels = channels
        self._shrinkage = shrinkage
        self._ridge = ridge
        self._synthetic_weight = synthetic_weight
        self._seed = seed
        self._state: dict[str, NDArray[np.generic]] = {}

    def fit(self, normals: Sequence[LabelledImage], pairs: Sequence[LabelledImage]) -> None:
        """Estimate a Gaussian at every position p of the grid (section III-B).

            mu_p = sum_i w_i x_ip,    S_p = sum_i w_i (x_ip - mu_p)(x_ip - mu_p)^T,    sum_i w_i = 1
            Sigma_p = (1 - s) S_p + s mean_p' S_p' + epsilon I

        Differs: the covariance that all positions have in common lends its shape where images are few (2 to 8 images
        leave S_p singular); epsilon follows the features' scale instead of being 0.01; the sum is divided by the
        weights instead of N - 1, so that one image is enough; generated images may weigh less.

        Args:
            normals: real images and generated variations of them; free ones are passed over.
            pairs: ignored.

        Raises:
            DataError: if there is no normal image, or free ones alone.
        """
        del pairs
        aligned = [one for one in normals if not one.free]
        if not aligned:
            raise DataError(
                f"PaDiM needs normal images and was given {f'{len(normals)} free samples' if normals else 'none'}; "
                "let the arm use real_normals"
            )
        patches = self._features.patches([labelled.image for labelled in aligned])
        images, rows, columns, width = patches.shape
        chosen = numpy_rng(self._seed, "channels").permutation(width)[: self._channels]
        chosen.sort()
        x = patches[..., chosen].reshape(images, rows * columns, -1).astype(np.float64)
        weights = np.array([self._synthetic_weight if one.synthetic else 1.0 for one in aligned])
        weights /= weights.sum()
        mean = np.einsum("i,ipd->pd", weights, x)
        scaled = (x - mean) * np.sqrt(weights)[:, None, None]
        covariance = np.einsum("ipd,ipe->pde", scaled, scaled)
        spread = float(x.var(axis=(0, 1)).mean()) or 1.0
        common = covariance.mean(axis=0)
        covariance = (1.0 - self._shrinkage) * covariance + self._shrinkage * common
        covariance += self._ridge * spread * np.eye(x.shape[2])
        # Sigma = L L^T, so (x - mu)^T Sigma^-1 (x - mu) = |L^-1 (x - mu)|^2
        whitening = np.linalg.inv(np.linalg.cholesky(covariance)).astype(np.float32)
        self._state = {
            "channels": chosen.astype(np.int64),
            "mean": mean.reshape(rows, columns, -1).astype(np.float32),
            "whitening": np.ascontiguousarray(whitening),
        }

    def predict(self, images: Iterable[tuple[str, NDArray[np.uint8]]]) -> Iterator[Prediction]:
        """Score images by M(x_p) = sqrt((x_p - mu_p)^T Sigma_p^-1 (x_p - mu_p)).

        The map is raised bilinearly to the image and smoothed with a Gaussian of 4 pixels; the score is its maximum.
        """
        state = self._filled()
        mean = state["mean"]
        for name, image in images:
            patches = self._features.patches([image])[0][..., state["channels"]]
            apart = (patches - mean).reshape(-1, mean.shape[2])
            # not einsum: it sums in an order that depends on where the arrays lie in memory
            whitened = (state["whitening"] * apart[:, None, :]).sum(axis=2)
            distances = np.sqrt((whitened * whitened).sum(axis=1))
            grid = distances.reshape(mean.shape[:2]).astype(np.float32)
            raised = full_size(grid, size_px=(image.shape[0], image.shape[1]))
            yield Prediction(name, float(raised.max()), raised)

    def save(self, folder: Path) -> None:
        """Write Gaussians and settings; see `protocol.Detector.save`."""
        write_state(folder, settings=self._settings(), tensors=self._filled())

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; see `protocol.Detector.load`."""
        self._state = read_state(folder, settings=self._settings())

    def _settings(self) -> dict[str, str | int | float | bool]:
        return {
            "kind": "padim",
            "algorithm": ALGORITHM,
            "features": self._features.identity,
            "channels": self._channels,
            "shrinkage": self._shrinkage,
            "ridge": self._ridge,
            "synthetic_weight": self._synthetic_weight,
        }

    def _filled(self) -> dict[str, NDArray[np.generic]]:
        if not self._state:
            raise RuntimeError("PaDiM is empty: call fit or load first")
        return self._state
