"""Few-shot training of a backbone's U-Net: cached latents and prompts, draws seeded by the step.

Rows may begin from a shot with a planted defect and end at the shot without it, so that a generator is asked to leave
out what does not belong there and to keep all else. Denoising sound shots teaches a part of that by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from anosynth.diffusion.attention import trainable_attention
from anosynth.diffusion.latent import LatentDiffusion, Moments
from anosynth.diffusion.loop import CheckpointStore, HeldOut, LoopSettings, TrainResult, run_steps
from anosynth.diffusion.objective import denoising_loss, min_snr_weights, with_defect, with_prior
from anosynth.diffusion.schedule import NoiseSchedule
from anosynth.diffusion.text import TextEmbedding
from anosynth.seeding import seed_for, torch_generator

Address = tuple[str | int, ...]
# With next to no noise a defect that is to vanish stands for any amount of it; Min-SNR weighs such rows down.
PLANTED_GAMMA = 5.0
HELD_OUT_LEVELS = 8
"""Timesteps that the loss on held-out images is taken at, evenly apart over the schedule."""


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Images and captions as the U-Net sees them, computed once.

    Attributes:
        moments: VAE posterior of N images (each augmentation of an image is an image of its own).
        text: P captions.
        captions: which caption each image has, indices into `text`, [N].
        planted: latents of V variants of each image, with defects planted into it, [N, V, C, h, w]; None: there are
            none, and nothing is learned to be left out.
    """

    moments: Moments
    text: TextEmbedding
    captions: tuple[int, ...]
    planted: Tensor | None = None

    def __post_init__(self) -> None:
        if not len(self.moments) or len(self.captions) != len(self.moments):
            raise ValueError(f"{len(self.moments)} images and {len(self.captions)} captions; one each, at least one")
        if self.planted is not None and len(self.planted) != len(self.moments):
            raise ValueError(f"{len(self.moments)} images and planted defects for {len(self.planted)}; one each")


@dataclass(frozen=True)
class TrainSettings:
    """What a training step is.

    Attributes:
        loop: steps, learning rate, how often to save and log.
        batch_size: images of each set per step.
        min_snr_gamma: cap of Min-SNR weighting, or None for equal weights.
        prior_weight: lambda of prior preservation; without a prior set it has no effect.
        planted_ratio: share of the rows that begin from a planted defect, where a set has such variants.
        planted_below: share of T that such rows are re-noised by at most.
        validate_every: steps between looks at held-out images, where there are any.
        patience: looks without a better one before training ends.
    """

    loop: LoopSettings
    batch_size: int
    min_snr_gamma: float | None = None
    prior_weight: float = 1.0
    planted_ratio: float = 0.0
    planted_below: float = 1.0
    validate_every: int = 20
    patience: int = 3


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

    Returns:
        B draws.
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


@dataclass(frozen=True, eq=False)
class PlantedDraws:
    """Everything random about the planted defects of one step.

    Attributes:
        used: whether a row begins from a planted defect, bool [B].
        variants: which of its image's, int64 [B].
        timesteps: of these rows, int64 [B], uniform below `num_timesteps`.
        shares: how much of the defect is there, [B] in [0, 1]: all of it in every second row, else any share, because
            a sampler that has begun to leave a defect out meets the rest of it.
    """

    used: Tensor
    variants: Tensor
    timesteps: Tensor
    shares: Tensor


def draw_planted(
    step: int,
    *,
    seed: int,
    address: Address,
    batch_size: int,
    num_variants: int,
    planted_ratio: float,
    num_timesteps: int,
) -> PlantedDraws:
    """Draw the planted defects of one step: a pure function of its arguments, on the CPU.

    Args:
        step: i, from 0.
        seed: root seed.
        address: of the training run and the set.
        batch_size: B.
        num_variants: V, of each image.
        planted_ratio: share of the rows that begin from one, in [0, 1].
        num_timesteps: these rows are re-noised to timesteps from 0 to this less 1; at least 1, at most T.

    Returns:
        B draws, also for the rows that begin from none.
    """
    generator = torch_generator(seed_for(seed, *address, "planted", step))
    used, whole, shares = torch.rand(3, batch_size, generator=generator)
    return PlantedDraws(
        used=used < planted_ratio,
        variants=torch.randint(num_variants, (batch_size,), generator=generator),
        timesteps=torch.randint(num_timesteps, (batch_size,), generator=generator),
        shares=torch.where(whole < 0.5, torch.ones(()), shares),
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
    held_out: TrainingSet | None = None,
) -> TrainResult:
    """Fit trainable parameters of the U-Net to shots, with prior preservation if there is a prior set.

    One evaluation of the U-Net per step serves both sets; a look at held-out images takes `HELD_OUT_LEVELS` more. VAE
    and text encoder are not asked.

    Args:
        backbone: its U-Net holds the parameters.
        parameters: what is trained, by name (`adapters.add_lora` or `adapters.all_trainable`).
        shots: the few images.
        prior: images of the untouched backbone, or None.
        settings: steps, batch, weights.
        seed: root seed of every draw.
        address: address of this training, for example ("personalize_normals", "washer").
        accelerator: device and number format.
        checkpoints: where checkpoints are kept.
        key: name of this training's checkpoint.
        held_out: images that are not trained on, by whose denoising error training ends early; None: it does not.

    Returns:
        Losses of the steps taken, and which step the parameters are of.

    Raises:
        TrainingError: as `loop.run_steps`.
    """
    schedule = backbone.schedule
    sets = {"shots": shots} if prior is None else {"shots": shots, "prior": prior}

    def batch_of(step: int, name: str, images: TrainingSet) -> _SetBatch:
        where: Address = (*address, name)
        draws = draw_step(
            step,
            seed=seed,
            address=where,
            num_images=len(images.moments),
            batch_size=settings.batch_size,
            num_timesteps=schedule.num_timesteps,
            shape=images.moments.mean.shape[1:],
        )
        rows = draws.rows.to(images.moments.mean.device)
        clean = images.moments.rows(rows).sample(draws.posterior.to(rows.device)).to(backbone.device)
        text = images.text.rows([images.captions[row] for row in draws.rows.tolist()])
        noise, none = draws.noise.to(backbone.device), torch.zeros(len(rows), dtype=torch.bool)
        if images.planted is None:
            return _SetBatch(clean, clean, noise, draws.timesteps, none, text)
        more = draw_planted(
            step,
            seed=seed,
            address=where,
            batch_size=settings.batch_size,
            num_variants=images.planted.shape[1],
            planted_ratio=settings.planted_ratio,
            num_timesteps=max(1, round(settings.planted_below * schedule.num_timesteps)),
        )
        defect = images.planted[rows, more.variants.to(rows.device)] - images.moments.mean[rows]
        shares = (more.used * more.shares).reshape(-1, 1, 1, 1).to(clean)
        timesteps = torch.where(more.used, more.timesteps, draws.timesteps)
        return _SetBatch(clean + shares * defect.to(clean), clean, noise, timesteps, more.used, text)

    def step_loss(step: int) -> Tensor:
        found = [batch_of(step, name, images) for name, images in sets.items()]
        text = found[0].text if len(found) == 1 else found[0].text.followed_by(found[1].text)
        begun, clean = torch.cat([one.begun for one in found]), torch.cat([one.clean for one in found])
        noise, timesteps = torch.cat([one.noise for one in found]), torch.cat([one.timesteps for one in found])
        holds_defect = torch.cat([one.holds_defect for one in found])
        noisy = schedule.add_noise(begun, noise, timesteps)
        output = backbone.predict(noisy, timesteps, text)
        target = schedule.target(
            clean, with_defect(schedule, noise, defect=begun - clean, timesteps=timesteps), timesteps
        )
        weights = _weights(schedule, timesteps, holds_defect, gamma=settings.min_snr_gamma)
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
            held_out=None
            if held_out is None
            else HeldOut(
                held_out_loss(backbone, held_out, seed=seed, address=address),
                settings.validate_every,
                settings.patience,
            ),
        )


def held_out_loss(
    backbone: LatentDiffusion, images: TrainingSet, *, seed: int, address: Address
) -> Callable[[], Tensor]:
    """The denoising error on images that are not trained on, as a function of the U-Net alone.

    L = mean_n mean_t mean_{c,h,w} (output - target)^2 over the N images and t = (2 i + 1) T / 16 rounded down, i from 0
    to 7 (`HELD_OUT_LEVELS`): at the mean of the VAE's posterior, by noise that is drawn once, so looks at different
    steps can be compared.

    Args:
        backbone: whose U-Net is asked, as it is at the time, once for each t and all images.
        images: N held-out images; their planted defects have no part in it.
        seed: root seed of the noise; every image has noise of its own.
        address: of the training; "held_out" and the image's number are appended.

    Returns:
        A function of no arguments that gives L, scalar, float32.
    """
    clean = images.moments.mean
    seeds = [seed_for(seed, *address, "held_out", row) for row in range(len(clean))]
    noise = torch.stack(
        [torch.randn(HELD_OUT_LEVELS, *clean.shape[1:], generator=torch_generator(one)) for one in seeds]
    )
    text, total = images.text.rows(list(images.captions)), backbone.schedule.num_timesteps
    levels = [(2 * level + 1) * total // (2 * HELD_OUT_LEVELS) for level in range(HELD_OUT_LEVELS)]

    def loss() -> Tensor:
        errors = []
        for number, level in enumerate(levels):
            timesteps, eps = torch.full((len(clean),), level), noise[:, number].to(clean)
            output = backbone.predict(backbone.schedule.add_noise(clean, eps, timesteps), timesteps, text)
            errors.append(denoising_loss(output, backbone.schedule.target(clean, eps, timesteps)))
        return torch.stack(errors).mean()

    return loss


@dataclass(frozen=True, eq=False)
class _SetBatch:
    """The rows of one set in one step, as the U-Net is asked and answered.

    Attributes:
        begun: what noise is added to, [B, C, h, w].
        clean: z_0 that the network is to find, likewise: `begun` without its planted defect.
        noise: eps, likewise.
        timesteps: int64 [B].
        holds_defect: which rows hold a planted defect, bool [B].
        text: their prompts.
    """

    begun: Tensor
    clean: Tensor
    noise: Tensor
    timesteps: Tensor
    holds_defect: Tensor
    text: TextEmbedding


def _weights(schedule: NoiseSchedule, timesteps: Tensor, holds_defect: Tensor, *, gamma: float | None) -> Tensor | None:
    """Min-SNR weights of the rows that have them: all, if `gamma` is given, else those with a planted defect."""
    if gamma is None and not holds_defect.any():
        return None
    weights = min_snr_weights(schedule, timesteps, gamma=PLANTED_GAMMA if gamma is None else gamma)
    return weights if gamma is not None else torch.where(holds_defect, weights, torch.ones_like(weights))
