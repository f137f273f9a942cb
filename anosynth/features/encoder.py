"""What a feature encoder is, and the one function that builds one from its spec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from anosynth.features.lite import LiteFeatures
from anosynth.params import ComputeParams, FeatureSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class PatchFeatures(Protocol):
    """A frozen network that describes images patch by patch.

    Attributes:
        identity: digest of the weights and of every setting that shapes the numbers; part of fingerprints.
    """

    @property
    def identity(self) -> str:
        """Digest of the weights and of every setting that shapes the numbers."""
        ...

    def patches(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Describe every patch of every image: uint8 [H, W, 3] each -> float32 [B, gh, gw, D]."""
        ...

    def pooled(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Describe every image as a whole: uint8 [H, W, 3] each -> float32 [B, D], rows of length 1."""
        ...


def build_features(spec: FeatureSpec, *, compute: ComputeParams) -> PatchFeatures:
    """Build the encoder that a spec names.

    The network runs in float32 whatever `compute.dtype` says: that value is about sampling, and distances between
    features would lose 3 % to bfloat16.

    Args:
        spec: section `features` of params.yaml.
        compute: supplies the device.

    Raises:
        BackboneError: if the weights are not installed or damaged.
    """
    return LiteFeatures(spec.model, size_px=spec.size_px, levels=spec.levels, device=compute.device)
