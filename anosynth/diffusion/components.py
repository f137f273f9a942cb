"""The four parts of a latent diffusion model, checked to belong together."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from anosynth.diffusion.autoencoder import UnshuffleAutoencoder
from anosynth.diffusion.schedule import NoiseSchedule
from anosynth.diffusion.text import TextEncoder
from anosynth.errors import BackboneError


@dataclass(frozen=True, eq=False)
class Components:
    """VAE, U-Net, text encoder and noise schedule of one backbone, frozen.

    Attributes:
        vae: images in [-1, 1] to latents and back; any number of latent channels, any power-of-two factor.
        unet: noise (or velocity) of latents at a timestep, given token states: Stable Diffusion 1.x's topology.
        text: prompts to token states.
        schedule: noise levels.
        factor: image pixels per latent cell and side, 8 in Stable Diffusion.
        identity: digest of everything above; equal identities give equal results.
    """

    vae: AutoencoderKL | UnshuffleAutoencoder
    unet: UNet2DConditionModel
    text: TextEncoder
    schedule: NoiseSchedule
    factor: int
    identity: str

    def __post_init__(self) -> None:
        unet, channels = dict(self.unet.config), dict(self.vae.config)["latent_channels"]
        if (unet["in_channels"], unet["out_channels"]) != (channels, channels):
            raise BackboneError(
                f"the U-Net takes {unet['in_channels']} and gives {unet['out_channels']} channels, but the VAE's "
                f"latents have {channels}; only plain text-to-image models fit (no inpainting or upscaling variants)"
            )
        if unet["cross_attention_dim"] != self.text.width:
            raise BackboneError(
                f"the U-Net attends to token states of size {unet['cross_attention_dim']}, but the text encoder gives "
                f"{self.text.width}; the two parts do not belong together"
            )
        for name in ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type", "num_class_embeds"):
            if unet.get(name) is not None:
                raise BackboneError(
                    f"the U-Net has {name} = {unet.get(name)!r}; only Stable-Diffusion-1.x-shaped models fit (one text "
                    "encoder, no further conditions), not SDXL and later ones"
                )
        self.vae.eval().requires_grad_(False)
        self.unet.eval().requires_grad_(False)


def factor_of(vae: AutoencoderKL | UnshuffleAutoencoder) -> int:
    """Image pixels per latent cell and side: every block of the encoder but the last halves the picture."""
    return int(2 ** (len(dict(vae.config)["block_out_channels"]) - 1))
