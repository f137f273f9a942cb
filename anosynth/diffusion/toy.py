"""A latent diffusion model with Stable Diffusion's topology, tiny and random: it proves mechanics and draws nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from anosynth.diffusion.components import Components, factor_of
from anosynth.diffusion.schedule import NoiseSchedule
from anosynth.diffusion.text import ClipText
from anosynth.fingerprint import digest_value
from anosynth.seeding import seed_for

Module = TypeVar("Module", bound=nn.Module)

REVISION = 1
WIDTH = 32
LOG_VARIANCE = -10.0
START, END = "<|startoftext|>", "<|endoftext|>"
UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (16, 32, 32, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (8, 16, 16, 16),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 128,
    "scaling_factor": 5.0,
}
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
}
SCHEDULE: dict[str, object] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "clip_sample": False,
}


def build(seed: int) -> Components:
    """Build the toy backbone in memory: 4 latent channels, VAE factor 8, 64 and 128 px; a second's work, no network.

    Args:
        seed: of the weights; equal seeds give equal weights and identities.
    """
    vae = _seeded(_autoencoder, seed_for(seed, "toy", "vae"))
    return Components(
        vae=vae,
        unet=_seeded(lambda: UNet2DConditionModel(**UNET), seed_for(seed, "toy", "unet")),
        text=ClipText(_letters(), _seeded(_text_model, seed_for(seed, "toy", "text"))),
        schedule=NoiseSchedule.from_config(SCHEDULE, name="toy backbone"),
        factor=factor_of(vae),
        identity=identity(seed),
    )


def identity(seed: int) -> str:
    """Identity of the toy backbone of a seed, without building it."""
    return digest_value({"toy": REVISION, "seed": seed, "parts": [UNET, VAE, TEXT, SCHEDULE]})


def _autoencoder() -> AutoencoderKL:
    """Scaled latents of pictures have a spread near 1, as in a trained model, and a posterior as narrow as there."""
    vae = AutoencoderKL(**VAE)
    with torch.no_grad():
        vae.quant_conv.bias[VAE["latent_channels"] :] = LOG_VARIANCE
    return vae


def _letters() -> CLIPTokenizer:
    """CLIP's tokenizer with an alphabet in place of 49,408 pieces: every byte, inside and at the end of a word."""
    alphabet = sorted(ByteLevel.alphabet())
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), START, END]
    return CLIPTokenizer(vocab={piece: at for at, piece in enumerate(pieces)}, merges=[], model_max_length=77)


def _text_model() -> CLIPTextModel:
    tokenizer = _letters()
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return CLIPTextModel(CLIPTextConfig.from_dict({"vocab_size": len(tokenizer), **ends, **TEXT}))


def _seeded(make: Callable[[], Module], seed: int) -> Module:
    """Construct a module whose constructors initialize from torch's global generator, leaving that as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make()
