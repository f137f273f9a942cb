"""One interface to every backbone: images and latents, prompts and embeddings, one denoising call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from anosynth.diffusion import toy
from anosynth.diffusion.autoencoder import UnshuffleAutoencoder
from anosynth.diffusion.components import Components
from anosynth.diffusion.devices import device_of, dtype_of
from anosynth.diffusion.embedded import FOLDER
from anosynth.diffusion.folder import inspect_folder, read_folder
from anosynth.diffusion.hub import local_folder
from anosynth.diffusion.norms import use_planar_norms
from anosynth.diffusion.schedule import NoiseSchedule
from anosynth.diffusion.text import TextEmbedding, TextEncoder
from anosynth.errors import BackboneError
from anosynth.imaging import from_unit, to_unit
from anosynth.params import BackboneSpec, ComputeParams, EmbeddedBackbone, PretrainedBackbone, ToyBackbone

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGES_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Moments:
    """Posterior of the VAE for N images: independent Gaussians over scaled latents.

    Attributes:
        mean, std: float32 [N, C, h, w], std not negative.
    """

    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    def rows(self, indices: Tensor) -> Moments:
        """The images with these indices, int64 [B]."""
        return Moments(self.mean[indices], self.std[indices])

    def sample(self, noise: Tensor) -> Tensor:
        """Latents drawn with standard normal noise of the same shape; zero noise gives the mean."""
        return self.mean + self.std * noise


@dataclass(frozen=True, eq=False)
class LatentDiffusion:
    """A backbone on its device, all weights frozen; nobody needs to know of which kind it is.

    Attributes:
        vae, unet, text, schedule, factor, identity: as in `Components`.
        device, dtype: of weights and activations. What comes out of the methods is float32 (or uint8 images).
    """

    vae: AutoencoderKL | UnshuffleAutoencoder
    unet: UNet2DConditionModel
    text: TextEncoder
    schedule: NoiseSchedule
    factor: int
    identity: str
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def on(cls, components: Components, *, compute: ComputeParams) -> LatentDiffusion:
        """Move the parts to where and how `compute` says (in place)."""
        device, dtype = device_of(compute), dtype_of(compute)
        for network in (components.vae, components.unet):
            # Not diffusers' own `to`, which warns of parts to keep in float32 even where there are none.
            nn.Module.to(network, device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
            if device.type == "cpu":
                use_planar_norms(network)
        components.text.move(device=device, dtype=dtype)
        return cls(
            components.vae,
            components.unet,
            components.text,
            components.schedule,
            components.factor,
            components.identity,
            device,
            dtype,
        )

    def latent_shape(self, size_px: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a square image.

        Raises:
            BackboneError: if the size is not a multiple of the VAE's factor.
        """
        if size_px % self.factor:
            raise BackboneError(
                f"image.size_px is {size_px}; this backbone's VAE needs a multiple of {self.factor}, for example "
                f"{max(1, round(size_px / self.factor)) * self.factor}"
            )
        return int(dict(self.vae.config)["latent_channels"]), size_px // self.factor, size_px // self.factor

    @torch.no_grad()
    def encode_moments(self, images: Sequence[NDArray[np.uint8]]) -> Moments:
        """Posterior of each image's latents, scaled as the U-Net expects them.

        Args:
            images: uint8 RGB, [H, W, 3] each, all of one size that is a multiple of `factor`.

        Raises:
            BackboneError: if sizes differ or do not fit.
        """
        sizes = {image.shape[:2] for image in images}
        if len(sizes) != 1 or any(side % self.factor for side in next(iter(sizes))):
            raise BackboneError(
                f"images to encode must share one size, a multiple of {self.factor}; got {sorted(sizes)}"
            )
        means, stds = [], []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            pixels = torch.from_numpy(to_unit(np.stack(images[start : start + IMAGES_AT_ONCE])))
            posterior = self.vae.encode(pixels.to(self.device, self.dtype)).latent_dist
            mean = posterior.mean.float()
            means.append((mean - self._shift) * self._scale)
            # One number for all latents is allowed: an autoencoder trained with noise of a fixed size.
            stds.append(torch.as_tensor(posterior.std).to(mean).expand_as(mean) * self._scale)
        return Moments(torch.cat(means), torch.cat(stds))

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Latents of images, float32 [B, C, h, w]: the posterior's mean, so that no noise is needed."""
        return self.encode_moments(images).mean

    def unscaled(self, latents: Tensor) -> Tensor:
        """What the VAE's decoder is given for latents of the U-Net's scale."""
        return latents / self._scale + self._shift

    @torch.no_grad()
    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Images of latents [B, C, h, w]: uint8 RGB [B, H, W, 3].

        Raises:
            BackboneError: if the latents or the pixels are not finite.
        """
        images = []
        for start in range(0, len(latents), IMAGES_AT_ONCE):
            raw = self.unscaled(latents[start : start + IMAGES_AT_ONCE])
            pixels = self.vae.decode(raw.to(self.device, self.dtype)).sample.float().cpu().numpy()
            if not np.isfinite(pixels).all():
                raise BackboneError(
                    "the backbone drew pixels that are not finite; set compute.dtype to float32, or check the weights"
                )
            images.append(from_unit(pixels))
        return np.concatenate(images)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> TextEmbedding:
        """Token states of prompts, [B, L, d], and a mask if padding is to be hidden; made once, used for many steps."""
        return self.text.embed(prompts)

    def predict(self, latents: Tensor, timesteps: Tensor, text: TextEmbedding) -> Tensor:
        """One evaluation of the U-Net: what it says about noisy latents.

        Gradients reach whatever is trainable in the U-Net, unless the caller switched them off.

        Args:
            latents: z_t, [B, C, h, w], any floating dtype.
            timesteps: int64 [B].
            text: B embeddings.

        Returns:
            Predicted noise or velocity (`schedule.prediction`), float32 [B, C, h, w].
        """
        output: Tensor = self.unet(
            latents.to(self.device, self.dtype),
            timesteps.to(self.device),
            encoder_hidden_states=text.states.to(self.device, self.dtype),
            encoder_attention_mask=None if text.mask is None else text.mask.to(self.device),
            return_dict=False,
        )[0]
        return output.float()

    @property
    def _scale(self) -> float:
        return float(dict(self.vae.config)["scaling_factor"])

    @property
    def _shift(self) -> float:
        return float(self.vae.config.get("shift_factor") or 0.0)


def open_backbone(spec: BackboneSpec, *, compute: ComputeParams, root: Path = Path()) -> LatentDiffusion:
    """Open the backbone that params.yaml names.

    Args:
        spec: which one.
        compute: device and number format.
        root: folder that relative paths start from.

    Raises:
        BackboneError: if it is not there, incomplete, pickled, or of another topology.
        ParamsError: if the device is not there.
    """
    match spec:
        case EmbeddedBackbone():
            components = read_folder(FOLDER, dtype=dtype_of(compute))
        case PretrainedBackbone():
            components = read_folder(local_folder(spec.path, root=root), dtype=dtype_of(compute))
        case ToyBackbone():
            components = toy.build(spec.seed)
        case _:
            assert_never(spec)
    return LatentDiffusion.on(components, compute=compute)


def backbone_identity(spec: BackboneSpec, *, root: Path = Path()) -> str:
    """Identity of the backbone that `open_backbone` would open, without loading its weights.

    Raises:
        BackboneError: as `open_backbone`, as far as files are missing.
    """
    match spec:
        case EmbeddedBackbone():
            return inspect_folder(FOLDER).identity()
        case PretrainedBackbone():
            return inspect_folder(local_folder(spec.path, root=root)).identity()
        case ToyBackbone():
            return toy.identity(spec.seed)
        case _:
            assert_never(spec)
