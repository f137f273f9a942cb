"""Group normalization of images that lie channel by channel, on the CPU, whatever order they come in.

Backbones compute in channels_last, which convolutions want. PyTorch's GroupNorm kernel for that order takes 7 to 45
times as long on the CPU as the one for planes (torch 2.12, widths 96 to 384 on 4 x 4 to 16 x 16 cells), more than all
convolutions of a small U-Net together. Two copies cost far less: same sums in another order, so values agree to
rounding (`benchmarks.embedded`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class PlanarGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` that goes over channels_last images plane by plane; the order of the output is the input's."""

    def forward(self, input: Tensor) -> Tensor:
        """See `nn.GroupNorm.forward`.

        Args:
            input: [B, C, ...] in any memory order.
        """
        if input.is_contiguous():
            return super().forward(input)
        planes = functional.group_norm(input.contiguous(), self.num_groups, self.weight, self.bias, self.eps)
        if input.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last):
            return planes.contiguous(memory_format=torch.channels_last)
        return planes


def use_planar_norms(network: nn.Module) -> None:
    """Let every plain `nn.GroupNorm` of a network be a `PlanarGroupNorm`, in place; parameters and names stay."""
    for module in network.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = PlanarGroupNorm
