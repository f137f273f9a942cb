"""The toy backbone: the same everywhere, shaped like Stable Diffusion."""

import torch

from anosynth.diffusion import toy
from anosynth.diffusion.latent import LatentDiffusion


def test_equal_seeds_give_equal_weights_and_other_seeds_others() -> None:
    first, again, other = toy.build(3), toy.build(3), toy.build(4)
    compared = 0
    for part in ("vae", "unet"):
        pairs = zip(getattr(first, part).state_dict().values(), getattr(again, part).state_dict().values(), strict=True)
        for left, right in pairs:
            assert torch.equal(left, right)
            compared += 1
    assert compared > 300
    assert torch.equal(first.text.embed(["x"]).states, again.text.embed(["x"]).states)
    assert not torch.equal(first.unet.conv_in.weight, other.unet.conv_in.weight)


def test_its_identity_is_known_without_building_it_and_follows_the_seed() -> None:
    assert toy.build(3).identity == toy.identity(3)
    assert toy.identity(3) != toy.identity(4)


def test_it_has_stable_diffusions_shape(backbone: LatentDiffusion) -> None:
    assert backbone.latent_shape(64) == (4, 8, 8)
    assert backbone.latent_shape(128) == (4, 16, 16)
    assert (backbone.schedule.num_timesteps, backbone.schedule.prediction) == (1000, "epsilon")
    attentions = [name for name, _ in backbone.unet.named_modules() if name.endswith((".attn1", ".attn2"))]
    assert len(attentions) == 20
    assert all(not parameter.requires_grad for parameter in backbone.unet.parameters())


def test_its_random_network_uses_time_text_and_latents(backbone: LatentDiffusion) -> None:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = backbone.embed(["a photo of normal tile", "cat"])
    with torch.no_grad():
        base = backbone.predict(latents, torch.tensor([500]), text.rows([0]))
        for other in (
            backbone.predict(latents, torch.tensor([5]), text.rows([0])),
            backbone.predict(latents, torch.tensor([500]), text.rows([1])),
            backbone.predict(-latents, torch.tensor([500]), text.rows([0])),
        ):
            assert (base - other).abs().max() > 1e-3
