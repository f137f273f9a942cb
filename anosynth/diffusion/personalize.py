"""The anomaly-free customized generator: DreamBooth on the k normal shots (One-to-Normal, Li et al. 2024, section 2).

Differs: the paper tunes a Stable Diffusion model per category and states neither steps nor learning rate; here LoRAs
are trained, unless the whole U-Net is asked for, with the public DreamBooth recipe's values. On request they also learn
to leave planted defects out, which the paper does not do. The prior set stays in latent space: it is what the untouched
backbone drew, before decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from anosynth.diffusion.adapters import (
    EVERYTHING,
    TARGETS,
    Adapter,
    adapter_from_bytes,
    adapter_to_bytes,
    add_lora,
    all_trainable,
    remove_lora,
    take_adapter,
    take_difference,
)
from anosynth.diffusion.decoder import fit_decoder
from anosynth.diffusion.devices import accelerator_for
from anosynth.diffusion.latent import LatentDiffusion, Moments
from anosynth.diffusion.loop import CheckpointStore, LoopSettings, TrainResult
from anosynth.diffusion.planting import planted
from anosynth.diffusion.sample import denoise, draw_noise
from anosynth.diffusion.solver import SamplerSettings
from anosynth.diffusion.train import TrainingSet, TrainSettings, train
from anosynth.diffusion.views import NormalViews, views_of
from anosynth.errors import ParamsError
from anosynth.fingerprint import digest_value
from anosynth.params import ComputeParams, PersonalizeNormalsParams
from anosynth.progress import track
from anosynth.seeding import numpy_rng, seed_for, torch_generators

if TYPE_CHECKING:
    from numpy.typing import NDArray

STAGE = "personalize_normals"
ALGORITHM = 2
"""Raised whenever equal values give another adapter."""

_SHAPELESS = {"checkpoint_every", "log_every"}
_PRIOR = ("prior_images", "prior_steps", "prior_guidance", "prior_prompt")


@dataclass(frozen=True)
class Subject:
    """What one adapter is trained for: everything but the pixels that shapes it.

    Attributes:
        category: slug, part of every seed's address.
        name: the object as said in a prompt.
        allowed: what leaves a shot normal; such views of it are trained on as well.
        shot_ids: sha256 of the normal shots, in order.
        size_px: side of the square training images.
        backbone: identity of the backbone.
        seed: root seed.
    """

    category: str
    name: str
    allowed: NormalViews
    shot_ids: tuple[str, ...]
    size_px: int
    backbone: str
    seed: int

    def fingerprint(self, settings: PersonalizeNormalsParams, compute: ComputeParams) -> str:
        """Digest of everything that shapes the adapter; the name of its checkpoints."""
        return digest_value(
            {
                "stage": STAGE,
                "algorithm": ALGORITHM,
                "subject": {**asdict(self), "shot_ids": list(self.shot_ids)},
                "settings": settings.model_dump(mode="json", exclude=_SHAPELESS),
                "compute": compute.model_dump(mode="json"),
            }
        )


def stored_adapter(fingerprint: str, store: CheckpointStore) -> Adapter | None:
    """The finished adapter of a fingerprint, if the store holds it."""
    key = _key(fingerprint, "adapter")
    data = store.get_blob(key)
    return None if data is None else adapter_from_bytes(data, name=key)


def personalize(
    backbone: LatentDiffusion,
    images: Sequence[NDArray[np.uint8]],
    subject: Subject,
    settings: PersonalizeNormalsParams,
    *,
    compute: ComputeParams,
    store: CheckpointStore,
) -> Adapter:
    """Train a LoRA (or the U-Net) on the normal shots of one category, and the decoder if asked for, as one adapter.

    Args:
        backbone: open; its U-Net is as before when this returns or raises.
        images: the normal shots, uint8 RGB [size_px, size_px, 3], in the order of `subject.shot_ids`.
        subject: whose adapter.
        settings: rank, steps, captions, prior preservation.
        compute: device and number format of training.
        store: where checkpoints, the prior set and the finished adapter are kept.

    Returns:
        The adapter; its facts hold the prompts, the shots and a summary of the losses.

    Raises:
        ParamsError: if no shot is left to train on, or views are to be held out of a category that allows none.
        TrainingError: if the loss is not finite.
    """
    fingerprint = subject.fingerprint(settings, compute)
    address = (STAGE, subject.category)
    seed, caption = seed_for(subject.seed, *address, "planted"), settings.prompt.format(name=subject.name)
    if settings.held_out >= len(images):
        raise ParamsError(
            f"personalize_normals.held_out: {settings.held_out} of the {len(images)} normal shots of "
            f"{subject.category} would be kept out of training; allowed: 0 to {len(images) - 1}"
        )
    order = numpy_rng(subject.seed, *address, "held_out").permutation(len(images))
    apart = set(order[: settings.held_out].tolist())
    trained = [image for row, image in enumerate(images) if row not in apart]
    shots = shot_set(
        backbone,
        trained,
        caption=caption,
        allowed=subject.allowed,
        views=settings.views,
        planted_variants=settings.planted_variants,
        seed=seed,
    )
    looked_at = [
        view for row in sorted(apart) for view in views_of(images[row], subject.allowed, num_views=1, seed=seed)
    ]
    if settings.held_out_views:
        looked_at += _unseen_views(trained, subject, count=settings.held_out_views)
    held_out = None
    if looked_at:
        held_out = shot_set(backbone, looked_at, caption=caption, allowed=NormalViews(), seed=seed)
    prior = None
    if settings.prior_weight > 0.0 and settings.prior_images > 0:
        prior = prior_set(backbone, subject, settings, compute=compute, store=store)
    with _trainable(backbone, settings, seed=seed_for(subject.seed, *address, "lora")) as (parameters, take):
        result = train(
            backbone,
            parameters,
            shots,
            prior,
            TrainSettings(
                LoopSettings(
                    settings.steps, settings.lr, settings.checkpoint_every, settings.log_every, falling=settings.falling
                ),
                batch_size=settings.batch_size,
                min_snr_gamma=settings.min_snr_gamma,
                prior_weight=settings.prior_weight,
                planted_ratio=settings.planted_ratio,
                planted_below=settings.planted_below,
                validate_every=settings.validate_every,
                patience=settings.patience,
            ),
            seed=subject.seed,
            address=address,
            accelerator=accelerator_for(compute),
            checkpoints=store,
            key=_key(fingerprint, "checkpoint"),
            held_out=held_out,
        )
        facts = _facts(subject, settings, fingerprint=fingerprint, result=result)
        adapter = take(backbone=subject.backbone, facts=facts)
    decoder = fit_decoder(
        backbone,
        images,
        LoopSettings(
            settings.decoder_steps, settings.decoder_lr, settings.checkpoint_every, settings.log_every, falling=True
        ),
        seed=subject.seed,
        address=address,
        accelerator=accelerator_for(compute),
        checkpoints=store,
        key=_key(fingerprint, "decoder"),
    )
    adapter = replace(adapter, decoder=decoder)
    store.put_blob(_key(fingerprint, "adapter"), adapter_to_bytes(adapter))
    return adapter


class _Take(Protocol):
    def __call__(self, *, backbone: str, facts: Mapping[str, object]) -> Adapter: ...


@contextmanager
def _trainable(
    backbone: LatentDiffusion, settings: PersonalizeNormalsParams, *, seed: int
) -> Iterator[tuple[dict[str, nn.Parameter], _Take]]:
    """What is trained of the U-Net, by name, and how it becomes an adapter; the U-Net is as before at the end."""
    unet, targets = backbone.unet, TARGETS[settings.target_layers]
    if targets == EVERYTHING:
        with all_trainable(unet) as (parameters, before):
            yield parameters, partial(take_difference, unet, before)
        return
    try:
        parameters = add_lora(unet, rank=settings.rank, alpha=settings.alpha, seed=seed, targets=targets)
        yield parameters, partial(take_adapter, unet, rank=settings.rank, alpha=settings.alpha, targets=targets)
    finally:
        remove_lora(unet)


def _unseen_views(images: Sequence[NDArray[np.uint8]], subject: Subject, *, count: int) -> list[NDArray[np.uint8]]:
    """Random views of shots and, where allowed, of their mirror images: `count` each, none of them trained on."""
    if subject.allowed == NormalViews(mirror=subject.allowed.mirror):
        raise ParamsError(
            f"personalize_normals.held_out_views: {count} views of each shot of {subject.category} would be the shots "
            f"themselves; let objects.{subject.category} allow normal_turn_deg, normal_shift_ratio or "
            "normal_light_ratio, or set held_out_views to 0"
        )
    bases = 2 if subject.allowed.mirror else 1
    root = seed_for(subject.seed, STAGE, subject.category, "held_out_views")
    return [
        view
        for row, image in enumerate(images)
        for view in views_of(image, subject.allowed, num_views=count + 1, seed=seed_for(root, row))[bases:]
    ]


def shot_set(
    backbone: LatentDiffusion,
    images: Sequence[NDArray[np.uint8]],
    *,
    caption: str,
    allowed: NormalViews,
    views: int = 1,
    planted_variants: int = 0,
    seed: int,
) -> TrainingSet:
    """Encode shots under one caption.

    Args:
        backbone: its VAE and text encoder are asked.
        images: uint8 RGB [S, S, 3] each.
        caption: of all.
        allowed: what leaves them normal; if mirror images do, each shot is followed by its own.
        views: of each shot and of each mirror image, itself included.
        planted_variants: V, variants of each view with planted defects; 0: none.
        seed: of views and planted defects.
    """
    shown = [
        view
        for row, image in enumerate(images)
        for view in views_of(image, allowed, num_views=views, seed=seed_for(seed, "views", row))
    ]
    variants = [
        backbone.encode([planted(view, seed=seed_for(seed, at, n)) for n in range(planted_variants)])
        for at, view in enumerate(shown if planted_variants else ())
    ]
    return TrainingSet(
        backbone.encode_moments(shown),
        backbone.embed([caption]),
        (0,) * len(shown),
        planted=torch.stack(variants) if variants else None,
    )


def prior_set(
    backbone: LatentDiffusion,
    subject: Subject,
    settings: PersonalizeNormalsParams,
    *,
    compute: ComputeParams,
    store: CheckpointStore,
) -> TrainingSet:
    """What the untouched backbone draws of the object's class, from the store or drawn now and stored.

    Args:
        backbone: without an adapter.
        subject: whose class is drawn.
        settings: prompt, number and solver steps of the prior set.
        compute: device and number format.
        store: where the set is kept.
    """
    prompt = settings.prior_prompt.format(name=subject.name)
    key = _key(
        digest_value(
            {
                "prior": ALGORITHM,
                "backbone": subject.backbone,
                "address": [subject.seed, subject.category],
                "prompt": prompt,
                "size_px": subject.size_px,
                "settings": {name: getattr(settings, name) for name in _PRIOR} | {"batch": settings.batch_size},
                "compute": compute.model_dump(mode="json"),
            }
        ),
        "prior",
    )
    text = backbone.embed([prompt])
    data = store.get_blob(key)
    if data is None:
        data = tensors_to_bytes({"latents": _draw_prior(backbone, subject, settings)})
        store.put_blob(key, data)
    latents = tensors_from_bytes(data)["latents"].to(backbone.device)
    return TrainingSet(Moments(latents, torch.zeros_like(latents)), text, (0,) * len(latents))


def _draw_prior(backbone: LatentDiffusion, subject: Subject, settings: PersonalizeNormalsParams) -> Tensor:
    sampler = SamplerSettings("dpm_solver", settings.prior_steps, settings.prior_guidance)
    text = backbone.embed([settings.prior_prompt.format(name=subject.name)])
    blank = None if sampler.guidance == 1.0 else backbone.embed([""])
    shape, starts = backbone.latent_shape(subject.size_px), range(0, settings.prior_images, settings.batch_size)
    drawn = []
    for start in track(starts, total=len(starts), doing=f"{STAGE} {subject.category}: prior images", unit="batch"):
        indices = range(start, min(start + settings.batch_size, settings.prior_images))
        seeds = [seed_for(subject.seed, STAGE, subject.category, "prior", index) for index in indices]
        noise = draw_noise(shape, generators=torch_generators(seeds))
        levels = [backbone.schedule.num_timesteps] * len(seeds)
        drawn.append(denoise(backbone, noise, levels=levels, text=text, settings=sampler, blank=blank).cpu())
    return torch.cat(drawn).contiguous()


def _facts(
    subject: Subject, settings: PersonalizeNormalsParams, *, fingerprint: str, result: TrainResult
) -> dict[str, object]:
    losses = result.losses
    tenth = max(1, len(losses) // 10)
    return {
        "stage": STAGE,
        "category": subject.category,
        "fingerprint": fingerprint,
        "prompt": settings.prompt.format(name=subject.name),
        "prior_prompt": settings.prior_prompt.format(name=subject.name),
        "shot_ids": list(subject.shot_ids),
        "settings": settings.model_dump(mode="json"),
        "steps": result.best_step,
        "steps_taken": len(losses),
        "held_out_loss": None if result.held_out_loss is None else round(result.held_out_loss, 6),
        "loss_first_tenth": round(float(losses[:tenth].mean()), 6),
        "loss_last_tenth": round(float(losses[-tenth:].mean()), 6),
        "loss_mean": round(float(losses.mean()), 6),
    }


def _key(digest: str, kind: str) -> str:
    return f"{STAGE}/{digest}.{kind}"
