"""What training minimizes: the denoising error with its weights and prior preservation, and how a picture looks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from anosynth.diffusion.schedule import NoiseSchedule
from anosynth.features.lite import LiteNetwork

PERCEPTUAL_LEVELS = (1, 2, 3)


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


def with_defect(schedule: NoiseSchedule, noise: Tensor, *, defect: Tensor, timesteps: Tensor) -> Tensor:
    """The noise that z_t holds if the clean latents are taken to be those without the defect d.

    z_t = alpha_t (z_0 + d) + sigma_t eps = alpha_t z_0 + sigma_t eps'  with  eps' = eps + (alpha_t / sigma_t) d

    Args:
        schedule: supplies alpha_t and sigma_t.
        noise: eps, [B, C, h, w].
        defect: d, what was planted into z_0, same shape; where it is 0, eps' is eps.
        timesteps: t, int64 [B].

    Returns:
        eps', [B, C, h, w].
    """
    alpha, sigma = schedule.levels(timesteps, like=noise)
    return noise + alpha / sigma * defect


def with_prior(shots: Tensor, prior: Tensor, *, weight: float) -> Tensor:
    """Prior preservation (Ruiz et al. 2023, DreamBooth): L = L_shots + lambda L_prior.

    Args:
        shots: loss on the shots.
        prior: loss on images of the untouched backbone, captioned with the class alone.
        weight: lambda; 0 forgets the prior, 1 counts both alike.
    """
    return shots + weight * prior


def reconstruction_loss(output: Tensor, target: Tensor, *, ssim_weight: float) -> Tensor:
    """Mean |output - target| + ssim_weight (1 - SSIM), both [B, 3, H, W] in [-1, 1].

    SSIM (Wang et al. 2004) with a box window of 7 px, constants for a range of 2.
    """
    l1 = (output - target).abs().mean()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    stack = torch.cat([output, target, output * output, target * target, output * target])
    mx, my, xx, yy, xy = functional.avg_pool2d(stack, 7, stride=2).chunk(5)
    ssim = ((2 * mx * my + c1) * (2 * (xy - mx * my) + c2)) / (
        (mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2)
    )
    return l1 + ssim_weight * (1.0 - ssim.mean())


def perceptual_loss(network: LiteNetwork, output: Tensor, target: Tensor) -> Tensor:
    """Distance of two batches as a frozen network sees them, LPIPS without its weights (Zhang et al. 2018).

    Args:
        network: EfficientNet-Lite0; results are measured with Lite2.
        output: [B, 3, H, W] in [-1, 1], which is the network's own input scale.
        target: likewise.

    Returns:
        Sum over the levels of the mean over cells of |f(output) - f(target)|^2, f of unit length in every cell.
    """
    with torch.no_grad():
        wanted = network.maps(target, PERCEPTUAL_LEVELS)
    found = network.maps(output.contiguous(memory_format=torch.channels_last), PERCEPTUAL_LEVELS)
    distances = [
        (functional.normalize(f.float(), dim=1) - functional.normalize(w.float(), dim=1)).square().sum(dim=1).mean()
        for f, w in zip(found, wanted, strict=True)
    ]
    return torch.stack(distances).sum()
