"""What a training step of a localizer sees: which images, in which shares, turned and lit how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.imaging import resize_image, resize_mask, to_unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anosynth.detectors.protocol import LabelledImage


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image; masks follow the geometric ones.

    Attributes:
        flip: mirror left-right and top-bottom, each with probability 1/2.
        quarter_turns: turn by 0, 90, 180 or 270 degrees.
        brightness: half width of the uniform shift of all values, as a share of the range; 0 is off.
        contrast: half width of the uniform change of contrast about the middle grey, as a factor 1 +- c; 0 is off.
    """

    flip: bool
    quarter_turns: bool
    brightness: float
    contrast: float


@dataclass(frozen=True, eq=False)
class Stack:
    """Images of one kind at the training size.

    Attributes:
        images: uint8 [N, S, S, 3].
        masks: uint8 [N, S, S] in {0, 255}; all 0 for normals.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.images)


def stack(labelled: Sequence[LabelledImage], *, size_px: int) -> Stack:
    """Resize images (area or bicubic) and masks (nearest, never emptied) to squares of `size_px`."""
    size = (size_px, size_px)
    images = np.zeros((len(labelled), *size, 3), np.uint8)
    masks = np.zeros((len(labelled), *size), np.uint8)
    for at, item in enumerate(labelled):
        images[at] = resize_image(item.image, size_px=size)
        if item.mask is not None:
            masks[at] = resize_mask(item.mask, size_px=size)
    return Stack(images, masks)


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """The four kinds a batch is drawn from; any but both kinds of pairs, or both of normals, may be empty."""

    real_normals: Stack
    synthetic_normals: Stack
    real_pairs: Stack
    synthetic_pairs: Stack


def draw_batch(
    training: TrainingImages,
    *,
    batch_size: int,
    normal_ratio: float,
    synthetic_ratio: float,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw one batch with replacement.

    Args:
        training: what there is.
        batch_size: B.
        normal_ratio: share of the batch that is normal. Shares that are no whole number of images are rounded at
            random, so that they hold on average.
        synthetic_ratio: share of the normals, and of the pairs, that is synthetic where both kinds exist; where only
            one exists, all are of that kind.
        augmentation: random changes, drawn per image.
        rng: of this step.

    Returns:
        Pixels float32 [B, 3, S, S] in [-1, 1] and targets float32 [B, 1, S, S] in {0, 1}.
    """
    num_normal = _round_at_random(normal_ratio * batch_size, rng)
    shares = (
        (num_normal, training.real_normals, training.synthetic_normals),
        (batch_size - num_normal, training.real_pairs, training.synthetic_pairs),
    )
    images, masks = [], []
    for count, real, synthetic in shares:
        ratio = synthetic_ratio if len(real) and len(synthetic) else float(len(synthetic) > 0)
        num_synthetic = _round_at_random(ratio * count, rng)
        for kind, wanted in ((real, count - num_synthetic), (synthetic, num_synthetic)):
            for at in rng.integers(len(kind), size=wanted) if wanted else ():
                image, mask = augment(kind.images[at], kind.masks[at], augmentation=augmentation, rng=rng)
                images.append(image)
                masks.append(mask)
    targets = (np.stack(masks)[:, None] > 0).astype(np.float32)
    return np.stack(images), targets


def augment(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], *, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Turn, mirror and relight one square image.

    The same number of draws is taken whatever is switched on, so switching one change off leaves the others alike.

    Returns:
        Pixels float32 [3, S, S] in [-1, 1], clipped, and the mask moved alike, uint8 [S, S].
    """
    left_right, top_bottom = rng.random(2) < 0.5
    turns = int(rng.integers(4))
    shift, spread = rng.uniform(-1.0, 1.0, 2)
    if augmentation.flip:
        step = (-1 if top_bottom else 1, -1 if left_right else 1)
        image, mask = image[:: step[0], :: step[1]], mask[:: step[0], :: step[1]]
    if augmentation.quarter_turns:
        image, mask = np.rot90(image, turns), np.rot90(mask, turns)
    pixels = to_unit(image)
    pixels *= np.float32(1.0 + augmentation.contrast * spread)
    pixels += np.float32(2.0 * augmentation.brightness * shift)
    return np.clip(pixels, -1.0, 1.0, out=pixels), mask


def _round_at_random(wanted: float, rng: np.random.Generator) -> int:
    """Round to a neighbouring whole number so that the mean is `wanted`; one draw always."""
    return int(np.floor(wanted + rng.random()))
