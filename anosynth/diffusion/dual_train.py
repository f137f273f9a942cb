"""Training of two branches on few pairs of a defective image and its part (DualAnoDiff, Jin et al. 2025, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from anosynth.diffusion.dual import DualAdapter, attach, detach
from anosynth.diffusion.latent import LatentDiffusion, Moments
from anosynth.diffusion.loop import CheckpointStore, LoopSettings, TrainResult, run_steps
from anosynth.diffusion.objective import denoising_loss, min_snr_weights
from anosynth.diffusion.text import TextEmbedding
from anosynth.diffusion.train import Address, draw_step


@dataclass(frozen=True, eq=False)
class DualSet:
    """Shots as both branches see them, computed once.

    Attributes:
        whole: VAE posterior of the N defective images (each augmentation is an image of its own).
        part: VAE posterior of their anomaly parts on the neutral background, same order.
        text: captions.
        whole_captions, part_captions: index into `text` of each image's caption in branch 0 and 1, [N] each.
    """

    whole: Moments
    part: Moments
    text: TextEmbedding
    whole_captions: tuple[int, ...]
    part_captions: tuple[int, ...]

    def __post_init__(self) -> None:
        counts = {len(self.whole), len(self.part), len(self.whole_captions), len(self.part_captions)}
        if len(counts) != 1 or counts == {0}:
            raise ValueError(f"images, parts and captions must be as many, at least one; got {sorted(counts)}")


@dataclass(frozen=True)
class DualTrainSettings:
    """What a training step is.

    Attributes:
        loop: steps, learning rate, how often to save and log.
        batch_size: pairs per step.
        min_snr_gamma: cap of Min-SNR weighting, or None for equal weights (the paper's).
    """

    loop: LoopSettings
    batch_size: int
    min_snr_gamma: float | None = None


def train_dual(
    backbone: LatentDiffusion,
    adapter: DualAdapter,
    shots: DualSet,
    settings: DualTrainSettings,
    *,
    seed: int,
    address: Address,
    accelerator: Accelerator,
    checkpoints: CheckpointStore,
    key: str,
) -> TrainResult:
    """Fit a dual adapter, in place; the frozen U-Net sees both branches in one evaluation per step.

    L = mean over both branches of (prediction - target)^2, with one timestep per pair, shared by its branches, and
    noise of each branch's own (half the paper's sum of two expectations).

    Args:
        backbone: frozen; its own attention is back when this returns or raises.
        adapter: made for this backbone's U-Net, on its device, float32.
        shots: the few pairs.
        settings: steps and batch.
        seed: root seed of every draw.
        address: address of this training.
        accelerator: device and number format.
        checkpoints: where checkpoints are kept.
        key: name of this training's checkpoint.

    Raises:
        TrainingError: if a loss is not finite.
    """
    schedule = backbone.schedule
    device = backbone.device

    def step_loss(step: int) -> Tensor:
        whole, part = (
            draw_step(
                step,
                seed=seed,
                address=(*address, branch),
                num_images=len(shots.whole),
                batch_size=settings.batch_size,
                num_timesteps=schedule.num_timesteps,
                shape=shots.whole.mean.shape[1:],
            )
            for branch in ("whole", "part")
        )
        rows = whole.rows.to(shots.whole.mean.device)
        latents = [
            moments.rows(rows).sample(draws.posterior.to(rows.device))
            for moments, draws in ((shots.whole, whole), (shots.part, part))
        ]
        clean = torch.cat(latents).to(device)
        noise = torch.cat([whole.noise, part.noise]).to(device)
        timesteps = whole.timesteps.repeat(2)
        captions = [side[row] for side in (shots.whole_captions, shots.part_captions) for row in whole.rows.tolist()]
        output = backbone.predict(schedule.add_noise(clean, noise, timesteps), timesteps, shots.text.rows(captions))
        gamma = settings.min_snr_gamma
        weights = None if gamma is None else min_snr_weights(schedule, timesteps, gamma=gamma)
        return denoising_loss(output, schedule.target(clean, noise, timesteps), weights=weights)

    attach(backbone.unet, adapter)
    try:
        return run_steps(
            step_loss,
            dict(adapter.named_parameters()),
            settings.loop,
            accelerator=accelerator,
            checkpoints=checkpoints,
            key=key,
            doing=f"training {' '.join(str(part) for part in address)}",
        )
    finally:
        detach(backbone.unet)
