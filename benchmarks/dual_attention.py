"""The exchange of two branches (DualAnoDiff's SAIM), folded against the fastest form of the published structure."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from anosynth.diffusion.interaction import FoldedInteraction, Interaction
from benchmarks.measure import best_seconds, compare, finish

POSITIONS = 256
WIDTH = 640
PAIRS = 2
ASK_PAPER = 1.3
TOLERANCE = 1e-5


def with_sdpa(module: Interaction, features: Tensor) -> Tensor:
    """Length-two attention over [pairs x positions, 2, width] through torch's fused attention, as published."""
    q, k, v = (layer.unsqueeze(1) for layer in _qkv(module, features))
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v).squeeze(1)
    return _back(module, features, mixed)


def with_products(module: Interaction, features: Tensor) -> Tensor:
    """The same with plain batched products, which fused attention loses to at length two."""
    q, k, v = _qkv(module, features)
    mixed = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(module.inner), dim=-1) @ v
    return _back(module, features, mixed)


def _qkv(module: Interaction, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    z = module.in_map(module.norm(features)).reshape(2, -1, module.inner).transpose(0, 1)
    return module.q_map(z), module.k_map(z), module.v_map(z)


def _back(module: Interaction, features: Tensor, mixed: Tensor) -> Tensor:
    return features + module.out_map(mixed).transpose(0, 1).reshape(features.shape)


def main() -> int:
    generator = torch.Generator().manual_seed(0)
    module = Interaction(WIDTH, WIDTH, zero_output=False, generator=generator).requires_grad_(False)
    features = torch.randn(2 * PAIRS, POSITIONS, WIDTH, generator=generator)
    folded = FoldedInteraction(module)
    forms = {"sdpa": with_sdpa, "products": with_products}
    for name, form in forms.items():
        difference = float((folded(features) - form(module, features)).abs().max())
        if not difference < TOLERANCE:
            print(f"dual_attention: folded differs from {name} by {difference:.2e} > {TOLERANCE}", file=sys.stderr)
            return 1
    half = copy.deepcopy(module).bfloat16()
    sides: dict[str, Callable[[], object]] = {}
    for name, form in forms.items():
        sides[f"{name} float32"] = lambda form=form: form(module, features)  # type: ignore[misc]
        sides[f"{name} bfloat16"] = lambda form=form: form(half, features.bfloat16())  # type: ignore[misc]
    with torch.inference_mode():
        speed = best_seconds(sides)
        fastest = min(speed, key=lambda name: speed[name])
        x = features.bfloat16() if fastest.endswith("bfloat16") else features
        ours = FoldedInteraction(half) if fastest.endswith("bfloat16") else folded
        bar = compare("dual_attention.paper", ask=ASK_PAPER, baseline=sides[fastest], ours=lambda: ours(x))
    table = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in speed.items())
    print(f"  n={POSITIONS} d={WIDTH}, {PAIRS} pairs; reference forms: {table}; baseline: {fastest}", file=sys.stderr)
    return finish([bar])


if __name__ == "__main__":
    raise SystemExit(main())
