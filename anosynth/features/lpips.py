"""LPIPS from local weight files: distances between deep features, weighed as people judge (Zhang et al. 2018).

d(x, y) = sum over layers l of the mean over cells of sum_c w_lc (f_lc(x) - f_lc(y))^2

with f_l of unit length in every cell and w_l >= 0 learned. So d is the squared Euclidean distance of the features
sqrt(w_l / cells_l) f_l laid side by side: one pass per image, whatever the number of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.models import alexnet, vgg16

from anosynth.errors import BackboneError
from anosynth.features.lite import MICRO_BATCH
from anosynth.features.weight_file import weights_in
from anosynth.imaging import resize_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

SETTING = "measure.lpips"
INPUT_PX = 256
# Of ImageNet's colours, for pixels in [-1, 1]: x' = (x - shift) / scale, rounded as the published network has them.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10
_CLASSIFIER = "classifier."


@dataclass(frozen=True)
class _Trunk:
    """Where a published trunk is read: its file's stem, positions of the ReLUs in `features`, and their channels."""

    stem: str
    taps: tuple[int, ...]
    channels: tuple[int, ...]


_TRUNKS = {
    "alex": _Trunk("alexnet", (1, 4, 7, 9, 11), (64, 192, 384, 256, 256)),
    "vgg": _Trunk("vgg16", (3, 8, 15, 22, 29), (64, 128, 256, 512, 512)),
}


class LpipsFeatures:
    """AlexNet or VGG16 with LPIPS's linear heads (version 0.1), frozen."""

    def __init__(self, folder: Path, *, trunk: Literal["alex", "vgg"], device: str = "cpu") -> None:
        """Open the weights of the trunk and of the heads.

        Args:
            folder: holds torchvision's state dict of the trunk as `alexnet` or `vgg16`, and the heads that the lpips
                package ships in weights/v0.1 as `lin_alex` or `lin_vgg`; each ends in .pth or .safetensors. Nothing is
                downloaded.
            trunk: which network.
            device: torch device.

        Raises:
            BackboneError: if a file is missing, unreadable or of another network, or a head has a negative weight.
        """
        self._spec = _TRUNKS[trunk]
        self._device = torch.device(device)
        body = weights_in(folder, self._spec.stem, setting=SETTING)
        heads = weights_in(folder, f"lin_{trunk}", setting=SETTING)
        with torch.device("meta"):  # no random initial weights: they would be drawn from the global generator
            network = alexnet(weights=None) if trunk == "alex" else vgg16(weights=None, init_weights=False)
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        classifier = {key for key in {*shapes, *body.tensors} if key.startswith(_CLASSIFIER)}
        weights = body.match(
            shapes, optional=classifier, setting=SETTING, wanted=f"torchvision's state dict of {self._spec.stem}"
        )
        features = network.features
        features.load_state_dict({key.removeprefix("features."): value for key, value in weights.items()}, assign=True)
        self._features = features.eval().requires_grad_(False).to(self._device)
        layout = {f"lin{at}.model.1.weight": (1, count, 1, 1) for at, count in enumerate(self._spec.channels)}
        linear = heads.match(layout, setting=SETTING, wanted=f"the heads of LPIPS 0.1 for {trunk}")
        if any(float(weight.min()) < 0.0 for weight in linear.values()):
            raise BackboneError(f"{SETTING}: {heads.path} holds a negative weight; a distance has none")
        self._roots = [weight.sqrt().to(self._device) for weight in linear.values()]
        self._shift = torch.tensor(SHIFT, device=self._device)[:, None, None]
        self._scale = torch.tensor(SCALE, device=self._device)[:, None, None]
        self._sha256 = {file.path.name: file.sha256 for file in (body, heads)}

    @property
    def sha256(self) -> dict[str, str]:
        """SHA-256 of both weight files, hexadecimal, by their names."""
        return dict(self._sha256)

    def perceptual(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Describe every image so that squared Euclidean distances are LPIPS distances at 256 x 256 pixels.

        Args:
            images: uint8 RGB [H, W, 3] of any sizes; each is resized to 256 x 256 without aliasing.

        Returns:
            float32 [B, D], D = 0.6 million for AlexNet and 8 million for VGG16.
        """
        step = MICRO_BATCH[self._device.type]
        rows: NDArray[np.float32] | None = None
        with torch.inference_mode():
            for start in range(0, len(images), step):
                found = self._describe(images[start : start + step]).cpu().numpy()
                if rows is None:
                    rows = np.empty((len(images), found.shape[1]), np.float32)
                rows[start : start + len(found)] = found
        if rows is None:
            raise ValueError("no images to describe")
        return rows

    def _describe(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        pixels = np.stack([resize_image(image, size_px=(INPUT_PX, INPUT_PX)) for image in images])
        x = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        x = (x - self._shift) / self._scale
        parts: list[Tensor] = []
        for position, layer in enumerate(self._features[: self._spec.taps[-1] + 1]):
            x = layer(x)
            if position in self._spec.taps:
                parts.append(self._weighed(x, self._roots[len(parts)]))
        return torch.cat(parts, dim=1)

    @staticmethod
    def _weighed(x: Tensor, root: Tensor) -> Tensor:
        """Unit length in every cell, then sqrt(w / cells): float32 [B, C, h, w] -> [B, C h w]."""
        unit = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + EPSILON)
        return (unit * (root / (x.shape[2] * x.shape[3]) ** 0.5)).flatten(1)
