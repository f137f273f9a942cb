"""Training of two branches on few pairs of a defective image and its part (DualAnoDiff, Jin et al. 2025, section 3)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from anosynth.diffusion.background import check_backgrounds, see_background
from anosynth.diffusion.dual import DualAdapter, attach, detach
from anosynth.diffusion.latent import LatentDiffusion, Moments
from anosynth.diffusion.loop import CheckpointStore, LoopSettings, run_steps
from anosynth.diffusion.objective import denoising_loss, min_snr_weights
from anosynth.diffusion.text import TextEmbedding
from anosynth.diffusion.text_lora import adapted
from anosynth.diffusion.train import Address, StepDraws, draw_step
from anosynth.seeding import seed_for, torch_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBE_PAIRS = 8
"""Pairs whose loss is looked at again and again, with the same noise, to see what training does."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DualSet:
    """Shots as both branches see them, computed once.

    Attributes:
        whole: VAE posterior of the N defective images (each augmentation is an image of its own).
        part: VAE posterior of their anomaly parts on the neutral background, same order.
        text: captions.
        whole_captions, part_captions: index into `text` of each image's caption in branch 0 and 1, [N] each.
        blank: index into `text` of the empty caption, or None if no text is ever dropped.
        captions: what `text` is of, in words, or None; needed by an adapter with a LoRA of the text encoder, because
            then captions are embedded anew at every step.
    """

    whole: Moments
    part: Moments
    text: TextEmbedding
    whole_captions: tuple[int, ...]
    part_captions: tuple[int, ...]
    blank: int | None = None
    captions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        counts = {len(self.whole), len(self.part), len(self.whole_captions), len(self.part_captions)}
        if len(counts) != 1 or counts == {0}:
            raise ValueError(f"images, parts and captions must be as many, at least one; got {sorted(counts)}")
        if self.captions is not None and len(self.captions) != len(self.text):
            raise ValueError(f"{len(self.captions)} captions in words and {len(self.text)} embedded; the same ones")


@dataclass(frozen=True)
class DualTrainSettings:
    """What a training step is.

    Attributes:
        loop: steps, learning rate, how often to save and log.
        batch_size: pairs per step.
        min_snr_gamma: cap of Min-SNR weighting, or None for equal weights (the paper's).
        text_dropout: share of pairs, drawn anew at each step, whose both captions are the empty one: what guidance is
            guided away from. The paper has none and guides with an empty prompt that was never trained.
    """

    loop: LoopSettings
    batch_size: int
    min_snr_gamma: float | None = None
    text_dropout: float = 0.0


@dataclass(frozen=True)
class DualResult:
    """What training leaves beside the adapter.

    Attributes:
        probe_before, probe_after: loss of a fixed set of pairs, timesteps and noises before the first step and after
            the last: unlike the losses of steps, which swing with their timesteps, these two can be compared.
        losses: float32 [steps], of each step before its update.
        resumed_from: first step that this process computed; 0 if it began from nothing.
    """

    probe_before: float
    probe_after: float
    losses: NDArray[np.float32]
    resumed_from: int


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
    backgrounds: Moments | None = None,
    after: Callable[[int], None] | None = None,
) -> DualResult:
    """Fit a dual adapter, in place; the frozen U-Net sees both branches in one evaluation per step.

    L = mean over both branches of (prediction - target)^2, with one timestep per pair, shared by its branches, and
    noise of each branch's own (half the paper's sum of two expectations). A probe of it, over the same few pairs,
    timesteps and noises every time, is logged before the first step and with every checkpoint. An adapter's LoRA of the
    text encoder is trained by the same loss and optimizer; then each step embeds the captions of its batch.

    Args:
        backbone: frozen; its own attention and text encoder are back when this returns or raises.
        adapter: made for this backbone, on its device, float32.
        shots: the few pairs.
        settings: steps and batch.
        seed: root seed of every draw.
        address: address of this training.
        accelerator: device and number format.
        checkpoints: where checkpoints are kept.
        key: name of this training's checkpoint.
        backgrounds: VAE posterior of the images with their objects painted over (`background.background_image`), in
            the order of the shots; for an adapter with background compensation, and for no other.
        after: see `run_steps`.

    Raises:
        TrainingError: if a loss is not finite.
        BackboneError: if the adapter was made for another U-Net or text encoder.
        ValueError: if backgrounds are missing, not wanted, or not as many as the shots, if text is to be dropped and
            there is no empty caption, or if captions are to be embedded at every step and are not there in words.
    """
    schedule = backbone.schedule
    device = backbone.device
    if settings.text_dropout > 0.0 and shots.blank is None:
        raise ValueError(f"text_dropout is {settings.text_dropout} and the shots have no empty caption")
    if backgrounds is not None and len(backgrounds) != len(shots.whole):
        raise ValueError(f"{len(backgrounds)} backgrounds and {len(shots.whole)} images; one each")

    if adapter.text is not None and shots.captions is None:
        raise ValueError("the adapter has a LoRA of the text encoder and the shots have no captions in words")

    doing = f"training {' '.join(str(part) for part in address)}"

    def embedded(captions: list[int]) -> TextEmbedding:
        if adapter.text is None or shots.captions is None:
            return shots.text.rows(captions)
        distinct = sorted(set(captions))
        text = backbone.text.embed([shots.captions[caption] for caption in distinct])
        return text.rows([distinct.index(caption) for caption in captions])

    @torch.no_grad()
    def see(step: int, whole: StepDraws) -> None:
        assert backgrounds is not None
        rows = whole.rows.to(backgrounds.mean.device)
        generator = torch_generator(seed_for(seed, *address, "background", "step", step))
        posterior, noise = torch.randn(2, *whole.noise.shape, generator=generator)
        clean = backgrounds.rows(rows).sample(posterior.to(rows.device)).to(device)
        text = embedded([shots.whole_captions[row] for row in whole.rows.tolist()])
        noisy = schedule.add_noise(clean, noise.to(device), whole.timesteps)
        see_background(backbone, noisy, timesteps=whole.timesteps, text=text)

    def pair_loss(step: int, whole: StepDraws, part: StepDraws, captions: list[int]) -> Tensor:
        rows = whole.rows.to(shots.whole.mean.device)
        latents = [
            moments.rows(rows).sample(draws.posterior.to(rows.device))
            for moments, draws in ((shots.whole, whole), (shots.part, part))
        ]
        clean = torch.cat(latents).to(device)
        noise = torch.cat([whole.noise, part.noise]).to(device)
        timesteps = whole.timesteps.repeat(2)
        if backgrounds is not None:
            see(step, whole)
        output = backbone.predict(schedule.add_noise(clean, noise, timesteps), timesteps, embedded(captions))
        gamma = settings.min_snr_gamma
        weights = None if gamma is None else min_snr_weights(schedule, timesteps, gamma=gamma)
        return denoising_loss(output, schedule.target(clean, noise, timesteps), weights=weights)

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
            for branch in _BRANCHES
        )
        captions = _captions(shots, whole.rows.tolist(), settings, step=step, seed=seed, address=address)
        return pair_loss(step, whole, part, captions)

    drawn = [_probe_draws(shots, schedule.num_timesteps, seed=seed, address=(*address, branch)) for branch in _BRANCHES]

    @torch.no_grad()
    def probe(step: int) -> float:
        whole, part = drawn
        told = [side[row] for side in (shots.whole_captions, shots.part_captions) for row in whole.rows.tolist()]
        with accelerator.autocast():
            value = float(pair_loss(_PROBE_STEP, whole, part, told))
        line = {"training": doing, "step": step, "steps": settings.loop.steps, "probe_loss": round(value, 6)}
        logger.info("%s", json.dumps(line, sort_keys=True))
        return value

    def taken(step: int) -> None:
        if step % settings.loop.checkpoint_every == 0 and step < settings.loop.steps:
            probe(step)
        if after is not None:
            after(step)

    attach(backbone.unet, adapter)
    try:
        check_backgrounds(backbone.unet, given=backgrounds is not None)
        with adapted(backbone.text, adapter.text):
            before = probe(0)  # a checkpoint is put into the adapter later
            result = run_steps(
                step_loss,
                dict(adapter.named_parameters()),
                settings.loop,
                accelerator=accelerator,
                checkpoints=checkpoints,
                key=key,
                doing=doing,
                after=taken,
            )
            return DualResult(before, probe(settings.loop.steps), result.losses, result.resumed_from)
    finally:
        detach(backbone.unet)


_BRANCHES = ("whole", "part")
_PROBE_STEP = -1


def _probe_draws(shots: DualSet, num_timesteps: int, *, seed: int, address: Address) -> StepDraws:
    """Pairs spread over the set, timesteps over the schedule, and noise: the same whenever they are asked for."""
    rows = np.linspace(0, len(shots.whole) - 1, PROBE_PAIRS).round().astype(int)
    generator = torch_generator(seed_for(seed, *address, "probe"))
    shape = (PROBE_PAIRS, *shots.whole.mean.shape[1:])
    return StepDraws(
        rows=torch.from_numpy(rows),
        timesteps=((torch.arange(PROBE_PAIRS) + 0.5) * (num_timesteps / PROBE_PAIRS)).long(),
        posterior=torch.randn(shape, generator=generator),
        noise=torch.randn(shape, generator=generator),
    )


def _captions(
    shots: DualSet, rows: list[int], settings: DualTrainSettings, *, step: int, seed: int, address: Address
) -> list[int]:
    """Indices of the step's captions, [2 B]: both branches of a pair lose their text together."""
    told = [[side[row] for row in rows] for side in (shots.whole_captions, shots.part_captions)]
    if settings.text_dropout > 0.0 and shots.blank is not None:
        generator = torch_generator(seed_for(seed, *address, "dropout", "step", step))
        dropped = (torch.rand(len(rows), generator=generator) < settings.text_dropout).tolist()
        told = [[shots.blank if drop else one for one, drop in zip(side, dropped, strict=True)] for side in told]
    return told[0] + told[1]
