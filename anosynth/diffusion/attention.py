"""Attention that can be trained on a CPU in bfloat16.

PyTorch's fused attention is the fast form everywhere but there: forward and backward pass on the CPU in bfloat16 take 3
to 8 times as long as the plain products do (torch 2.12, 64 to 256 positions), its backward pass a third of a training
step of a small U-Net. The values are the same to rounding (`benchmarks.embedded`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


def attend(attn: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention over positions with a layer's heads: by plain products where that is faster, else fused.

    Args:
        attn: the layer.
        q: queries, [B, n, c].
        k: keys, [B, m, c].
        v: values, [B, m, c].
        mask: added to the scores, as the U-Net gives it to processors, or None.

    Returns:
        [B, n, c].
    """
    batch, positions = q.shape[0], k.shape[1]
    if mask is not None:
        mask = attn.prepare_attention_mask(mask, positions, batch)
    if torch.is_grad_enabled() and fused_is_slow(q.device, q.dtype):
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
        return attn.batch_to_head_dim(torch.bmm(attn.get_attention_scores(q, k, mask), v))
    if mask is not None:
        mask = mask.view(batch, attn.heads, -1, mask.shape[-1])
    split = (-1, attn.heads, q.shape[-1] // attn.heads)
    q, k, v = (x.unflatten(1, (-1,)).view(batch, *split).transpose(1, 2) for x in (q, k, v))
    mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return mixed.transpose(1, 2).flatten(2)


def fused_is_slow(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the fused kernel's backward pass is the slow one."""
    return device.type == "cpu" and dtype == torch.bfloat16


@contextmanager
def trainable_attention(unet: UNet2DConditionModel, *, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Let a U-Net with plain attention attend by the form that trains fast; fused attention is back at the end.

    Args:
        unet: its layers have diffusers' own processors; changed in place meanwhile.
        device: where it is trained.
        dtype: of the activations.
    """
    if not fused_is_slow(device, dtype):
        yield
        return
    try:
        unet.set_attn_processor(AttnProcessor())
        yield
    finally:
        unet.set_attn_processor(AttnProcessor2_0())
