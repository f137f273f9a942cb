"""Planar group normalization: nn.GroupNorm's values, whatever the memory order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anosynth.diffusion.latent import open_backbone
from anosynth.diffusion.norms import PlanarGroupNorm, use_planar_norms
from anosynth.params import ComputeParams, ToyBackbone


def _by_hand(x: torch.Tensor, norm: nn.GroupNorm) -> torch.Tensor:
    """Every group of every image minus its mean, over its spread, then scale and shift per channel; float64."""
    out = torch.empty(x.shape, dtype=torch.float64)
    width = x.shape[1] // norm.num_groups
    for image in range(len(x)):
        for start in range(0, x.shape[1], width):
            group = x[image, start : start + width].double()
            out[image, start : start + width] = (group - group.mean()) / (group.var(unbiased=False) + norm.eps).sqrt()
    shape = (1, -1, *[1] * (x.dim() - 2))
    return out * norm.weight.detach().double().reshape(shape) + norm.bias.detach().double().reshape(shape)


@pytest.mark.parametrize("shape", [(2, 12, 5, 7), (3, 12, 6)])
@pytest.mark.parametrize("order", ["planes", "channels_last"])
def test_values_order_and_gradients(shape: tuple[int, ...], order: str) -> None:
    generator = torch.Generator().manual_seed(3)
    norm = PlanarGroupNorm(4, 12)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(12, generator=generator))
        norm.bias.copy_(torch.randn(12, generator=generator))
    x = torch.randn(shape, generator=generator) * 3.0 + 1.0
    if order == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.transpose(1, 2).contiguous().mT
    x.requires_grad_(True)
    found = norm(x)
    torch.testing.assert_close(found.detach().double(), _by_hand(x.detach(), norm), rtol=1e-5, atol=1e-5)
    if x.dim() == 4:
        assert found.stride() == x.stride()
    wanted = torch.randn(shape, generator=generator)
    (mine,) = torch.autograd.grad((found * wanted).sum(), x)
    plain = nn.functional.group_norm(x, 4, norm.weight, norm.bias, norm.eps)
    (theirs,) = torch.autograd.grad((plain * wanted).sum(), x)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_only_plain_norms_are_swapped_and_names_stay() -> None:
    class Other(nn.GroupNorm):
        pass

    network = nn.Sequential(nn.GroupNorm(2, 4), Other(2, 4), nn.Identity())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    use_planar_norms(network)
    assert [type(one) for one in network] == [PlanarGroupNorm, Other, nn.Identity]
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_an_opened_backbone_uses_them() -> None:
    compute = ComputeParams(threads=1, dtype="float32", device="cpu")
    backbone = open_backbone(ToyBackbone(kind="toy", seed=3), compute=compute)
    norms = [one for one in backbone.unet.modules() if isinstance(one, nn.GroupNorm)]
    assert norms
    assert all(type(one) is PlanarGroupNorm for one in norms)
