"""Weight files in the published layouts with seeded random numbers: mechanics can be checked on them, no figure can."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import alexnet, inception_v3, vgg16

CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
STEMS = {"alex": "alexnet", "vgg": "vgg16"}


@cache
def inception_state(seed: int = 0) -> dict[str, Tensor]:
    """FID's layout; the batch normalizations are far from the identity, so that a wrong one shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0.0, 0.3)
                module.running_mean.normal_(0.0, 0.05)  # type: ignore[union-attr]
                module.running_var.uniform_(0.05, 0.35)  # type: ignore[union-attr]
    return dict(network.state_dict())


@cache
def trunk_state(trunk: str, seed: int = 0) -> dict[str, Tensor]:
    """The trunk's layers without the classifier, which is large and not read."""
    with torch.device("meta"):
        network = alexnet(weights=None) if trunk == "alex" else vgg16(weights=None, init_weights=False)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in network.features.state_dict().items():
        spread = (2.0 / value[0].numel()) ** 0.5 if value.ndim == 4 else 0.05
        state[f"features.{key}"] = torch.randn(value.shape, generator=generator) * spread
    return state


@cache
def heads_state(trunk: str, seed: int = 1) -> dict[str, Tensor]:
    """One non-negative weight per channel of every layer."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"lin{at}.model.1.weight": torch.rand(1, count, 1, 1, generator=generator)
        for at, count in enumerate(CHANNELS[trunk])
    }


def write_lpips(folder: Path, trunk: str) -> Path:
    """Write both files of the folder that `measure.lpips` names."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(trunk_state(trunk), folder / f"{STEMS[trunk]}.pth")
    torch.save(heads_state(trunk), folder / f"lin_{trunk}.pth")
    return folder
