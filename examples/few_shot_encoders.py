"""Encoders that describe each picture of a unit once for all cells; for examples/few_shot.py."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from anosynth.features.aligned import AlignedFeatures
from anosynth.features.encoder import PatchFeatures
from anosynth.fingerprint import digest_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_OTHERS = 320
"""Three twins and a round trip of 48 queries and eight references, mirrored and spoiled ones too: 1.3 GB at 224 px."""


class RememberedPatches:
    """Satisfies `encoder.PatchFeatures`; exact, because a row depends on its own image alone."""

    def __init__(self, features: PatchFeatures, digests: frozenset[str]) -> None:
        """Remember nothing yet.

        Args:
            features: describes.
            digests: of the pictures worth remembering; others are described anew each time.
        """
        self._features, self._digests = features, digests
        self._found: dict[str, NDArray[np.float32]] = {}

    @property
    def identity(self) -> str:
        """The encoder's own."""
        return self._features.identity

    def patches(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """See `encoder.PatchFeatures.patches`."""
        return np.stack([self._one(image) for image in images])

    def pooled(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """See `encoder.PatchFeatures.pooled`."""
        return self._features.pooled(images)

    def _one(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        digest = digest_pixels(image)
        found = self._found.get(digest)
        if found is None:
            found = self._features.patches([image])[0]
            if digest in self._digests:
                self._found[digest] = found
        return found


class RememberedLevels:
    """Satisfies `aligned.AlignedFeatures`; see `RememberedPatches`.

    Of other pictures, twins above all, the last ones are remembered: detectors that share their twins come one after
    another.
    """

    def __init__(self, features: AlignedFeatures, digests: frozenset[str], *, num_others: int = NUM_OTHERS) -> None:
        """As `RememberedPatches`; 4 MB a picture at 224 px, so 320 of them are 1.3 GB.

        Args:
            features: describes.
            digests: of the pictures worth remembering.
            num_others: how many other pictures are remembered, those described or asked for last; 0: none.
        """
        self._features, self._digests, self._num_others = features, digests, num_others
        self._found: dict[str, tuple[NDArray[np.float32], ...]] = {}
        self._others: OrderedDict[str, tuple[NDArray[np.float32], ...]] = OrderedDict()

    @property
    def identity(self) -> str:
        """The encoder's own."""
        return self._features.identity

    @property
    def levels(self) -> int:
        """The encoder's own."""
        return self._features.levels

    @property
    def local_levels(self) -> tuple[int, ...]:
        """The encoder's own."""
        return self._features.local_levels

    @property
    def text_levels(self) -> tuple[int, ...]:
        """The encoder's own."""
        return self._features.text_levels

    @property
    def temperature(self) -> float:
        """The encoder's own."""
        return self._features.temperature

    def patch_levels(self, images: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], ...]:
        """See `aligned.AlignedFeatures.patch_levels`."""
        return tuple(np.stack(level) for level in zip(*(self._one(image) for image in images), strict=True))

    def project(self, level: int, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `aligned.AlignedFeatures.project`."""
        return self._features.project(level, patches)

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """See `aligned.AlignedFeatures.embed_images`."""
        return self._features.embed_images(images)

    def embed_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `aligned.AlignedFeatures.embed_text`."""
        return self._features.embed_text(prompts)

    def _one(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        digest = digest_pixels(image)
        if digest in self._found:
            return self._found[digest]
        if digest in self._others:
            self._others.move_to_end(digest)
            return self._others[digest]
        found = tuple(level[0] for level in self._features.patch_levels([image]))
        if digest in self._digests:
            self._found[digest] = found
        elif self._num_others:
            self._others[digest] = found
            while len(self._others) > self._num_others:
                self._others.popitem(last=False)
        return found


class LocalLevels:
    """The levels that One-to-Normal's preset `best` compares, side by side; satisfies `encoder.PatchFeatures`.

    With them PatchCore sees the same features: the aligned encoder's `local_levels`, each with rows of length 1.
    """

    def __init__(self, features: AlignedFeatures) -> None:
        """Choose the levels."""
        self._features = features
        self._levels = features.local_levels

    @property
    def identity(self) -> str:
        """The encoder's own, and the levels."""
        return f"{self._features.identity}-levels-{'-'.join(map(str, self._levels))}"

    def patches(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """See `encoder.PatchFeatures.patches`."""
        found = self._features.patch_levels(images)
        return np.concatenate([found[level] for level in self._levels], axis=-1)

    def pooled(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """See `encoder.PatchFeatures.pooled`."""
        return self._features.embed_images(images)
