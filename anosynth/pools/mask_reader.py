"""A reader of masks that is learned on a subject's own shots: a few small convolutions over a drawn part.

A threshold on the distance to the neutral colour fails where an autoencoder of factor 8 returns a defect of two pixels
as a wider, fainter line with a halo. The shots' masks are known, so how a soft part is to be read can be learned from
them. The network sees differences to the part's ground alone, 9 px around each pixel.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from anosynth.seeding import seed_for, torch_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHANNELS = 12
_SHAPES = ((CHANNELS, 4, 5, 5), (CHANNELS,), (CHANNELS, CHANNELS, 3, 3), (CHANNELS,), (1, CHANNELS, 3, 3), (1,))
_COUNT = sum(int(np.prod(shape)) for shape in _SHAPES)

STEPS = 120
CROPS = 8
CROP_PX = 40
LR = 1e-2
SCALE = 64.0
"""Differences of so many 8-bit levels are 1 to the network."""

CONTRAST = (0.5, 1.2)
"""Of a training crop against the shot's: drawn defects are often fainter than the shots'."""

NOISE = 6.0
"""Largest standard deviation of noise in a training crop, 8-bit levels: a sampler's ground is rougher than a shot's."""


def learn(
    differences: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.uint8]], *, seed: int
) -> NDArray[np.float32]:
    """Fit the network to shots whose masks are known.

    Crops around the defects, turned and mirrored in all eight ways, fainter or stronger, with noise; cross-entropy plus
    1 - Dice, so that a thin line counts as much as a large stain.

    Args:
        differences: of each part to its ground after the autoencoder, float32 [H, W, 3], 8-bit levels.
        masks: uint8 [H, W] in {0, 255}, with foreground.
        seed: of weights and crops.

    Returns:
        Weights, float32 [3 conv layers, flat], for `read`.
    """
    pictures = [torch.from_numpy(np.ascontiguousarray(one.transpose(2, 0, 1))) for one in differences]
    wanted = [torch.from_numpy((mask > 0).astype(np.float32)) for mask in masks]
    places = [torch.nonzero(mask) for mask in wanted]
    generator = torch_generator(seed_for(seed, "mask_reader"))
    weights = [nn.Parameter(_initial(shape, generator)) for shape in _SHAPES]
    optimizer = torch.optim.AdamW(weights, lr=LR, weight_decay=1e-2)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        drawn = [_crop(pictures, wanted, places, generator) for _ in range(CROPS)]
        given, truth = (torch.stack(side) for side in zip(*drawn, strict=True))
        logits = _forward(given, weights)[:, 0]
        probability = torch.sigmoid(logits)
        overlap = (2.0 * (probability * truth).sum() + 1.0) / (probability.sum() + truth.sum() + 1.0)
        loss = functional.binary_cross_entropy_with_logits(logits, truth) + 1.0 - overlap
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    return torch.cat([weight.detach().flatten() for weight in weights]).numpy()


@torch.inference_mode()
def read(difference: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """How surely each pixel is defect, [H, W] in [0, 1].

    Args:
        difference: of a part to its ground, float32 [H, W, 3], 8-bit levels.
        weights: from `learn`.
    """
    flat, layers, at = torch.from_numpy(np.array(weights)), [], 0
    for shape in _SHAPES:
        size = int(np.prod(shape))
        layers.append(flat[at : at + size].reshape(shape))
        at += size
    given = torch.from_numpy(np.ascontiguousarray(difference.transpose(2, 0, 1)))
    return np.asarray(torch.sigmoid(_forward(given[None], layers))[0, 0].numpy())


def to_text(weights: NDArray[np.float32]) -> str:
    """Weights as base64 of little-endian float32, to stand in JSON."""
    return base64.b64encode(weights.astype("<f4").tobytes()).decode("ascii")


def from_text(text: str) -> NDArray[np.float32]:
    """Rebuild `to_text`.

    Raises:
        ValueError: if it holds another number of weights, or is no base64.
    """
    values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)
    if len(values) != _COUNT or not np.isfinite(values).all():
        raise ValueError(f"a mask reader has {_COUNT} finite weights; found {len(values)}")
    return values


def _initial(shape: tuple[int, ...], generator: Generator) -> Tensor:
    if len(shape) == 1:
        return torch.zeros(shape)
    bound = (3.0 / np.prod(shape[1:])) ** 0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _forward(given: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """Logits [B, 1, H, W] from differences [B, 3, H, W]; beside them the network sees the largest of the three."""
    scaled = given / SCALE
    hidden = torch.cat([scaled, scaled.abs().amax(dim=1, keepdim=True)], dim=1)
    for at in range(0, len(layers), 2):
        weight, bias = layers[at], layers[at + 1]
        hidden = functional.conv2d(hidden, weight, bias, padding=weight.shape[-1] // 2)
        if at + 2 < len(layers):
            hidden = functional.silu(hidden)
    return hidden


def _crop(
    pictures: Sequence[Tensor], masks: Sequence[Tensor], places: Sequence[Tensor], generator: Generator
) -> tuple[Tensor, Tensor]:
    """One training crop near a defect pixel, [3, s, s] and [s, s], s at most `CROP_PX`."""
    one = _integer(len(pictures), generator)
    row, column = places[one][_integer(len(places[one]), generator)].tolist()
    height, width = masks[one].shape
    side = min(CROP_PX, height, width)
    top, left = (
        min(max(at - _integer(side, generator), 0), most - side) for at, most in ((row, height), (column, width))
    )
    at = (slice(top, top + side), slice(left, left + side))
    picture, mask = pictures[one][:, *at], masks[one][at]
    turns, mirrored = _integer(4, generator), _integer(2, generator)
    picture, mask = torch.rot90(picture, turns, (-2, -1)), torch.rot90(mask, turns, (-2, -1))
    if mirrored:
        picture, mask = picture.flip(-1), mask.flip(-1)
    contrast, noise = torch.rand(2, generator=generator).tolist()
    factor = CONTRAST[0] + (CONTRAST[1] - CONTRAST[0]) * contrast
    rough = torch.randn(picture.shape, generator=generator) * (NOISE * noise)
    return picture * factor + rough, mask


def _integer(end: int, generator: Generator) -> int:
    return int(torch.randint(end, (1,), generator=generator))
