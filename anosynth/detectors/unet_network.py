"""A compact U-Net (Ronneberger et al. 2015) from pixels to defect logits, at the resolution of the image."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_LEVELS = 4
SIZE_MULTIPLE = 2**NUM_LEVELS
_GROUPS = 8
# Rare foreground: the last bias starts where the sigmoid says 1 % (Lin et al. 2017, Focal Loss, section 4.1).
_PRIOR = 0.01


class UNet(nn.Module):
    """Four levels at strides 2, 4, 8, 16; pixels are folded into channels before and unfolded after.

    Folding 2 x 2 pixels into channels (pixel unshuffle) keeps every pixel but spares the convolutions at full
    resolution, which would cost most of the time. Group normalization, not batch normalization: a batch mixes normal,
    real and synthetic images in a ratio that is not that of the test images.
    """

    def __init__(self, *, channels: int) -> None:
        """Lay out the layers; weights are set by `initialize`.

        Args:
            channels: at the first level, at least 4; each next level has twice as many.
        """
        super().__init__()
        widths = [channels * 2**level for level in range(NUM_LEVELS)]
        self.down = nn.ModuleList(_block(i, o) for i, o in itertools.pairwise([3 * 4, *widths]))
        self.up = nn.ModuleList(_block(fine + coarse, fine) for fine, coarse in itertools.pairwise(widths))
        self.head = nn.Conv2d(channels, 4, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels [B, 3, S, S] in [-1, 1] to logits [B, 1, S, S]; S is a multiple of 16."""
        x = functional.pixel_unshuffle(pixels, 2)
        skips = []
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for block, skip in zip(reversed(self.up), reversed(skips[:-1]), strict=True):
            x = block(torch.cat([skip, functional.interpolate(x, scale_factor=2, mode="nearest")], dim=1))
        logits: Tensor = functional.pixel_shuffle(self.head(x), 2)
        return logits


def build_unet(*, channels: int, generator: torch.Generator) -> UNet:
    """Build the network with weights drawn from `generator` alone (no global generator is touched)."""
    with torch.device("meta"):
        network = UNet(channels=channels)
    network.to_empty(device="cpu")
    initialize(network, generator)
    return network


@torch.no_grad()
def initialize(network: UNet, generator: torch.Generator) -> None:
    """Set all weights: He's normal for convolutions, the identity for norms, the prior for the last bias."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.normal_(network.head.weight, std=0.01, generator=generator)
    assert network.head.bias is not None
    nn.init.constant_(network.head.bias, math.log(_PRIOR / (1.0 - _PRIOR)))


def _block(num_in: int, num_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (num_in, num_out):
        layers += [
            nn.Conv2d(width, num_out, 3, padding=1, bias=False),
            nn.GroupNorm(math.gcd(_GROUPS, num_out), num_out),
            nn.SiLU(),
        ]
    return nn.Sequential(*layers)
