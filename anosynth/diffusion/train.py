"""Few-shot training of a backbone's U-Net: cached latents and prompts, draws seeded by the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from anosynth.diffusion.attention import trainable_attention
from anosynth.diffusion.latent import LatentDiffusion, Moments
from anosynth.diffusion.loop import CheckpointStore, LoopSettings, TrainResult, run_steps
from anosynth.diffusion.objective import denoising_loss, min_snr_weights, with_prior
from anosynth.diffusion.text import TextEmbedding
from anosynth.seeding import seed_for, torch_generator

Address = tuple[str | int, ...]


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Images and captions as the U-Net sees them, computed once.

    Attributes:
        moments: VAE posterior of N images (each augmentation of an image is an image of its own).
        text: P captions.
        captions: which caption each image has, indices into `text`, [N].
    """

    moments: Moments
    text: TextEmbedding
    captions: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.moments) or len(self.captions) != len(self.moments):
            raise ValueError(f"{len(self.moments)} images and {len(self.captions)} captions; one each, at least one")


@dataclass(frozen=True)
class TrainSettings:
    """What a training step is.

    Attributes:
        loop: steps, learning rate, how often to save and log.
        batch_size: images of each set per step.
        min_snr_gamma: cap of Min-SNR weighting, or None for equal weights.
        prior_weight: lambda of prior preservation; without a prior set it has no effect.
    """

    loop: LoopSettings
    batch_size: int
    min_snr_gamma: float | None = None
    prior_weight: float = 1.0


@dataclass(frozen=True, eq=False)
class StepDraws:
    """Everything random in one step on one set.

    Attributes:
        rows: which images, int64 [B].
        timesteps: int64 [B], uniform over the schedule.
        posterior: noise of the VAE's posterior, [B, C, h, w].
        noise: eps, [B, C, h, w].
    """

    rows: Tensor
    timesteps: Tensor
    posterior: Tensor
    noise: Tensor


def draw_step(
    step: int,
    *,
    seed: int,
    address: Address,
    num_images: int,
    batch_size: int,
    num_timesteps: int,
    shape: Sequence[int],
) -> StepDraws:
    """Draw one step: a pure function of its arguments, on the CPU.

    Images are taken in rounds, each image once per round in an order of the round's own, so that few images are seen
    equally often.

    Args:
        step: i, from 0.
        seed: root seed.
        address: of the training run and the set; step and round numbers are appended.
        num_images: N.
        batch_size: B.
        num_timesteps: T.
        shape: (C, h, w) of the latents.
    """
    rows = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        turn, place = divmod(position, num_images)
        order = torch.randperm(num_images, generator=torch_generator(seed_for(seed, *address, "round", turn)))
        rows.append(int(order[place]))
    generator = torch_generator(seed_for(seed, *address, "step", step))
    return StepDraws(
        rows=torch.tensor(rows),
        timesteps=torch.randint(num_timesteps, (batch_size,), generator=generator),
        posterior=torch.randn(batch_size, *shape, generator=generator),
        noise=torch.randn(batch_size, *shape, generator=generator),
    )


def train(
    backbone: LatentDiffusion,
    parameters: Mapping[str, nn.Parameter],
    shots: TrainingSet,
    prior: TrainingSet | None,
    settings: TrainSettings,
    *,
    seed: int,
    address: Address,
    accelerator: Accelerator,
    checkpoints: CheckpointStore,
    key: str,
) -> TrainResult:
    """Fit trainable parameters of the U-Net to shots, with prior preservation if there is a prior set.

    One evaluation of the U-Net per step serves both sets; VAE and text encoder are not asked.

    Args:
        backbone: its U-Net holds the parameters.
        parameters: what is trained, by name (`adapters.add_lora`).
        shots: the few images.
        prior: images of the untouched backbone, or None.
        settings: steps, batch, weights.
        seed: root seed of every draw.
        address: address of this training, for example ("personalize_normals", "washer").
        accelerator: device and number format.
        checkpoints: where checkpoints are kept.
        key: name of this training's checkpoint.

    Returns:
        Losses of all steps.

    Raises:
        TrainingError: if a loss is not finite.
    """
    sets = {"shots": shots} if prior is None else {"shots": shots, "prior": prior}

    def step_loss(step: int) -> Tensor:
        drawn, latents, texts = [], [], []
        for name, images in sets.items():
            draws = draw_step(
                step,
                seed=seed,
                address=(*address, name),
                num_images=len(images.moments),
                batch_size=settings.batch_size,
                num_timesteps=backbone.schedule.num_timesteps,
                shape=images.moments.mean.shape[1:],
            )
            rows = draws.rows.to(images.moments.mean.device)
            latents.append(images.moments.rows(rows).sample(draws.posterior.to(rows.device)))
            texts.append(images.text.rows([images.captions[row] for row in draws.rows.tolist()]))
            drawn.append(draws)
        text = texts[0] if len(texts) == 1 else texts[0].followed_by(texts[1])
        timesteps = torch.cat([draws.timesteps for draws in drawn])
        clean = torch.cat(latents).to(backbone.device)
        noise = torch.cat([draws.noise for draws in drawn]).to(backbone.device)
        schedule = backbone.schedule
        output = backbone.predict(schedule.add_noise(clean, noise, timesteps), timesteps, text)
        target = schedule.target(clean, noise, timesteps)
        gamma = settings.min_snr_gamma
        weights = None if gamma is None else min_snr_weights(schedule, timesteps, gamma=gamma)
        losses = [
            denoising_loss(output[part], target[part], weights=None if weights is None else weights[part])
            for part in (slice(at, at + settings.batch_size) for at in range(0, len(output), settings.batch_size))
        ]
        return losses[0] if prior is None else with_prior(losses[0], losses[1], weight=settings.prior_weight)

    with trainable_attention(backbone.unet, device=backbone.device, dtype=backbone.dtype):
        return run_steps(
            step_loss,
            parameters,
            settings.loop,
            accelerator=accelerator,
            checkpoints=checkpoints,
            key=key,
            doing=f"training {' '.join(str(part) for part in address)}",
        )
