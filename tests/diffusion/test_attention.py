"""Attention by plain products and fused: equal values and gradients, and processors as they were."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from anosynth.diffusion.attention import attend, fused_is_slow, trainable_attention
from anosynth.diffusion.dual import attention_layers
from anosynth.diffusion.latent import LatentDiffusion, open_backbone
from anosynth.params import ComputeParams, ToyBackbone

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone() -> LatentDiffusion:
    compute = ComputeParams(threads=1, dtype="float32", device="cpu")
    return open_backbone(ToyBackbone(kind="toy", seed=3), compute=compute)


def _by_hand(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, heads: int, hidden: torch.Tensor | None
) -> torch.Tensor:
    """Head by head: softmax of q k' / sqrt(d), positions that are hidden left out; float64."""
    width = q.shape[-1] // heads
    out = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[..., part].double() @ k[..., part].double().mT / math.sqrt(width)
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, None], -math.inf)
        out.append(scores.softmax(-1) @ v[..., part].double())
    return torch.cat(out, dim=-1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_forms_are_softmax_attention(backbone: LatentDiffusion, dtype: torch.dtype, masked: bool) -> None:
    layer = next(iter(attention_layers(backbone.unet).values()))
    width = layer.to_q.out_features
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(2, n, width, generator=generator).to(dtype).requires_grad_(True) for n in (9, 6, 6))
    hidden = torch.tensor([[False] * 4 + [True] * 2, [False] * 6]) if masked else None
    mask = None if hidden is None else torch.zeros(2, 1, 6, dtype=dtype).masked_fill(hidden[:, None], -10_000.0)
    wanted = _by_hand(q.detach(), k.detach(), v.detach(), heads=layer.heads, hidden=hidden)
    trained = attend(layer, q, k, v, mask)
    with torch.no_grad():
        fused = attend(layer, q, k, v, mask)
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for found in (trained.detach(), fused):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
    exact = [x.detach().double().requires_grad_(True) for x in (q, k, v)]
    there = _by_hand(*exact, heads=layer.heads, hidden=hidden)
    gradients = zip(
        torch.autograd.grad(trained.double().square().sum(), (q, k, v)),
        torch.autograd.grad(there.square().sum(), exact),
        strict=True,
    )
    for mine, theirs in gradients:
        scale = float(theirs.abs().max())
        torch.testing.assert_close(mine.double(), theirs, rtol=0.0, atol=(1e-5 if tolerance < 0.01 else 0.03) * scale)


def test_only_bfloat16_on_the_cpu_leaves_the_fused_form(backbone: LatentDiffusion) -> None:
    assert [fused_is_slow(CPU, one) for one in (torch.float32, torch.bfloat16)] == [False, True]
    assert not fused_is_slow(torch.device("cuda"), torch.bfloat16)
    layers = attention_layers(backbone.unet).values()
    with trainable_attention(backbone.unet, device=CPU, dtype=torch.float32):
        assert {type(one.processor) for one in layers} == {AttnProcessor2_0}
    with trainable_attention(backbone.unet, device=CPU, dtype=torch.bfloat16):
        assert {type(one.processor) for one in layers} == {AttnProcessor}
    assert {type(one.processor) for one in layers} == {AttnProcessor2_0}
    with pytest.raises(KeyError), trainable_attention(backbone.unet, device=CPU, dtype=torch.bfloat16):
        raise KeyError("stopped")
    assert {type(one.processor) for one in layers} == {AttnProcessor2_0}
