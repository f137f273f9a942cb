"""What a pair of aligned encoders is (image patches and text in one space), and the function that builds one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, assert_never

import numpy as np

from anosynth.features.aligned_lite import LiteAligned
from anosynth.features.projection import open_projection
from anosynth.features.prompts import anomalous_prompts, normal_prompts
from anosynth.features.ridge_map import normalize_rows
from anosynth.params import AlignedSpec, ComputeParams, EmbeddedAligned, OpenClipAligned

if TYPE_CHECKING:
    from numpy.typing import NDArray


class AlignedFeatures(Protocol):
    """A frozen image encoder with several levels, and a text encoder that speaks of the same things.

    Attributes:
        identity: digest of all weights and of every setting that shapes the numbers; part of fingerprints.
        levels: how many levels `patch_levels` gives.
        text_levels: which of them `project` takes to text: all with a trained projection; without one the last alone,
            where the encoder itself is compared with text (One-to-Normal's fallback: average S_text over these only).
        local_levels: those where a patch says more of its place than of the whole picture: all but the ones that the
            encoder itself takes to text, or all if it takes every one; a trained projection changes nothing of it.
        temperature: factor on cosines before a softmax over texts; 100 for CLIP.
    """

    @property
    def identity(self) -> str:
        """Digest of the weights and of every setting that shapes the numbers."""
        ...

    @property
    def levels(self) -> int:
        """How many levels `patch_levels` gives."""
        ...

    @property
    def text_levels(self) -> tuple[int, ...]:
        """The levels that `project` takes to text, ascending, at least one."""
        ...

    @property
    def local_levels(self) -> tuple[int, ...]:
        """The levels for comparing images place by place, ascending, at least one."""
        ...

    @property
    def temperature(self) -> float:
        """Factor on cosines before a softmax over texts."""
        ...

    def patch_levels(self, images: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], ...]:
        """Describe every patch of every image at several depths.

        Args:
            images: uint8 RGB [H, W, 3] of any sizes; row b of a result depends on images[b] alone.

        Returns:
            One float32 [B, gh, gw, D_l] per level, all on one grid, rows of length 1.
        """
        ...

    def project(self, level: int, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take patches of a level, or means of such, to the text space: float32 [..., D_l] -> [..., E], length 1.

        Raises:
            ValueError: if the level is not among `text_levels`.
        """
        ...

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Describe every image as a whole in the text space: float32 [B, E], rows of length 1."""
        ...

    def embed_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Describe sentences: float32 [P, E], rows of length 1.

        Raises:
            BackboneError: if a prompt holds nothing that the tokenizer knows, or something that it does not know.
        """
        ...


def build_aligned(spec: AlignedSpec, *, compute: ComputeParams) -> AlignedFeatures:
    """Build the pair that a spec names, with its trained projection if it names one.

    The networks run in float32 whatever `compute.dtype` says, as in `encoder.build_features`.

    Args:
        spec: section `aligned` of params.yaml.
        compute: supplies the device.

    Raises:
        ParamsError: if a model's name is unknown.
        BackboneError: if weights are missing, damaged or of another model.
    """
    base = _build_base(spec, compute=compute)
    return base if spec.projection is None else open_projection(Path(spec.projection), base=base)


def _build_base(spec: AlignedSpec, *, compute: ComputeParams) -> AlignedFeatures:
    match spec:
        case EmbeddedAligned():
            return LiteAligned(spec.model, size_px=spec.size_px, levels=spec.levels, device=compute.device)
        case OpenClipAligned():
            # Importing open_clip takes as long as all else together; whoever does not use it need not wait for it.
            from anosynth.features.aligned_clip import ClipAligned, open_clip_model

            opened = open_clip_model(spec.model, checkpoint=spec.checkpoint)
            return ClipAligned(opened, size_px=spec.size_px, num_levels=spec.levels, device=compute.device)
        case _:
            assert_never(spec)


def class_prototypes(features: AlignedFeatures, name: str) -> NDArray[np.float32]:
    """Embed "normal" and "anomalous" for one kind of object: the mean over each ensemble of prompts, scaled to 1.

    Args:
        features: supplies the text encoder.
        name: what the object is called, for example "steel washer".

    Returns:
        float32 [2, E]: normal, anomalous.

    Raises:
        ParamsError: if the name holds no letter or digit.
        BackboneError: if the tokenizer does not know it.
    """
    means = [features.embed_text(prompts(name)).mean(axis=0) for prompts in (normal_prompts, anomalous_prompts)]
    return np.asarray(normalize_rows(np.stack(means)), np.float32)
