"""The decoder of one subject: the backbone's own, trained a little further on the subject's shots.

A small autoencoder leaves its grain on every picture. What is drawn of one object needs no decoder for all the world: a
few steps on a handful of shots give it that object's surface back. Encoder and U-Net stay as they are, so latents and
adapters stay valid. Beyond the papers, and off unless asked for: Stable Diffusion's decoder is large and draws well.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from anosynth.diffusion.adapters import Adapter, merged
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.loop import CheckpointStore, LoopSettings, run_steps
from anosynth.diffusion.objective import perceptual_loss, reconstruction_loss
from anosynth.diffusion.train import Address
from anosynth.errors import BackboneError
from anosynth.features.lite import open_network
from anosynth.imaging import to_unit
from anosynth.seeding import seed_for, torch_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH_SIZE = 8
WINDOW_RATIO = 0.75
"""Side of the windows that are decoded, as a share of the latents'."""
MOST_NOISE = 0.1
"""Latents carry noise of up to this share of their own deviation: a sampler's are never as clean as the encoder's."""
SSIM_WEIGHT = 0.2
PERCEPTUAL_WEIGHT = 0.3


def fit_decoder(
    backbone: LatentDiffusion,
    images: Sequence[NDArray[np.uint8]],
    settings: LoopSettings,
    *,
    seed: int,
    address: Address,
    accelerator: Accelerator,
    checkpoints: CheckpointStore,
    key: str,
) -> dict[str, Tensor]:
    """Train a copy of the decoder on the round trips of some images; a run that was stopped goes on.

    L = mean |output - image| + 0.2 (1 - SSIM) + 0.3 perceptual distance, over random windows of noisy latents.

    Args:
        backbone: whose decoder; left as it is.
        images: uint8 RGB [H, W, 3], of one size that is a multiple of the VAE's factor.
        settings: how long, in steps of `BATCH_SIZE` windows, and how fast; with 0 steps nothing is trained.
        seed: root seed.
        address: of this training.
        accelerator: device and number format.
        checkpoints: where checkpoints are kept.
        key: name of this training's checkpoint.

    Returns:
        Weights by their names in the decoder, float16 on the CPU; none with 0 steps.

    Raises:
        TrainingError: if the loss is not finite.
    """
    if not settings.steps:
        return {}
    latents = backbone.unscaled(backbone.encode(images))
    pixels = torch.from_numpy(to_unit(np.stack(images))).to(latents.device)
    deviation = float(latents.std())
    network = copy.deepcopy(backbone.vae).float().requires_grad_(False)
    parameters = dict(sorted(network.decoder.named_parameters()))
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    height, width = latents.shape[-2:]
    rows, columns = (max(1, round(WINDOW_RATIO * side)) for side in (height, width))
    factor = backbone.factor
    judge = open_network("lite0", size_px=rows * factor, device=latents.device)

    def step_loss(step: int) -> Tensor:
        generator = torch_generator(seed_for(seed, *address, "decoder", step))
        chosen = torch.randint(len(images), (BATCH_SIZE,), generator=generator)
        top = int(torch.randint(height - rows + 1, (), generator=generator))
        left = int(torch.randint(width - columns + 1, (), generator=generator))
        strength = MOST_NOISE * deviation * torch.rand(BATCH_SIZE, 1, 1, 1, generator=generator)
        noise = strength * torch.randn(BATCH_SIZE, latents.shape[1], rows, columns, generator=generator)
        seen = latents[chosen, :, top : top + rows, left : left + columns] + noise.to(latents)
        wanted = pixels[
            chosen, :, factor * top : factor * (top + rows), factor * left : factor * (left + columns)
        ].contiguous(memory_format=torch.channels_last)
        output = network.decode(seen).sample.float()
        plain = reconstruction_loss(output, wanted, ssim_weight=SSIM_WEIGHT)
        return plain + PERCEPTUAL_WEIGHT * perceptual_loss(judge, output, wanted)

    run_steps(
        step_loss,
        parameters,
        settings,
        accelerator=accelerator,
        checkpoints=checkpoints,
        key=key,
        doing=f"training {' '.join(str(part) for part in address)} decoder",
    )
    return {name: value.detach().half().cpu().contiguous() for name, value in parameters.items()}


@contextmanager
def decoding(backbone: LatentDiffusion, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the backbone decode with a subject's decoder; its own is back at the end, bit for bit.

    Args:
        backbone: changed in place meanwhile.
        weights: from `fit_decoder`; none of them change nothing.

    Raises:
        BackboneError: if they do not fit the decoder.
    """
    own = dict(backbone.vae.decoder.named_parameters()) if weights else {}
    strange = sorted(
        name
        for name in own.keys() | weights.keys()
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    )
    if strange:
        raise BackboneError(
            f"the adapter's decoder does not fit this backbone: {strange[0]} is missing, unexpected or of another size "
            f"(and {len(strange) - 1} more are); train the adapter again on this backbone"
        )
    kept = {name: parameter.detach().clone() for name, parameter in own.items()}
    try:
        _put(own, weights)
        yield
    finally:
        _put(own, kept)


@contextmanager
def personalized(backbone: LatentDiffusion, adapter: Adapter) -> Iterator[None]:
    """Draw with all that an adapter of normals holds: its update of the U-Net, merged, and its decoder, if it has one.

    Raises:
        BackboneError: if it belongs to another backbone or does not fit.
    """
    with merged(backbone.unet, adapter, backbone=backbone.identity), decoding(backbone, adapter.decoder):
        yield


@torch.no_grad()
def _put(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
