"""The noise schedule: how much signal and noise a latent holds at a timestep, and what a network's output says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, assert_never

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from anosynth.errors import BackboneError

Prediction = Literal["epsilon", "v_prediction"]
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction")
# A schedule rescaled to zero terminal SNR has abar_T = 0, where a predicted noise determines nothing; diffusers'
# multistep solvers put the same tiny number there.
MIN_ABAR = 2.0**-24
_BETA_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Variance-preserving schedule: z_t = alpha_t z_0 + sigma_t eps with alpha_t^2 = abar_t, sigma_t^2 = 1 - abar_t.

    Attributes:
        abar: cumulative signal power abar_t, float64 [T] on the CPU, falling, in (0, 1).
        prediction: what the U-Net was trained to put out: the noise eps, or the velocity v.
        config: the scheduler_config.json it was read from, for writing it again.
    """

    abar: Tensor
    prediction: Prediction
    config: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Mapping[str, object], *, name: str) -> NoiseSchedule:
        """Read a diffusers scheduler_config.json of any scheduler class; only its betas and prediction type count.

        Raises:
            BackboneError: naming `name`, if the prediction type is neither epsilon nor v_prediction or betas are odd.
        """
        prediction = config.get("prediction_type", "epsilon")
        found = next((known for known in PREDICTIONS if known == prediction), None)
        if found is None:
            raise BackboneError(f"{name}: prediction_type is {prediction!r}; allowed are {', '.join(PREDICTIONS)}")
        try:
            scheduler = DDIMScheduler.from_config(
                {key: config[key] for key in _BETA_KEYS if key in config} | {"steps_offset": 1}
            )
        except (NotImplementedError, TypeError, ValueError) as error:
            raise BackboneError(f"{name}: the noise schedule cannot be read ({error})") from error
        abar = scheduler.alphas_cumprod.to(torch.float64).clamp_min(MIN_ABAR)
        return cls(abar, found, dict(config))

    @property
    def num_timesteps(self) -> int:
        """T, the number of noise levels the network knows; timesteps are 0 to T - 1."""
        return len(self.abar)

    def levels(self, timesteps: Tensor, *, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t) of integer timesteps [B], shaped [B, 1, 1, 1], with dtype and device of `like`."""
        abar = self.abar[timesteps.cpu()].reshape(-1, 1, 1, 1)
        return abar.sqrt().to(like), (1.0 - abar).sqrt().to(like)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = alpha_t z_0 + sigma_t eps for clean latents z_0 and noise eps, [B, C, h, w], timesteps [B]."""
        alpha, sigma = self.levels(timesteps, like=latents)
        return alpha * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network should put out for z_t: eps, or v = alpha_t eps - sigma_t z_0 (Salimans and Ho 2022)."""
        match self.prediction:
            case "epsilon":
                return noise
            case "v_prediction":
                alpha, sigma = self.levels(timesteps, like=latents)
                return alpha * noise - sigma * latents
            case _:
                assert_never(self.prediction)

    def clean(self, output: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The clean latents z_0 that a network output stands for, given z_t and t; the inverse of `target`."""
        alpha, sigma = self.levels(timesteps, like=noisy)
        match self.prediction:
            case "epsilon":
                return (noisy - sigma * output) / alpha
            case "v_prediction":
                return alpha * noisy - sigma * output
            case _:
                assert_never(self.prediction)
