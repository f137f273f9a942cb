"""Stable Diffusion 1.5's U-Net at full size in bf16, random weights: what an adapter weighs and what a step costs.

For each mode it prints the adapter's size in half precision and float32, the seconds of a training step (batch of one
pair, bf16 autocast) and of a sampling step (one pair with guidance: four rows), and the peak memory of the process so
far. `default` must stay within 40 MB in half precision; `paper` is the published structure (557 MB in float32 with the
text encoder's LoRA, which is off here). Needs about 8 GB of memory; minutes on a CPU.

Run: python -m benchmarks.sd15_full_size [--size-px 512] [--steps 2] [--modes default paper]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import torch
from diffusers import UNet2DConditionModel

from anosynth.diffusion import toy
from anosynth.diffusion.devices import accelerator_for
from anosynth.diffusion.dual import DualAdapter, DualShape, num_parameters
from anosynth.diffusion.dual_sample import DualPrompts, draw_pairs, two_branches
from anosynth.diffusion.dual_train import DualSet, DualTrainSettings, train_dual
from anosynth.diffusion.latent import LatentDiffusion, Moments
from anosynth.diffusion.loop import LoopSettings
from anosynth.diffusion.solver import SamplerSettings
from anosynth.diffusion.text import TextEmbedding
from anosynth.params import ComputeParams
from anosynth.seeding import torch_generators
from benchmarks.measure import Bar, finish

ASK_MB = 40.0
WIDTHS = (320, 640, 1280, 1280)
TEXT_WIDTH, TOKENS = 768, 77
SHAPES = {
    "default": DualShape("default", 32, 32.0, 64),
    "paper": DualShape("paper", 32, 32.0, 1),
}


class NoCheckpoints:
    """A store that keeps nothing."""

    def put_blob(self, key: str, data: bytes) -> None:
        """Drop it."""

    def get_blob(self, key: str) -> bytes | None:
        """Nothing is there."""
        return None


def full_unet() -> UNet2DConditionModel:
    """860 million parameters, bf16, each linear and convolution drawn uniform in +-sqrt(3 / fan-in)."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(block_out_channels=WIDTHS, cross_attention_dim=TEXT_WIDTH, attention_head_dim=8)
    unet = unet.to(torch.bfloat16).to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, value in unet.named_parameters():
        if value.dim() > 1:
            bound = (3.0 / value[0].numel()) ** 0.5
            value.uniform_(-bound, bound, generator=generator)
        else:
            value.fill_(1.0 if name.endswith("weight") else 0.0)
    return unet.to(memory_format=torch.channels_last)


def full_backbone() -> LatentDiffusion:
    """The U-Net at full size; VAE and text encoder are the toy's, which only the decoded picture sees."""
    compute = ComputeParams(threads=2, dtype="float32", device="cpu")
    small = LatentDiffusion.on(toy.build(0), compute=compute)
    return LatentDiffusion(
        small.vae.to(torch.bfloat16),
        full_unet(),
        small.text,
        small.schedule,
        small.factor,
        "full size",
        torch.device("cpu"),
        torch.bfloat16,
    )


def measure(backbone: LatentDiffusion, mode: str, *, size_px: int, steps: int) -> None:
    """Train and draw a few steps; print what they cost."""
    adapter = DualAdapter(backbone.unet, SHAPES[mode], generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    shape = (1, *backbone.latent_shape(size_px))
    moments = Moments(torch.randn(shape, generator=generator), torch.full(shape, 0.1))
    text = TextEmbedding(torch.randn(3, TOKENS, TEXT_WIDTH, generator=generator))
    started, used = time.perf_counter(), time.process_time()
    result = train_dual(
        backbone,
        adapter,
        DualSet(moments, moments, text, (0,), (1,)),
        DualTrainSettings(LoopSettings(steps=steps, lr=1e-4, checkpoint_every=steps, log_every=steps), batch_size=1),
        seed=0,
        address=("full size",),
        accelerator=accelerator_for(ComputeParams(threads=2, dtype="bfloat16", device="cpu")),
        checkpoints=NoCheckpoints(),
        key="none",
    )
    trained = _per_step(started, used, steps)
    with two_branches(backbone, adapter.to(torch.bfloat16)):
        started, used = time.perf_counter(), time.process_time()
        draw_pairs(
            backbone,
            DualPrompts(text.rows([0]), text.rows([1]), text.rows([2])),
            size_px=size_px,
            settings=SamplerSettings("dpm_solver", steps, 2.5),
            generators=torch_generators([1]),
        )
        drawn = _per_step(started, used, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    losses = ", ".join(f"{loss:.3f}" for loss in result.losses)
    print(
        f"{mode}, {size_px} px, {torch.get_num_threads()} threads: losses {losses}; a training step {trained}, a "
        f"sampling step {drawn}; peak memory so far {peak:.1f} GiB",
        flush=True,
    )


def _per_step(started: float, used: float, steps: int) -> str:
    wall, cpu = time.perf_counter() - started, time.process_time() - used
    return f"{cpu / steps:.1f} s of CPU ({wall / steps:.1f} s wall)"


def sizes() -> list[Bar]:
    """Adapter sizes; the bar is how often the default one fits into 40 MB."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(block_out_channels=WIDTHS, cross_attention_dim=TEXT_WIDTH, attention_head_dim=8)
    bars = []
    for mode, shape in SHAPES.items():
        count = num_parameters(DualAdapter(unet, shape, generator=torch.Generator().manual_seed(1)))
        print(
            f"{mode}: {count:,} numbers, {2 * count / 1e6:.1f} MB in half precision, {4 * count / 1e6:.1f} in float32"
        )
        if mode == "default":
            bars.append(Bar("sd15_full_size.adapter", ASK_MB / (2 * count / 1e6), 1.0))
    return bars


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-px", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--modes", nargs="*", choices=sorted(SHAPES), default=sorted(SHAPES))
    given = parser.parse_args()
    bars = sizes()
    if given.modes:
        started = time.perf_counter()
        backbone = full_backbone()
        print(f"opened in {time.perf_counter() - started:.0f} s", flush=True)
        for mode in given.modes:
            measure(backbone, mode, size_px=given.size_px, steps=given.steps)
    return finish(bars)


if __name__ == "__main__":
    sys.exit(main())
