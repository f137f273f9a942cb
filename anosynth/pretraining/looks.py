"""What a training has come to, to be seen: contact sheets of round trips and of pictures drawn from words."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image

from anosynth.diffusion.autoencoder import LATENT_STRIDE, UnshuffleAutoencoder
from anosynth.diffusion.embedded import SCHEDULE
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.sample import text_to_image
from anosynth.diffusion.schedule import NoiseSchedule
from anosynth.diffusion.solver import SamplerSettings
from anosynth.diffusion.text import TextEncoder
from anosynth.imaging import from_unit, to_unit
from anosynth.pretraining.corpus import Corpus
from anosynth.pretraining.sheets import Image8, sheet
from anosynth.seeding import seed_for, torch_generators

COLUMNS = 8
SAMPLER = SamplerSettings("dpm_solver", 20, 5.0)


@torch.no_grad()
def round_trips(vae: UnshuffleAutoencoder, corpus: Corpus, *, size_px: int) -> list[Image8]:
    """The middles, `size_px` wide, of the first eight pictures of the corpus, and then their round trips."""
    begin = (corpus.image(0).shape[0] - size_px) // 2
    middle = slice(begin, begin + size_px)
    pictures = np.stack([corpus.image(index)[middle, middle] for index in range(COLUMNS)])
    vae.eval()
    pixels = torch.from_numpy(to_unit(pictures)).to(next(vae.parameters()).device)
    return [*pictures, *from_unit(vae(pixels).float().cpu().numpy())]


def samples(
    vae: UnshuffleAutoencoder, unet: UNet2DConditionModel, text: TextEncoder, *, seed: int, size_px: int
) -> list[Image8]:
    """One picture of each of the first eight prompts of `prompts_dev.txt`, always from the same noise.

    Args:
        vae: finished.
        unet: the moving average of the one in training.
        text: encoder of the prompts.
        seed: root seed of the noise.
        size_px: height and width.

    Returns:
        uint8 RGB [size_px, size_px, 3] each.
    """
    lines = (files("anosynth.pretraining") / "prompts_dev.txt").read_text(encoding="utf-8").splitlines()[:COLUMNS]
    backbone = LatentDiffusion(
        vae=vae.eval(),
        unet=unet.eval(),
        text=text,
        schedule=NoiseSchedule.from_config(SCHEDULE, name="embedded schedule"),
        factor=LATENT_STRIDE,
        identity="in training",
        device=next(unet.parameters()).device,
        dtype=torch.float32,
    )
    seeds = [seed_for(seed, "pretrain_looks", index) for index in range(len(lines))]
    drawn = text_to_image(
        backbone,
        text.embed([line.split("\t")[1] for line in lines]),
        size_px=size_px,
        settings=SAMPLER,
        generators=torch_generators(seeds),
        blank=text.embed([""]),
    )
    return list(drawn)


def write_sheet(folder: Path, name: str, pictures: Sequence[Image8]) -> None:
    """Lay pictures of one size out in rows of eight as `<folder>/<name>.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet(pictures, COLUMNS)).save(folder / f"{name}.png")
