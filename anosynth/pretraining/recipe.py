"""The pydantic mirror of pretrain.yaml: every value that shapes the embedded backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from anosynth.errors import ParamsError
from anosynth.params import Section
from anosynth.pretraining.state import StepSchedule


class CorpusRecipe(Section):
    """Training pictures, rendered by `anosynth.pretraining.corpus`."""

    num_images: int = Field(ge=400, multiple_of=400)
    size_px: int = Field(160, ge=64, le=512, multiple_of=8)
    damage_ratio: float = Field(0.2, ge=0.0, le=1.0)


class AutoencoderRecipe(Section):
    """Pixels to latents at 1/8."""

    latent_channels: int = Field(16, ge=4, le=64)
    latent_std: float = Field(0.1, ge=0.0, lt=1.0, description="noise on the normalized latents while training")
    steps: int = Field(ge=1, description="may be changed between runs: it moves the final decay")
    decay_steps: int = Field(ge=1, description="the learning rate falls over the last so many steps")
    batch_size: int = Field(24, ge=1)
    crop_px: int = Field(96, ge=32, multiple_of=8)
    lr: float = Field(1e-3, gt=0.0, lt=1.0)
    ssim_weight: float = Field(0.2, ge=0.0)
    ema_decay: float = Field(0.998, ge=0.0, lt=1.0)

    def schedule(self) -> StepSchedule:
        """Steps and rates."""
        return StepSchedule(self.steps, self.decay_steps, self.lr)


class DecoderRecipe(Section):
    """The decoder alone, after all else."""

    steps: int = Field(ge=1, description="may be changed between runs: it moves the final decay")
    decay_steps: int = Field(ge=1)
    batch_size: int = Field(10, ge=1)
    crop_px: int = Field(96, ge=32, multiple_of=32)
    lr: float = Field(4e-4, gt=0.0, lt=1.0)
    ssim_weight: float = Field(0.2, ge=0.0)
    perceptual_weight: float = Field(0.3, ge=0.0, description="of the distance as Lite0 sees it")
    noise_std: float = Field(0.4, ge=0.0, lt=1.0, description="most latent noise of crops that are not redrawn")
    redrawn_ratio: float = Field(0.6, ge=0.0, le=1.0, description="share of a batch that the U-Net draws again")
    redrawn_levels: tuple[int, int] = Field((50, 500), description="least and most noise level they are lifted to")
    ema_decay: float = Field(0.995, ge=0.0, lt=1.0)

    @field_validator("redrawn_levels")
    @classmethod
    def _ascend(cls, levels: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= levels[0] <= levels[1] <= 1000:
            raise ValueError(f"{list(levels)} is no range within 1 to 1000")
        return levels

    def schedule(self) -> StepSchedule:
        """Steps and rates."""
        return StepSchedule(self.steps, self.decay_steps, self.lr)


class DenoiserRecipe(Section):
    """The U-Net on cached latents and token states."""

    channels: tuple[int, ...] = Field((96, 192, 192), min_length=2, max_length=4)
    size_px: int = Field(128, ge=64, multiple_of=64, description="training size; others work at sampling")
    attention_head_dim: int = Field(4, ge=1, description="heads per attention, as Stable Diffusion 1.x misnames it")
    steps: int = Field(ge=1, description="may be changed between runs: it moves the final decay")
    decay_steps: int = Field(ge=1)
    batch_size: int = Field(32, ge=1)
    lr: float = Field(5e-4, gt=0.0, lt=1.0)
    half_size_ratio: float = Field(0.0, ge=0.0, le=1.0, description="share of the steps at half size, twice the batch")
    num_images: int = Field(
        8000, ge=400, multiple_of=400, description="pictures of the corpus it sees; latents are cached"
    )
    text_dropout: float = Field(0.1, ge=0.0, lt=1.0, description="captions replaced by the empty prompt")
    snr_gamma: float = Field(5.0, gt=0.0, description="low noise is weighted by gamma / (SNR + 1), at most 1")
    ema_decay: float = Field(0.999, ge=0.0, lt=1.0)

    def schedule(self) -> StepSchedule:
        """Steps and rates."""
        return StepSchedule(self.steps, self.decay_steps, self.lr)


class Recipe(Section):
    """The whole of pretrain.yaml."""

    seed: int = Field(ge=0)
    threads: int = Field(ge=1)
    device: Literal["cpu", "cuda"]
    minutes_between_exports: float = Field(10.0, gt=0.0)
    corpus: CorpusRecipe
    autoencoder: AutoencoderRecipe
    denoiser: DenoiserRecipe
    decoder: DecoderRecipe


def load_recipe(path: Path) -> Recipe:
    """Read and validate pretrain.yaml.

    Raises:
        ParamsError: if the file is missing, unreadable or wrong; every error is named with its YAML path.
    """
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist; run the command in the project's folder or pass --root") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not readable YAML: {error}") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_url=False)]
        raise ParamsError(f"{path.name} has {len(lines)} error(s):\n" + "\n".join(lines)) from None
