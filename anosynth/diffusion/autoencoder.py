"""The embedded backbone's autoencoder: images to latents at 1/8 of their size, with no convolution at full resolution.

Pixels are folded into channels first (space-to-depth, Shi et al. 2016, ESPCN, run backwards), because convolutions at
full resolution are what costs on a CPU. The class speaks `AutoencoderKL`'s interface, so that it stands in a diffusers
folder like any other VAE.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

LATENT_STRIDE = 8
"""Image pixels per latent cell."""


class _Residual(nn.Module):
    """x + conv(silu(conv(x))); shape kept, [B, C, h, w].

    Without normalization (Lim et al. 2017, EDSR): cheaper, and what a pixel becomes does not depend on far ones. The
    second convolution starts at zero, so a fresh block is the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(functional.silu(self.conv1(x)))


def _residuals(channels: int, count: int) -> list[nn.Module]:
    return [_Residual(channels) for _ in range(count)]


@dataclass(frozen=True)
class LatentDistribution:
    """A Gaussian around the latents with one fixed standard deviation; the shape of diffusers' posterior.

    Attributes:
        mean: [B, C, H/8, W/8], per channel mean 0 and standard deviation 1 over the training corpus.
        std: of the noise the decoder was trained to ignore; the same number everywhere, shape of `mean`.
    """

    mean: Tensor
    std: Tensor

    def mode(self) -> Tensor:
        """The latents without noise."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Latents plus noise from `generator`, drawn on its device."""
        device = generator.device if generator is not None else self.mean.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device)
        return self.mean + self.std * noise.to(self.mean)


@dataclass(frozen=True)
class EncoderOutput:
    """Result of `encode`, as in diffusers."""

    latent_dist: LatentDistribution


@dataclass(frozen=True)
class DecoderOutput:
    """Result of `decode`, as in diffusers."""

    sample: Tensor


class UnshuffleAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Three levels at 1/2, 1/4 and 1/8 of the image, joined by space-to-depth; latents normalized per channel.

    Args:
        latent_channels: C of the latents.
        block_out_channels: widths at full size (3, the pixels themselves), 1/2, 1/4 and 1/8; but for the first best
            multiples of 16. Its length says, as in diffusers, that one latent cell is 8 pixels wide.
        encoder_blocks: residual blocks of the encoder at the three levels.
        decoder_blocks: residual blocks of the decoder at the three levels.
        latent_std: standard deviation of the noise added to the latents while training; relative to 1, the latents'.
        scaling_factor: latents are multiplied by it before diffusion, as everywhere in diffusers; 1, they are
            normalized already.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        block_out_channels: tuple[int, ...] = (3, 48, 96, 192),
        encoder_blocks: tuple[int, ...] = (0, 2, 2),
        decoder_blocks: tuple[int, ...] = (1, 2, 3),
        latent_std: float = 0.1,
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        _, fine, middle, coarse = block_out_channels
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, fine, 3, padding=1),
            *_residuals(fine, encoder_blocks[0]),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * fine, middle, 1),
            *_residuals(middle, encoder_blocks[1]),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * middle, coarse, 1),
            *_residuals(coarse, encoder_blocks[2]),
            nn.SiLU(),
            nn.Conv2d(coarse, latent_channels, 3, padding=1),
        )
        self.latent_norm = nn.BatchNorm2d(latent_channels, affine=False, momentum=0.02)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, coarse, 3, padding=1),
            *_residuals(coarse, decoder_blocks[2]),
            nn.Conv2d(coarse, 4 * middle, 1),
            nn.PixelShuffle(2),
            *_residuals(middle, decoder_blocks[1]),
            nn.Conv2d(middle, 4 * fine, 1),
            nn.PixelShuffle(2),
            *_residuals(fine, decoder_blocks[0]),
            nn.SiLU(),
            nn.Conv2d(fine, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def encode(self, pixels: Tensor) -> EncoderOutput:
        """[B, 3, H, W] in [-1, 1] -> distribution of the latents [B, C, H/8, W/8]; H and W are multiples of 8."""
        mean = self.latent_norm(self.encoder(pixels))
        return EncoderOutput(LatentDistribution(mean, torch.full_like(mean, dict(self.config)["latent_std"])))

    def decode(self, latents: Tensor) -> DecoderOutput:
        """[B, C, H/8, W/8] -> pixels [B, 3, H, W], about [-1, 1], not clipped."""
        return DecoderOutput(self.decoder(latents))

    def forward(self, pixels: Tensor) -> Tensor:
        """The round trip of `pixels`, [B, 3, H, W], without noise."""
        return self.decode(self.encode(pixels).latent_dist.mode()).sample
