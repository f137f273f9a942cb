"""Two branches' LoRAs in one batch: merged and grouped against peft's adapter_names."""

from __future__ import annotations

import sys

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from anosynth.diffusion.dual import BranchLoRA, DualAdapter, DualShape, attach, attach_merged, attention_layers, detach
from benchmarks.measure import compare, finish

PAIRS = 4
RANK = 32
ASK = 1.15
TOLERANCE = 1e-4
BRANCHES = ("whole", "part")
TARGETS = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}


def small_unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's block layout at a tenth of the width."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=16, block_out_channels=(32, 64, 128, 128), cross_attention_dim=64, norm_num_groups=8
        )
    return unet.eval().requires_grad_(False)


def main() -> int:
    generator = torch.Generator().manual_seed(1)
    ours, theirs = small_unet(), small_unet()
    adapter = DualAdapter(ours, DualShape("default", RANK, float(RANK), 1), generator=generator).requires_grad_(False)
    for part in adapter.by_name().values():
        for lora in part.lora.values():
            lora.up.normal_(std=0.02, generator=generator)
    for name in BRANCHES:
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS.values()), init_lora_weights=True)
        with torch.random.fork_rng():
            inject_adapter_in_model(config, theirs, adapter_name=name)
    theirs.requires_grad_(False)
    _copy(adapter, theirs)
    latents = torch.randn(2 * PAIRS, 4, 16, 16, generator=generator)
    prompts = torch.randn(2, 12, 64, generator=generator).repeat_interleave(PAIRS, dim=0)
    routes = [name for name in BRANCHES for _ in range(PAIRS)]

    def run(unet: UNet2DConditionModel) -> Tensor:
        result: Tensor = unet(latents, torch.tensor(300), encoder_hidden_states=prompts).sample
        return result

    def with_names() -> Tensor:
        handles = [
            module.register_forward_pre_hook(
                lambda _, args, kwargs: (args, kwargs | {"adapter_names": routes}), with_kwargs=True
            )
            for module in theirs.modules()
            if hasattr(module, "lora_A")
        ]
        try:
            return run(theirs)
        finally:
            for handle in handles:
                handle.remove()

    with torch.inference_mode():
        attach(ours, adapter)
        loose = run(ours)
        attach_merged(ours, adapter)
        differences = [float((form - with_names()).abs().max()) for form in (loose, run(ours))]
        if not max(differences) < TOLERANCE:
            print(f"lora_routing: outputs differ by {differences}, more than {TOLERANCE}", file=sys.stderr)
            return 1
        bar = compare("lora_routing.merged", ask=ASK, baseline=with_names, ours=lambda: run(ours))
    detach(ours)
    return finish([bar])


def _copy(adapter: DualAdapter, unet: UNet2DConditionModel) -> None:
    """Give peft's two adapters the same weights as our branches."""
    layers = attention_layers(unet)
    for name, part in adapter.by_name().items():
        for key, target in TARGETS.items():
            lora = part.lora[key]
            assert isinstance(lora, BranchLoRA)
            theirs = layers[name].get_submodule(target)
            for branch, label in enumerate(BRANCHES):
                theirs.lora_A[label].weight.copy_(lora.down[branch])
                theirs.lora_B[label].weight.copy_(lora.up[branch])


if __name__ == "__main__":
    raise SystemExit(main())
