"""A toy backbone, an empty adapter and the tiny encoder put together to a One-to-Normal detector."""

from __future__ import annotations

from functools import cache

from anosynth.detectors.one_to_normal import OneToNormal
from anosynth.detectors.personalizer import TwinSource
from anosynth.diffusion import toy
from anosynth.diffusion.adapters import Adapter, add_lora, remove_lora, take_adapter
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.params import ComputeParams, OneToNormalSpec
from tests.detectors.tiny_aligned import TinyAligned

SIZE_PX = 64


@cache
def backbone() -> LatentDiffusion:
    """Leave its weights as they are."""
    return LatentDiffusion.on(toy.build(0), compute=ComputeParams(threads=1, dtype="float32", device="cpu"))


@cache
def adapter() -> Adapter:
    """An adapter that changes nothing: B is zero."""
    opened = backbone()
    add_lora(opened.unet, rank=2, alpha=2.0, seed=1)
    try:
        return take_adapter(opened.unet, rank=2, alpha=2.0, backbone=opened.identity, facts={"steps": 0})
    finally:
        remove_lora(opened.unet)


def source() -> TwinSource:
    """Where twins come from."""
    return TwinSource(backbone, lambda: backbone().identity, adapter, SIZE_PX)


def spec(preset: str = "paper", **changes: object) -> OneToNormalSpec:
    """A spec with few steps and one strength."""
    few = {"steps": 10, "guidance": 1.0, "strengths": ()}
    given = {"kind": "one_to_normal", "arms": ["real"], "preset": preset, **few, **changes}
    return OneToNormalSpec.model_validate(given)


def detector(preset: str = "paper", *, seed: int = 0, name: str = "washer", **changes: object) -> OneToNormal:
    """An empty detector."""
    opening = {"backbone": "toy"}
    return OneToNormal(TinyAligned(), source(), spec=spec(preset, **changes), name=name, seed=seed, opening=opening)
