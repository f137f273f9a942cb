"""What training minimizes: the denoising error, its weighting over timesteps, and prior preservation."""

from __future__ import annotations

from torch import Tensor

from anosynth.diffusion.schedule import NoiseSchedule


def denoising_loss(prediction: Tensor, target: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of the predicted noise (or velocity), the simplified objective of Ho et al. 2020 (DDPM).

    L = mean_b w_b mean_{c,h,w} (prediction - target)^2

    Args:
        prediction: what the network put out, [B, C, h, w].
        target: `NoiseSchedule.target`, same shape.
        weights: w per sample, [B]; None is 1 for all.

    Returns:
        Scalar, float32.
    """
    errors = (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))
    return (errors if weights is None else errors * weights.to(errors)).mean()


def min_snr_weights(schedule: NoiseSchedule, timesteps: Tensor, *, gamma: float) -> Tensor:
    """Weights that keep the nearly clean timesteps from outvoting the others (Hang et al. 2023, Min-SNR).

    With SNR(t) = abar_t / (1 - abar_t), the error in z_0 is weighted by min(SNR, gamma). The same in terms of the
    network's output: w = min(SNR, gamma) / SNR for noise, w = min(SNR, gamma) / (SNR + 1) for velocity.

    Args:
        schedule: supplies abar and what the network puts out.
        timesteps: int64 [B].
        gamma: the cap; 5 in the paper.

    Returns:
        w, float64 [B].
    """
    abar = schedule.abar[timesteps.cpu()]
    snr = abar / (1.0 - abar)
    return snr.clamp_max(gamma) / (snr if schedule.prediction == "epsilon" else snr + 1.0)


def with_prior(shots: Tensor, prior: Tensor, *, weight: float) -> Tensor:
    """Prior preservation (Ruiz et al. 2023, DreamBooth): L = L_shots + lambda L_prior.

    Args:
        shots: loss on the shots.
        prior: loss on images of the untouched backbone, captioned with the class alone.
        weight: lambda; 0 forgets the prior, 1 counts both alike.
    """
    return shots + weight * prior
