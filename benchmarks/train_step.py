"""A training step of two branches: latents and prompts come from a cache, and one fused call updates all tensors.

`cached` counts: the share of the steps after the first epoch in which neither the VAE nor the text encoder ran; all of
them must be free of such calls. `optimizer` times torch's AdamW as a loop over tensors (one by one, as the published
code's recipe runs it) against the fused form that `loop.run_steps` uses, on the tensors of a dual adapter for Stable
Diffusion 1.5's 32 attention layers at a tenth of the width: many small ones.

Run: python -m benchmarks.train_step
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from anosynth.diffusion import toy
from anosynth.diffusion.devices import accelerator_for
from anosynth.diffusion.dual import DualAdapter, DualShape
from anosynth.diffusion.dual_train import DualSet, DualTrainSettings, train_dual
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.loop import LoopSettings
from anosynth.diffusion.text import ClipText
from anosynth.params import ComputeParams
from benchmarks.lora_routing import small_unet
from benchmarks.measure import Bar, compare, finish

ASK_OPTIMIZER = 3.0
RANK = 32
SHOTS = 6
BATCH = 2
STEPS = 9
SIZE_PX = 64
LR = 1e-3
TOLERANCE = 1e-6
COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")


class NoCheckpoints:
    """A store that keeps nothing."""

    def put_blob(self, key: str, data: bytes) -> None:
        """Drop it."""

    def get_blob(self, key: str) -> bytes | None:
        """Nothing is there."""
        return None


def cached() -> Bar:
    """Count the calls of VAE and text encoder in each step of a real training run."""
    backbone = LatentDiffusion.on(toy.build(0), compute=COMPUTE)
    assert isinstance(backbone.text, ClipText)
    calls: list[str] = []
    steps: list[int] = []
    watched: dict[str, nn.Module] = {
        "vae.encoder": backbone.vae.encoder,
        "vae.decoder": backbone.vae.decoder,
        "text_encoder": backbone.text.model,
    }
    for name, module in watched.items():
        module.register_forward_pre_hook(lambda _, __, name=name: calls.append(name))  # type: ignore[misc]
    backbone.unet.register_forward_pre_hook(lambda *_: steps.append(len(calls)))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8) for _ in range(2 * SHOTS)]
    shots = DualSet(
        backbone.encode_moments(images[:SHOTS]),
        backbone.encode_moments(images[SHOTS:]),
        backbone.embed(["a vfx with sks", "sks"]),
        (0,) * SHOTS,
        (1,) * SHOTS,
    )
    before = len(calls)
    if {*calls} != {"vae.encoder", "text_encoder"}:
        raise SystemExit(f"train_step: the counter saw {sorted({*calls})} while shots were encoded; it does not work")
    train_dual(
        backbone,
        DualAdapter(backbone.unet, DualShape("default", 4, 4.0, 8), generator=torch.Generator().manual_seed(0)),
        shots,
        DualTrainSettings(LoopSettings(steps=STEPS, lr=LR, checkpoint_every=STEPS, log_every=STEPS), batch_size=BATCH),
        seed=0,
        address=("benchmark",),
        accelerator=accelerator_for(COMPUTE),
        checkpoints=NoCheckpoints(),
        key="none",
    )
    epoch = math.ceil(SHOTS / BATCH)
    seen = [*steps[1:], len(calls)]
    free = sum(after == at for at, after in zip(steps[epoch:], seen[epoch:], strict=True))
    note = (
        f"{before} calls before the first step, {len(calls) - before} in {len(steps)} steps; epoch of {epoch} steps, "
        f"{free} of {len(steps) - epoch} later steps without a call"
    )
    return Bar("train_step.cached", free / (STEPS - epoch), 1.0, note=note)


def optimizer() -> Bar:
    """Time the update of an adapter's tensors, after comparing what both forms make of them."""
    unet: UNet2DConditionModel = small_unet()
    adapter = DualAdapter(unet, DualShape("default", RANK, float(RANK), 64), generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    gradients = [torch.randn(value.shape, generator=generator) for value in adapter.parameters()]

    def side(*, fused: bool) -> tuple[list[nn.Parameter], Callable[[], None]]:
        values = [nn.Parameter(value.detach().clone()) for value in adapter.parameters()]
        for value, gradient in zip(values, gradients, strict=True):
            value.grad = gradient.clone()
        form = torch.optim.AdamW(values, lr=LR, weight_decay=1e-2, foreach=False, fused=fused)
        return values, lambda: form.step()

    (loop_values, loop), (fused_values, fused) = side(fused=False), side(fused=True)
    for _ in range(3):
        loop()
        fused()
    difference = max(_distance(a, b) for a, b in zip(loop_values, fused_values, strict=True))
    if not difference < TOLERANCE:
        raise SystemExit(f"train_step: fused differs from the loop by {difference:.2e} > {TOLERANCE}")
    bar = compare("train_step.optimizer", ask=ASK_OPTIMIZER, baseline=loop, ours=fused, rounds=15, warm_up=3)
    count = sum(value.numel() for value in loop_values)
    return Bar(bar.name, bar.ratio, bar.ask, note=f"{bar.note}; {len(loop_values)} tensors, {count} numbers")


def _distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).detach().abs().max())


def main() -> int:
    """Command line."""
    return finish([cached(), optimizer()])


if __name__ == "__main__":
    sys.exit(main())
