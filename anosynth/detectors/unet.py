"""A U-Net localizer: learns defect masks from pairs, real or synthetic, and judges an image by its map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anosynth.detectors.batches import Augmentation, TrainingImages, draw_batch, stack
from anosynth.detectors.losses import dice_loss, focal_loss
from anosynth.detectors.maps import resize_map
from anosynth.detectors.protocol import LabelledImage
from anosynth.detectors.state import read_state, write_state
from anosynth.detectors.training import Batch, train
from anosynth.detectors.unet_network import SIZE_MULTIPLE, UNet, build_unet
from anosynth.errors import DataError
from anosynth.imaging import resize_image, to_unit
from anosynth.samples import Prediction
from anosynth.seeding import numpy_rng, seed_for, torch_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALGORITHM = 1
# The window of the image score, as a share of the side: 21 pixels at 256, as DRAEM and its successors use.
WINDOW_RATIO = 21 / 256


class UNetLocalizer:
    """A compact U-Net trained with focal and Dice loss; satisfies `protocol.Detector`.

    Images are resized to a square of `size_px` (the aspect ratio is given up), maps are resized back. The map holds
    logits: log odds that a pixel is defective. The score of an image is the greatest mean probability of any window of
    21 / 256 of the side, so that one stray pixel does not condemn an image.
    """

    def __init__(
        self,
        *,
        channels: int,
        size_px: int,
        steps: int,
        batch_size: int,
        lr: float,
        normal_ratio: float,
        synthetic_ratio: float,
        synthetic_until: float,
        augmentation: Augmentation,
        init_seed: int,
        draw_seed: int,
        dtype: torch.dtype,
        device: torch.device,
        name: str,
    ) -> None:
        """Draw the initial weights.

        Args:
            channels: of the first level; see `unet_network.UNet`.
            size_px: side at which images are seen, a multiple of 16.
            steps: of the training, at least 1.
            batch_size: images a step.
            lr: peak of the learning rate; see `training.learning_rate`.
            normal_ratio: share of a batch that is normal; see `batches.draw_batch`.
            synthetic_ratio: share of normals and of pairs that is synthetic; see `batches.draw_batch`.
            synthetic_until: share of the steps that draw synthetic images where there are real ones too, (0, 1]; what
                is left of them sees real images alone.
            augmentation: random changes of training images.
            init_seed: of the initial weights. Give the arms of one comparison the same, so that they differ by data.
            draw_seed: of the batches; step s draws from (draw_seed, s) alone.
            dtype: of the forward pass; torch.float32 or torch.bfloat16.
            device: where to compute.
            name: for progress, log and errors.
        """
        if size_px % SIZE_MULTIPLE:
            raise ValueError(f"size_px is {size_px}; it must be a multiple of {SIZE_MULTIPLE}")
        self._channels = channels
        self._size_px = size_px
        self._steps = steps
        self._batch_size = batch_size
        self._lr = lr
        self._normal_ratio = normal_ratio
        self._synthetic_ratio = synthetic_ratio
        self._synthetic_until = synthetic_until
        self._augmentation = augmentation
        self._draw_seed = draw_seed
        self._dtype = dtype
        self._device = device
        self._name = name
        generator = torch_generator(seed_for(init_seed, "init"))
        self._network: UNet = build_unet(channels=channels, generator=generator).to(device).eval()

    def fit(self, normals: Sequence[LabelledImage], pairs: Sequence[LabelledImage]) -> None:
        """Train on batches of normals and pairs; see `protocol.Detector.fit`.

        Raises:
            DataError: if there are no pairs, or no normals although a share of every batch is normal.
            TrainingError: if the loss is no longer finite.
        """
        if not pairs:
            raise DataError(f"{self._name}: a U-Net learns from pairs and was given none; give the arm pairs")
        if not normals and self._normal_ratio > 0.0:
            raise DataError(f"{self._name}: normal_ratio is {self._normal_ratio}, but the arm has no normal images")
        kinds = TrainingImages(
            *(
                stack([item for item in kind if item.synthetic == synthetic], size_px=self._size_px)
                for kind in (normals, pairs)
                for synthetic in (False, True)
            )
        )

        def draw(step: int) -> Batch:
            return draw_batch(
                kinds,
                batch_size=self._batch_size,
                normal_ratio=self._normal_ratio,
                synthetic_ratio=self._synthetic_ratio if step < self._synthetic_until * self._steps else 0.0,
                augmentation=self._augmentation,
                rng=numpy_rng(self._draw_seed, step),
            )

        train(
            self._network,
            draw=draw,
            loss=_loss,
            steps=self._steps,
            peak_lr=self._lr,
            dtype=self._dtype,
            device=self._device,
            name=self._name,
        )

    def predict(self, images: Iterable[tuple[str, NDArray[np.uint8]]]) -> Iterator[Prediction]:
        """Judge images one at a time in float32; see the class for what map and score mean."""
        window = max(1, round(WINDOW_RATIO * self._size_px)) | 1
        for name, image in images:
            pixels = torch.from_numpy(to_unit(resize_image(image, size_px=(self._size_px, self._size_px)))[None])
            with torch.inference_mode():
                logits = self._network(pixels.to(self._device))
                means = functional.avg_pool2d(logits.double().sigmoid(), window, stride=1)
            anomaly_map = resize_map(logits[0, 0].cpu().numpy(), size_px=(image.shape[0], image.shape[1]))
            yield Prediction(name, means.max().item(), anomaly_map)

    def save(self, folder: Path) -> None:
        """Write weights and settings; see `protocol.Detector.save`."""
        tensors = {name: tensor.cpu().numpy() for name, tensor in self._network.state_dict().items()}
        write_state(folder, settings=self._settings(), tensors=tensors)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; see `protocol.Detector.load`."""
        tensors = read_state(folder, settings=self._settings())
        self._network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})

    def _settings(self) -> dict[str, str | int | float | bool]:
        return {"kind": "unet", "algorithm": ALGORITHM, "channels": self._channels, "size_px": self._size_px}


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return focal_loss(logits, targets) + dice_loss(logits, targets)
