"""From the state of a training run to a diffusers folder."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from anosynth.diffusion.autoencoder import UnshuffleAutoencoder
from anosynth.diffusion.embedded import write_embedded
from anosynth.pretraining import corpus
from anosynth.pretraining.recipe import Recipe
from anosynth.pretraining.state import TrainingState


def averaged(state: TrainingState) -> nn.Module:
    """A copy of a network in training that has the moving average for weights."""
    network = copy.deepcopy(state.network)
    network.load_state_dict(state.ema_network_state())
    return network


def averaged_unet(state: TrainingState) -> UNet2DConditionModel:
    """A U-Net of its own with the moving average of one in training."""
    unet = averaged(state)
    assert isinstance(unet, UNet2DConditionModel)
    return unet


def export(
    folder: Path, *, vae: UnshuffleAutoencoder, unet_state: TrainingState, recipe: Recipe, corpus_version: str
) -> None:
    """Write the moving average as a half-precision diffusers folder, with `training.json` saying how it came to be.

    A temporary folder takes the place of an older export at the end.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    write_embedded(temporary, vae=vae, unet=averaged_unet(unet_state))
    facts = {
        "algorithm": corpus.ALGORITHM,
        "corpus_version": corpus_version,
        "recipe": recipe.model_dump(),
        "unet_steps": unet_state.step,
    }
    (temporary / "training.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
