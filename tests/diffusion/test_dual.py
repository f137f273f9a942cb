"""Dual branches on a small U-Net in Stable Diffusion's topology."""

import itertools

import pytest
import torch
from diffusers import UNet2DConditionModel

from anosynth.diffusion.dual import (
    DualAdapter,
    DualShape,
    attach,
    attach_merged,
    attention_layers,
    detach,
    num_parameters,
)
from anosynth.errors import BackboneError

DEFAULT = DualShape(mode="default", rank=4, alpha=4.0, inner=8)
PAPER = DualShape(mode="paper", rank=4, alpha=4.0, inner=8)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    """SD 1.5's block layout at reduced width."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(16, 32, 32, 32),
            layers_per_block=2,
            attention_head_dim=4,
            cross_attention_dim=24,
            norm_num_groups=8,
        )
    return model.eval().requires_grad_(False)


def filled(unet: UNet2DConditionModel, shape: DualShape, seed: int = 1) -> DualAdapter:
    """An adapter with every tensor away from zero."""
    adapter = DualAdapter(unet, shape, generator=generator(seed))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator(seed + 1)))
    return adapter


def inputs(pairs: int = 2, *, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    latents = torch.randn(2 * pairs, 4, side, side, generator=generator(7))
    prompts = torch.randn(2, 5, 24, generator=generator(8)).repeat_interleave(pairs, dim=0)
    return latents, prompts


def run(unet: UNet2DConditionModel, latents: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
    return unet(latents, torch.tensor(500), encoder_hidden_states=prompts).sample


def test_the_topology_has_the_thirty_two_layers_of_stable_diffusion(unet: UNet2DConditionModel) -> None:
    assert len(attention_layers(unet)) == 32


@torch.no_grad()
def test_default_at_step_zero_equals_the_base_model(unet: UNet2DConditionModel) -> None:
    latents, prompts = inputs()
    detach(unet)
    base = run(unet, latents, prompts)
    attach(unet, DualAdapter(unet, DEFAULT, generator=generator(0)))
    trained = run(unet, latents, prompts)
    attach_merged(unet, DualAdapter(unet, DEFAULT, generator=generator(0)))
    merged = run(unet, latents, prompts)
    detach(unet)
    torch.testing.assert_close(trained, base, atol=1e-6, rtol=0)
    torch.testing.assert_close(merged, base, atol=1e-5, rtol=0)
    torch.testing.assert_close(run(unet, latents, prompts), base, atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("shape", [DEFAULT, PAPER], ids=["default", "paper"])
def test_merged_and_folded_equals_the_trained_form(unet: UNet2DConditionModel, shape: DualShape) -> None:
    latents, prompts = inputs()
    adapter = filled(unet, shape)
    attach(unet, adapter)
    wanted = run(unet, latents, prompts)
    attach_merged(unet, adapter)
    first, second = run(unet, latents, prompts), run(unet, latents, prompts)
    other = run(unet, latents, prompts.flip(0))
    detach(unet)
    torch.testing.assert_close(first, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(second, first, atol=0, rtol=0)
    assert not torch.allclose(other, wanted, atol=1e-3), "keys and values of other prompts must not be kept"


@torch.no_grad()
def test_swapping_latents_prompts_and_adapters_swaps_the_outputs(unet: UNet2DConditionModel) -> None:
    latents, prompts = inputs()
    adapter = filled(unet, DEFAULT)
    attach(unet, adapter)
    straight = run(unet, latents, prompts)
    for parameter in itertools.chain.from_iterable(
        (lora.down, lora.up) for part in adapter.by_name().values() for lora in part.lora.values()
    ):
        parameter.copy_(parameter.flip(0))
    swapped = run(unet, torch.cat(latents.chunk(2)[::-1]), torch.cat(prompts.chunk(2)[::-1]))
    detach(unet)
    torch.testing.assert_close(torch.cat(swapped.chunk(2)[::-1]), straight, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_pair_does_not_depend_on_the_rest_of_the_batch(unet: UNet2DConditionModel) -> None:
    latents, prompts = inputs(pairs=3)
    attach_merged(unet, filled(unet, PAPER))
    together = run(unet, latents, prompts)
    alone = run(unet, latents[[1, 4]].contiguous(), prompts[[1, 4]].contiguous())
    detach(unet)
    torch.testing.assert_close(alone, together[[1, 4]], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_each_branch_sees_the_other(unet: UNet2DConditionModel) -> None:
    latents, prompts = inputs(pairs=1)
    attach(unet, filled(unet, DEFAULT))
    before = run(unet, latents, prompts)
    changed = latents.clone()
    changed[1] += 1.0
    after = run(unet, changed, prompts)
    detach(unet)
    assert (after[0] - before[0]).abs().max() > 1e-4


@pytest.mark.parametrize("shape", [DEFAULT, PAPER], ids=["default", "paper"])
def test_three_steps_change_every_trainable_tensor_and_no_frozen_one(
    unet: UNet2DConditionModel, shape: DualShape
) -> None:
    latents, prompts = inputs(side=16)  # at least four positions at the deepest level: one has nothing to attend to
    adapter = DualAdapter(unet, shape, generator=generator(0))
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    frozen = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    trained = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    attach(unet, adapter)
    for _ in range(3):
        optimizer.zero_grad()
        (run(unet, latents, prompts) - 1.0).pow(2).mean().backward()
        optimizer.step()
    detach(unet)
    assert len(trained) == len(list(adapter.parameters())) > 32 * 8
    still = [name for name, tensor in adapter.state_dict().items() if torch.equal(tensor, trained[name])]
    assert still == []
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in unet.state_dict().items())


def test_the_default_shape_stays_below_forty_megabytes_on_stable_diffusion_1_5() -> None:
    with torch.device("meta"):
        full = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
        )
        small = UNet2DConditionModel(block_out_channels=(32, 64, 128, 128), cross_attention_dim=768)
    counts = {name: _count(layers) for name, layers in (("full", full), ("small", small))}
    assert counts["full"]["paper"] == pytest.approx(12.75e6 + 124.1e6, rel=1e-3)  # as counted from the published code
    assert counts["full"]["default"] * 2 <= 40e6
    adapter = DualAdapter(small.to_empty(device="cpu"), SHAPES["default"], generator=generator(0))
    assert num_parameters(adapter) == counts["small"]["default"]


SHAPES = {
    "paper": DualShape(mode="paper", rank=32, alpha=32.0, inner=1),
    "default": DualShape(mode="default", rank=32, alpha=32.0, inner=64),
}


def _count(unet: UNet2DConditionModel) -> dict[str, int]:
    """Sizes by arithmetic: LoRA r (in + out) per map and branch; exchange c r + 3 r r + r c with biases and norm."""
    counts = {}
    for name, shape in SHAPES.items():
        total = 0
        for layer in attention_layers(unet).values():
            for base in (layer.to_q, layer.to_k, layer.to_v, layer.to_out[0]):
                total += 2 * shape.rank * (base.in_features + base.out_features)
            width = layer.to_out[0].out_features
            inner = width if shape.mode == "paper" else min(shape.inner, width)
            total += 2 * width + (width + 1) * inner + (3 * inner + 2) * inner + (inner + 1) * width
        counts[name] = total
    return counts


def test_another_topology_is_refused_by_name(unet: UNet2DConditionModel) -> None:
    with torch.random.fork_rng():
        other = UNet2DConditionModel(
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=24,
            attention_head_dim=4,
            norm_num_groups=8,
        )
    adapter = DualAdapter(other, DEFAULT, generator=generator(0))
    with pytest.raises(BackboneError, match="made for a U-Net with other attention layers"):
        attach(unet, adapter)
