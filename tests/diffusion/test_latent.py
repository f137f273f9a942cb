"""Images to latents and back, prompts to the U-Net, on the device that was asked for."""

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from anosynth.diffusion import toy
from anosynth.diffusion.components import Components
from anosynth.diffusion.devices import device_of, memory_shortage_is_temporary
from anosynth.diffusion.latent import IMAGES_AT_ONCE, LatentDiffusion
from anosynth.diffusion.text import TextEmbedding
from anosynth.errors import EXIT_TEMPORARY, BackboneError, ParamsError, TemporaryError
from anosynth.params import ComputeParams


def pictures(count: int, side: int = 32) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def test_moments_are_those_of_the_vae_shifted_and_scaled(compute: ComputeParams) -> None:
    plain = toy.build(0)
    with torch.random.fork_rng(devices=[]):
        vae = AutoencoderKL(**{**toy.VAE, "scaling_factor": 0.25, "shift_factor": 0.5})
    vae.load_state_dict(plain.vae.state_dict())
    parts = Components(vae, plain.unet, plain.text, plain.schedule, plain.factor, "scaled")
    backbone, images = LatentDiffusion.on(parts, compute=compute), pictures(2)
    moments = backbone.encode_moments(images)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
        decoded = vae.decode(moments.mean / 0.25 + 0.5).sample
    assert torch.allclose(moments.mean, (posterior.mean - 0.5) * 0.25, atol=1e-5)
    assert torch.allclose(moments.std, posterior.std * 0.25, atol=1e-6)
    wanted = ((decoded.clamp(-1.0, 1.0) + 1.0) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(backbone.decode(moments.mean).astype(int) - wanted).max() <= 1
    assert torch.equal(backbone.encode(images), moments.mean)


def test_a_draw_from_the_posterior_without_noise_is_its_mean(backbone: LatentDiffusion) -> None:
    moments = backbone.encode_moments(pictures(2))
    assert torch.equal(moments.sample(torch.zeros_like(moments.mean)), moments.mean)
    noise = torch.full_like(moments.mean, 2.0)
    assert torch.equal(moments.sample(noise), moments.mean + moments.std * 2.0)
    assert torch.equal(moments.rows(torch.tensor([1, 1])).mean[0], moments.mean[1])


def test_many_images_go_through_the_vae_a_few_at_a_time(backbone: LatentDiffusion) -> None:
    images = pictures(2 * IMAGES_AT_ONCE + 1)
    latents = backbone.encode(images)
    assert len(latents) == len(images)
    assert torch.allclose(latents[-1:], backbone.encode(images[-1:]), atol=1e-4)
    assert backbone.decode(latents).shape == (len(images), 32, 32, 3)


def test_a_masked_token_does_not_reach_the_unet(backbone: LatentDiffusion) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, states = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 32, generator=generator)
    changed = states.clone()
    changed[0, 3:] = 9.0
    mask = torch.tensor([[True, True, True, False, False]])
    timesteps = torch.tensor([100])
    with torch.no_grad():
        masked = [backbone.predict(latents, timesteps, TextEmbedding(given, mask)) for given in (states, changed)]
        open_ones = [backbone.predict(latents, timesteps, TextEmbedding(given)) for given in (states, changed)]
        short = backbone.predict(latents, timesteps, TextEmbedding(states[:, :3]))
    assert torch.equal(masked[0], masked[1])
    assert torch.allclose(masked[0], short, atol=1e-5)
    assert not torch.allclose(open_ones[0], open_ones[1], atol=1e-3)


def test_bfloat16_agrees_with_float32_up_to_its_rounding(backbone: LatentDiffusion) -> None:
    compute = ComputeParams(threads=1, dtype="bfloat16", device="cpu")
    coarse = LatentDiffusion.on(toy.build(0), compute=compute)
    assert next(coarse.unet.parameters()).dtype == torch.bfloat16
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps, text = torch.tensor([10, 800]), backbone.embed(["a photo of normal tile"] * 2)
    with torch.no_grad():
        fine, rough = (one.predict(latents, timesteps, text) for one in (backbone, coarse))
    assert rough.dtype == torch.float32
    assert (rough - fine).abs().mean() < 0.02 * fine.abs().mean()


def test_wrong_sizes_and_broken_numbers_are_named(backbone: LatentDiffusion) -> None:
    with pytest.raises(
        BackboneError, match=r"image\.size_px is 100; this backbone's VAE needs a multiple of 8, for exam"
    ):
        backbone.latent_shape(100)
    with pytest.raises(BackboneError, match="images to encode must share one size, a multiple of 8"):
        backbone.encode([*pictures(1, 32), *pictures(1, 40)])
    with pytest.raises(BackboneError, match=r"pixels that are not finite; set compute\.dtype to float32"):
        backbone.decode(torch.full((1, 4, 4, 4), torch.nan))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")
def test_a_device_that_is_not_there_is_wrong_input() -> None:
    with pytest.raises(ParamsError, match=r"compute\.device is cuda, but no CUDA device is visible"):
        device_of(ComputeParams(threads=1, dtype="float32", device="cuda"))


def test_a_full_device_is_temporary_trouble() -> None:
    message = "drawing: the device ran out of memory"
    with pytest.raises(TemporaryError, match=message) as caught, memory_shortage_is_temporary("drawing"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert caught.value.exit_code == EXIT_TEMPORARY
