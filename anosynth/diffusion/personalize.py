"""The anomaly-free customized generator: DreamBooth with LoRA on the k normal shots (One-to-Normal, Li et al. 2024).

Differs: the paper tunes a Stable Diffusion model per category and states neither steps nor learning rate; here adapters
are trained, with the public DreamBooth recipe's values. On request they also learn to leave planted defects out, which
the paper does not do. The prior set stays in latent space: it is what the untouched backbone drew, before decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from anosynth.diffusion.adapters import (
    Adapter,
    adapter_from_bytes,
    adapter_to_bytes,
    add_lora,
    remove_lora,
    take_adapter,
)
from anosynth.diffusion.decoder import fit_decoder
from anosynth.diffusion.devices import accelerator_for
from anosynth.diffusion.latent import LatentDiffusion, Moments
from anosynth.diffusion.loop import CheckpointStore, LoopSettings
from anosynth.diffusion.planting import planted
from anosynth.diffusion.sample import denoise, draw_noise
from anosynth.diffusion.solver import SamplerSettings
from anosynth.diffusion.train import TrainingSet, TrainSettings, train
from anosynth.fingerprint import digest_value
from anosynth.params import ComputeParams, PersonalizeNormalsParams
from anosynth.progress import track
from anosynth.seeding import seed_for, torch_generators

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
        mirror: True if mirrored shots are normal too; they are then trained on as well.
        shot_ids: sha256 of the normal shots, in order.
        size_px: side of the square training images.
        backbone: identity of the backbone.
        seed: root seed.
    """

    category: str
    name: str
    mirror: bool
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
                "subject": {**vars(self), "shot_ids": list(self.shot_ids)},
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
    """Train a LoRA on the normal shots of one category, and the decoder if asked for, and store both as one adapter.

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
        TrainingError: if the loss is not finite.
    """
    fingerprint = subject.fingerprint(settings, compute)
    shots = shot_set(
        backbone,
        images,
        caption=settings.prompt.format(name=subject.name),
        mirror=subject.mirror,
        planted_variants=settings.planted_variants,
        seed=seed_for(subject.seed, STAGE, subject.category, "planted"),
    )
    prior = None
    if settings.prior_weight > 0.0 and settings.prior_images > 0:
        prior = prior_set(backbone, subject, settings, compute=compute, store=store)
    seed = seed_for(subject.seed, STAGE, subject.category, "lora")
    parameters = add_lora(backbone.unet, rank=settings.rank, alpha=settings.alpha, seed=seed)
    try:
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
            ),
            seed=subject.seed,
            address=(STAGE, subject.category),
            accelerator=accelerator_for(compute),
            checkpoints=store,
            key=_key(fingerprint, "checkpoint"),
        )
        facts = _facts(subject, settings, fingerprint=fingerprint, losses=result.losses)
        adapter = take_adapter(
            backbone.unet, rank=settings.rank, alpha=settings.alpha, backbone=subject.backbone, facts=facts
        )
    finally:
        remove_lora(backbone.unet)
    decoder = fit_decoder(
        backbone,
        images,
        LoopSettings(
            settings.decoder_steps, settings.decoder_lr, settings.checkpoint_every, settings.log_every, falling=True
        ),
        seed=subject.seed,
        address=(STAGE, subject.category),
        accelerator=accelerator_for(compute),
        checkpoints=store,
        key=_key(fingerprint, "decoder"),
    )
    adapter = replace(adapter, decoder=decoder)
    store.put_blob(_key(fingerprint, "adapter"), adapter_to_bytes(adapter))
    return adapter


def shot_set(
    backbone: LatentDiffusion,
    images: Sequence[NDArray[np.uint8]],
    *,
    caption: str,
    mirror: bool,
    planted_variants: int = 0,
    seed: int = 0,
) -> TrainingSet:
    """Encode shots under one caption.

    Args:
        backbone: its VAE and text encoder are asked.
        images: uint8 RGB [S, S, 3] each.
        caption: of all.
        mirror: each shot is followed by its mirror image.
        planted_variants: V, variants of each with planted defects; 0: none.
        seed: of the planted defects.
    """
    shown = [
        view for image in images for view in ((image, np.ascontiguousarray(image[:, ::-1])) if mirror else (image,))
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
    subject: Subject, settings: PersonalizeNormalsParams, *, fingerprint: str, losses: NDArray[np.float32]
) -> dict[str, object]:
    tenth = max(1, len(losses) // 10)
    return {
        "stage": STAGE,
        "category": subject.category,
        "fingerprint": fingerprint,
        "prompt": settings.prompt.format(name=subject.name),
        "prior_prompt": settings.prior_prompt.format(name=subject.name),
        "shot_ids": list(subject.shot_ids),
        "steps": settings.steps,
        "loss_first_tenth": round(float(losses[:tenth].mean()), 6),
        "loss_last_tenth": round(float(losses[-tenth:].mean()), 6),
        "loss_mean": round(float(losses.mean()), 6),
    }


def _key(digest: str, kind: str) -> str:
    return f"{STAGE}/{digest}.{kind}"
