"""The embedded backbone: bf16 against fp32, batch 8 against batch 1 end to end, norms and attention against PyTorch's.

End to end is embed, five solver steps without guidance, decode. The bf16 bars apply where the processor has AMX tiles;
elsewhere fp32 is the default and the bars say so. The evaluation's ratio is the 20 ms per image that are allowed, over
what one evaluation of the U-Net takes in bf16. The norms' bar times one U-Net evaluation; its baseline is the faster
of PyTorch's own GroupNorm in channels_last and in planes. The attention's bar times gradients of a LoRA in bf16, our
attention against the fused one. Figures per image, one thread, stand in the notes.

Run: python -m benchmarks.embedded [--folder DIR]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anosynth.diffusion.adapters import add_lora
from anosynth.diffusion.attention import trainable_attention
from anosynth.diffusion.embedded import FOLDER
from anosynth.diffusion.latent import LatentDiffusion, open_backbone
from anosynth.diffusion.norms import PlanarGroupNorm
from anosynth.diffusion.sample import text_to_image
from anosynth.diffusion.solver import SamplerSettings
from anosynth.params import ComputeParams, PretrainedBackbone
from anosynth.seeding import torch_generators
from benchmarks.measure import Bar, best_seconds, finish, not_measured

ASK_BF16 = 1.5
ASK_BATCH = 1.3
ASK_NORMS = 1.05
ASK_ATTENTION = 1.2
BATCH = 8
SIZE_PX = 128
STEPS = 5
ASK_EVALUATION_MS = 20.0
MEAN_GREY_LEVELS = 0.5
"""Mean |difference| of the images that bf16's 8 bits of mantissa may make after five steps, in grey levels."""

RANK = 8
SAME_DIRECTION = 0.99
"""Least cosine of the gradients of both forms; bf16 rounds them apart."""


def has_amx() -> bool:
    """Whether the processor multiplies bf16 matrices in tiles."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def draw(backbone: LatentDiffusion, batch: int) -> NDArray[np.uint8]:
    """End to end, uint8 [batch, 128, 128, 3]; picture i is the same for every batch size."""
    text = backbone.embed(["a photo of rusty iron"] * batch)
    settings = SamplerSettings("dpm_solver", STEPS)
    return text_to_image(
        backbone, text, size_px=SIZE_PX, settings=settings, generators=torch_generators(list(range(batch)))
    )


def evaluation(backbone: LatentDiffusion) -> Callable[[], object]:
    """One U-Net evaluation of a batch of eight."""
    latents = torch.zeros(BATCH, *backbone.latent_shape(SIZE_PX))
    text, at = backbone.embed(["a photo of rusty iron"] * BATCH), torch.full((BATCH,), 500)

    def run() -> None:
        with torch.inference_mode():
            backbone.predict(latents, at, text)

    return run


def opened_as(folder: Path, dtype: Literal["float32", "bfloat16"]) -> LatentDiffusion:
    """The backbone of a folder on one thread of the CPU."""
    spec = PretrainedBackbone(kind="pretrained", path=str(folder.absolute()))
    return open_backbone(spec, compute=ComputeParams(threads=1, dtype=dtype, device="cpu"))


def with_plain_norms(backbone: LatentDiffusion, order: torch.memory_format) -> LatentDiffusion:
    """The same backbone with PyTorch's GroupNorm and weights in another order, in place."""
    norms: list[nn.Module] = [one for one in backbone.unet.modules() if isinstance(one, PlanarGroupNorm)]
    for norm in norms:
        norm.__class__ = nn.GroupNorm
    backbone.unet.to(memory_format=order)
    return backbone


def norms_bar(folder: Path) -> Bar:
    """Planar norms against PyTorch's, one evaluation of the U-Net in the default format."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if has_amx() else "float32"
    sides = {
        "planar": opened_as(folder, dtype),
        "channels_last": with_plain_norms(opened_as(folder, dtype), torch.channels_last),
        "planes": with_plain_norms(opened_as(folder, dtype), torch.contiguous_format),
    }
    pictures = {name: draw(backbone, BATCH).astype(np.float64) for name, backbone in sides.items()}
    difference = max(float(np.abs(pictures["planar"] - one).mean()) for one in pictures.values())
    if not difference <= MEAN_GREY_LEVELS:
        raise SystemExit(f"pictures by planar norms differ by {difference:.2f} grey levels on average")
    best = best_seconds({name: evaluation(backbone) for name, backbone in sides.items()})
    baseline = min(best["channels_last"], best["planes"])
    note = f"mean difference {difference:.2f} grey levels; {dtype}, CPU ms per image: " + ", ".join(
        f"{name} {1e3 * seconds / BATCH:.1f}" for name, seconds in best.items()
    )
    return Bar("embedded.norms", baseline / best["planar"], ASK_NORMS, note=note)


def attention_bar(folder: Path) -> Bar:
    """Gradients of a LoRA in bf16: attention by plain products against the fused kernel."""
    backbone = opened_as(folder, "bfloat16")
    lora = add_lora(backbone.unet, rank=RANK, alpha=float(RANK), seed=0)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(BATCH, *backbone.latent_shape(SIZE_PX), generator=generator)
    text, at = backbone.embed(["a photo of rusty iron"] * BATCH), torch.full((BATCH,), 500)
    with torch.no_grad():
        for value in lora.values():
            value.add_(0.01 * torch.randn(value.shape, generator=generator))

    def gradients(dtype: torch.dtype) -> Tensor:
        with (
            trainable_attention(backbone.unet, device=backbone.device, dtype=dtype),
            torch.autocast("cpu", torch.bfloat16),
        ):
            loss = backbone.predict(latents, at, text).square().mean()
        return torch.cat([one.ravel() for one in torch.autograd.grad(loss, list(lora.values()))])

    # told float32, the U-Net keeps the fused kernel
    sides = {"products": torch.bfloat16, "fused": torch.float32}
    ours, fused = (gradients(dtype) for dtype in sides.values())
    cosine = float(torch.cosine_similarity(ours, fused, dim=0))
    if not cosine >= SAME_DIRECTION:
        raise SystemExit(f"gradients by plain products and fused ones have a cosine of {cosine:.4f}")
    best = best_seconds({name: partial(gradients, dtype) for name, dtype in sides.items()})
    note = f"cosine of the gradients {cosine:.4f}; CPU ms per image: " + ", ".join(
        f"{name} {1e3 * seconds / BATCH:.1f}" for name, seconds in best.items()
    )
    return Bar("embedded.attention", best["fused"] / best["products"], ASK_ATTENTION, note=note)


def bars(folder: Path) -> list[Bar]:
    """Open the backbone in both formats, compare their pictures and those of both batches, then time."""
    opened: dict[str, LatentDiffusion] = {
        "float32": opened_as(folder, "float32"),
        "bfloat16": opened_as(folder, "bfloat16"),
    }
    exact, rough = (draw(backbone, BATCH).astype(np.float64) for backbone in opened.values())
    difference = float(np.abs(exact - rough).mean())
    if not difference <= MEAN_GREY_LEVELS:
        raise SystemExit(f"bf16 pictures differ from fp32 ones by {difference:.2f} grey levels on average")
    default: Literal["float32", "bfloat16"] = "bfloat16" if has_amx() else "float32"
    of_eight = rough if default == "bfloat16" else exact
    alone = float(np.abs(draw(opened[default], 1)[0] - of_eight[0]).mean())
    if not alone <= MEAN_GREY_LEVELS:
        raise SystemExit(f"a picture drawn alone differs from itself in a batch by {alone:.2f} grey levels on average")
    best = best_seconds(
        {
            "fp32 x8": lambda: draw(opened["float32"], BATCH),
            "bf16 x8": lambda: draw(opened["bfloat16"], BATCH),
            "x1": lambda: draw(opened[default], 1),
            "evaluation fp32 x8": evaluation(opened["float32"]),
            "evaluation bf16 x8": evaluation(opened["bfloat16"]),
        }
    )
    gain = best["fp32 x8"] / best["bf16 x8"]
    note = (
        f"mean difference {difference:.2f} grey levels between formats, {alone:.2f} between batches; CPU ms per image: "
    ) + ", ".join(f"{name} {1e3 * seconds / (1 if name == 'x1' else BATCH):.1f}" for name, seconds in best.items())
    eight = best["bf16 x8" if default == "bfloat16" else "fp32 x8"] / BATCH
    allowed = ASK_EVALUATION_MS * BATCH / 1e3 / best["evaluation bf16 x8"]
    if has_amx():
        half = [Bar("embedded.bf16", gain, ASK_BF16, note=note), Bar("embedded.evaluation", allowed, 1.0)]
    else:
        reason = f"no AMX here, fp32 is the default (bf16 is {gain:.2f} times as fast)"
        half = [not_measured("embedded.bf16", reason), not_measured("embedded.evaluation", reason)]
    return [
        *half,
        Bar("embedded.batch", best["x1"] / eight, ASK_BATCH, note=note),
        norms_bar(folder),
        attention_bar(folder),
    ]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="a diffusers folder; default: the shipped one")
    return finish(bars(parser.parse_args().folder))


if __name__ == "__main__":
    sys.exit(main())
