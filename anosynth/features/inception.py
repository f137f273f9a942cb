"""The Inception network of FID and the Inception score, from a local weight file.

Szegedy et al. 2016, "Rethinking the Inception architecture". The weights are TensorFlow's of 2015-12-05, with which
Heusel et al. 2017 (FID) and Salimans et al. 2016 (Inception score) measured, in the layout that pytorch-fid gives them;
torchvision's ImageNet weights are those of another training: figures on them are not FID, and they are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import inception_v3
from torchvision.models.inception import InceptionA, InceptionC, InceptionE

from anosynth.features.lite import MICRO_BATCH
from anosynth.features.weight_file import read_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

SETTING = "measure.inception"
WANTED = "the weight file of FID's Inception network (pytorch-fid's pt_inception-2015-12-05-6726825d.pth)"
NUM_CLASSES = 1008
NUM_FEATURES = 2048
INPUT_PX = 299
_MEAN_BLOCKS = ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7b")
_MAX_BLOCK = "Mixed_7c"
# Counters of training steps, which files of before 2018 do not have and inference does not read.
_COUNTER = ".num_batches_tracked"


class InceptionFeatures:
    """FID's Inception network, frozen."""

    def __init__(self, path: Path, *, device: str = "cpu") -> None:
        """Open the weights.

        Args:
            path: local file in pytorch-fid's layout, a state dict of torch or safetensors; nothing is downloaded.
            device: torch device.

        Raises:
            BackboneError: if the file is missing, unreadable or of another network.
        """
        file = read_weights(path, setting=SETTING)
        with torch.device("meta"):  # no random initial weights: they would be drawn from the global generator
            network = inception_v3(weights=None, num_classes=NUM_CLASSES, aux_logits=False, init_weights=False)
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        counters = {key: torch.zeros((), dtype=torch.int64) for key in shapes if key.endswith(_COUNTER)}
        weights = file.match(shapes, optional=counters, setting=SETTING, wanted=WANTED)
        network.load_state_dict({**counters, **weights}, assign=True)
        for name in _MEAN_BLOCKS:
            setattr(network, name, _Repooled(getattr(network, name), _mean_of_real_cells))
        setattr(network, _MAX_BLOCK, _Repooled(getattr(network, _MAX_BLOCK), _largest_of_cells))
        self._device = torch.device(device)
        self._class_rows = network.fc.weight.detach().to(self._device)
        network.fc = nn.Identity()
        self._network = network.eval().requires_grad_(False).to(self._device)
        self._sha256 = file.sha256

    @property
    def sha256(self) -> str:
        """SHA-256 of the weight file, hexadecimal."""
        return self._sha256

    def pooled(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Describe every image by the mean of the network's last map ("pool3"), which FID compares.

        Images are resized to 299 x 299 bilinearly without smoothing first, as pytorch-fid does it: one larger than that
        is aliased, in the published figures too.

        Args:
            images: uint8 RGB [H, W, 3] of any sizes.

        Returns:
            float32 [B, 2048].
        """
        step = MICRO_BATCH[self._device.type]
        rows = np.empty((len(images), NUM_FEATURES), np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), step):
                x = torch.cat([self._input(image) for image in images[start : start + step]])
                rows[start : start + len(x)] = self._network(x).cpu().numpy()
        return rows

    def class_probabilities(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """p(y | x) of the network's 1008 classes, which the Inception score reads; rows sum to 1.

        softmax(W f) without the classifier's bias, as Salimans et al.'s code computes it.

        Args:
            rows: f, what `pooled` returned, [B, 2048].

        Returns:
            float64 [B, 1008].
        """
        with torch.inference_mode():
            logits = torch.from_numpy(rows).to(self._device) @ self._class_rows.T
            return logits.double().softmax(dim=1).cpu().numpy()

    def _input(self, image: NDArray[np.uint8]) -> Tensor:
        """One image as the network's input, float32 [1, 3, 299, 299] in [-1, 1]."""
        x = torch.from_numpy(np.array(image)).to(self._device).permute(2, 0, 1)[None].float() / 255.0
        x = functional.interpolate(x, size=(INPUT_PX, INPUT_PX), mode="bilinear", align_corners=False)
        return 2.0 * x - 1.0


class _Repooled(nn.Module):
    """A block of torchvision's Inception whose pool branch, the last of its branches, pools in another way.

    torchvision averages with the zeros beyond the border; TensorFlow's network averages over real cells alone, and in
    its last block takes the largest. The branch as torchvision has it is computed and dropped: one 1x1 convolution.
    """

    def __init__(self, block: InceptionA | InceptionC | InceptionE, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._block = block
        self._pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C', h, w]."""
        branches = self._block._forward(x)[:-1]
        return torch.cat([*branches, self._block.branch_pool(self._pool(x))], dim=1)


def _mean_of_real_cells(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _largest_of_cells(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, stride=1, padding=1)
