"""LoRA adapters: alone on disk, whole or refused, and the base never touched."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from anosynth.diffusion.adapters import (
    ATTENTION,
    BLOCKS,
    EVERYTHING,
    Adapter,
    adapter_from_bytes,
    adapter_to_bytes,
    add_lora,
    all_trainable,
    load_adapter,
    lora_parameters,
    merged,
    read_adapter,
    remove_lora,
    save_adapter,
    take_adapter,
    take_difference,
)
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.errors import BackboneError

RANK, ALPHA = 3, 6.0


def output(backbone: LatentDiffusion) -> Tensor:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return backbone.predict(latents, torch.tensor([20, 700]), backbone.embed(["a photo of normal tile", "cat"]))


def state(backbone: LatentDiffusion) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in backbone.unet.state_dict().items()}


def assert_same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    assert list(left) == list(right)
    assert len(left) > 200
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def trained(backbone: LatentDiffusion, *, seed: int = 1) -> Adapter:
    """An adapter with every matrix away from zero; the U-Net is left without it."""
    parameters = add_lora(backbone.unet, rank=RANK, alpha=ALPHA, seed=seed)
    with torch.no_grad():
        for index, parameter in enumerate(parameters.values()):
            generator = torch.Generator().manual_seed(seed + index)
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    adapter = take_adapter(backbone.unet, rank=RANK, alpha=ALPHA, backbone=backbone.identity, facts={"steps": 7})
    remove_lora(backbone.unet)
    return adapter


def test_a_fresh_adapter_changes_nothing_and_only_it_is_trainable(own_backbone: LatentDiffusion) -> None:
    before = output(own_backbone)
    parameters = add_lora(own_backbone.unet, rank=RANK, alpha=ALPHA, seed=1)
    assert torch.equal(output(own_backbone), before)
    trainable = [name for name, parameter in own_backbone.unet.named_parameters() if parameter.requires_grad]
    assert len(trainable) == len(parameters) == 20 * len(ATTENTION) * 2
    assert all(".lora_" in name for name in trainable)
    for name, parameter in parameters.items():
        assert parameter.abs().max() == 0.0 if ".lora_B." in name else parameter.abs().max() > 0.0


def test_every_attention_projection_of_stable_diffusion_1_5_gets_one() -> None:
    """Its 16 transformer blocks hold 32 attention layers of 4 projections."""
    with torch.random.fork_rng(devices=[]):
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16, 16, 16),
            layers_per_block=2,
            attention_head_dim=4,
            cross_attention_dim=8,
            norm_num_groups=4,
        )
    parameters = add_lora(unet, rank=2, alpha=2.0, seed=0)
    assert len(parameters) == 32 * 4 * 2
    assert sum(".attn2." in name for name in parameters) == 16 * 4 * 2


def test_feed_forward_layers_and_convolutions_get_one_too_and_merged_or_beside_they_act_alike(
    own_backbone: LatentDiffusion,
) -> None:
    before, wanted = state(own_backbone), 0
    for name, module in own_backbone.unet.named_modules():
        inside = ".attentions." in name and (".attn" in name or ".ff.net." in name or "proj_" in name)
        wanted += isinstance(module, nn.Linear | nn.Conv2d) and (
            inside or name.split(".")[-1] in ("conv1", "conv2", "conv_shortcut")
        )
    parameters = add_lora(own_backbone.unet, rank=RANK, alpha=ALPHA, seed=1, targets=BLOCKS)
    assert len(parameters) == 2 * wanted
    kernel = parameters["mid_block.resnets.0.conv1.lora_A.weight"]
    assert kernel.shape[2:] == (3, 3)
    assert kernel.abs().max() <= kernel[0].numel() ** -0.5
    with torch.no_grad():
        for index, parameter in enumerate(parameters.values()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    beside, identity = output(own_backbone), own_backbone.identity
    adapter = take_adapter(own_backbone.unet, rank=RANK, alpha=ALPHA, backbone=identity, facts={}, targets=BLOCKS)
    remove_lora(own_backbone.unet)
    assert_same(state(own_backbone), before)
    with merged(own_backbone.unet, adapter_from_bytes(adapter_to_bytes(adapter), name="x"), backbone=identity):
        assert torch.allclose(output(own_backbone), beside, atol=1e-4)
        assert (output(own_backbone) - beside).abs().max() < 0.01 * (
            beside - output_of(before, own_backbone)
        ).abs().max()
    assert_same(state(own_backbone), before)
    load_adapter(own_backbone.unet, adapter, backbone=identity)
    assert torch.equal(output(own_backbone), beside)
    remove_lora(own_backbone.unet)


def test_a_difference_of_every_parameter_is_added_and_taken_back(own_backbone: LatentDiffusion) -> None:
    before, identity = state(own_backbone), own_backbone.identity
    with all_trainable(own_backbone.unet) as (parameters, old):
        assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in parameters.values())
        assert all(torch.equal(old[name], before[name]) for name in parameters)
        with torch.no_grad():
            for index, parameter in enumerate(parameters.values()):
                parameter.add_(1e-2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
        adapter = take_difference(own_backbone.unet, old, backbone=identity, facts={"steps": 1})
        wanted = output(own_backbone)
    assert_same(state(own_backbone), before)
    assert not any(parameter.requires_grad for parameter in own_backbone.unet.parameters())
    back = adapter_from_bytes(adapter_to_bytes(adapter), name="x")
    assert (back.digest, back.targets, back.rank) == (adapter.digest, EVERYTHING, 0)
    with merged(own_backbone.unet, back, backbone=identity):
        assert torch.allclose(output(own_backbone), wanted, atol=1e-3)
        assert (wanted - output_of(before, own_backbone)).abs().max() > 1e-2
    assert_same(state(own_backbone), before)
    short = {name: value for name, value in adapter.tensors.items() if name != "conv_in.bias.delta"}
    with pytest.raises(BackboneError, match=r"lacks conv_in\.bias\.delta"):
        merged(own_backbone.unet, replace(adapter, tensors=short), backbone=identity).__enter__()


def output_of(weights: Mapping[str, Tensor], backbone: LatentDiffusion) -> Tensor:
    """Of the U-Net with other weights, which it gives back."""
    now = state(backbone)
    backbone.unet.load_state_dict(dict(weights))
    found = output(backbone)
    backbone.unet.load_state_dict(now)
    return found


def test_equal_seeds_give_equal_matrices(own_backbone: LatentDiffusion) -> None:
    drawn = []
    for seed in (1, 1, 2):
        drawn.append({name: value.detach().clone() for name, value in _added(own_backbone, seed).items()})
        remove_lora(own_backbone.unet)
    name = next(name for name in drawn[0] if ".lora_A." in name)
    assert torch.equal(drawn[0][name], drawn[1][name])
    assert not torch.equal(drawn[0][name], drawn[2][name])
    bound = drawn[0][name].shape[1] ** -0.5
    assert 0.5 * bound < drawn[0][name].abs().max() <= bound


def _added(backbone: LatentDiffusion, seed: int) -> Mapping[str, Tensor]:
    return add_lora(backbone.unet, rank=RANK, alpha=ALPHA, seed=seed)


def test_an_adapter_comes_back_from_disk_and_acts_the_same(own_backbone: LatentDiffusion, tmp_path: Path) -> None:
    before = state(own_backbone)
    adapter = trained(own_backbone)
    assert_same(state(own_backbone), before)
    load_adapter(own_backbone.unet, adapter, backbone=own_backbone.identity)
    wanted = output(own_backbone)
    remove_lora(own_backbone.unet)
    digest = save_adapter(adapter, tmp_path / "adapter")
    assert sorted(file.name for file in (tmp_path / "adapter").iterdir()) == ["adapter.json", "adapter.safetensors"]
    back = read_adapter(tmp_path / "adapter")
    assert (back.digest, back.rank, back.alpha, back.targets) == (digest, RANK, ALPHA, ATTENTION)
    assert back.facts == {"steps": 7}
    assert load_adapter(own_backbone.unet, back, backbone=own_backbone.identity) == digest
    assert torch.equal(output(own_backbone), wanted)
    assert (wanted - output_without(own_backbone)).abs().max() > 1e-2
    assert_same(state(own_backbone), before)


def output_without(backbone: LatentDiffusion) -> Tensor:
    remove_lora(backbone.unet)
    return output(backbone)


def test_the_update_is_alpha_over_rank_b_a(own_backbone: LatentDiffusion) -> None:
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    adapter, weight = trained(own_backbone), own_backbone.unet.get_parameter(f"{layer}.weight").clone()
    down, up = (adapter.tensors[f"{layer}.lora_{side}.weight"] for side in "AB")
    with merged(own_backbone.unet, adapter, backbone=own_backbone.identity):
        found = own_backbone.unet.get_parameter(f"{layer}.weight").clone()
    for row in range(0, weight.shape[0], 7):
        for column in range(0, weight.shape[1], 5):
            update = sum(float(up[row, inner]) * float(down[inner, column]) for inner in range(RANK))
            wanted = float(weight[row, column]) + ALPHA / RANK * update
            assert float(found[row, column]) == pytest.approx(wanted, abs=1e-6)


def test_merged_weights_act_like_the_layers_and_are_taken_back_to_the_bit(own_backbone: LatentDiffusion) -> None:
    before, adapter = state(own_backbone), trained(own_backbone)
    load_adapter(own_backbone.unet, adapter, backbone=own_backbone.identity)
    wanted = output(own_backbone)
    remove_lora(own_backbone.unet)
    with merged(own_backbone.unet, adapter, backbone=own_backbone.identity):
        assert torch.allclose(output(own_backbone), wanted, atol=1e-4)
    assert_same(state(own_backbone), before)
    with pytest.raises(KeyError), merged(own_backbone.unet, adapter, backbone=own_backbone.identity):
        raise KeyError
    assert_same(state(own_backbone), before)


def test_the_digest_names_the_weights_and_not_how_they_were_trained(own_backbone: LatentDiffusion) -> None:
    adapter = trained(own_backbone)
    assert replace(adapter, facts={"steps": 8}).digest == adapter.digest
    assert replace(adapter, alpha=1.0).digest != adapter.digest
    assert replace(adapter, backbone="b" * 32).digest != adapter.digest
    name = next(iter(adapter.tensors))
    changed = {**adapter.tensors, name: adapter.tensors[name] + 1e-6}
    assert replace(adapter, tensors=changed).digest != adapter.digest
    assert adapter_to_bytes(adapter) == adapter_to_bytes(adapter_from_bytes(adapter_to_bytes(adapter), name="x"))


def test_an_adapter_of_another_backbone_is_refused(own_backbone: LatentDiffusion) -> None:
    adapter = replace(trained(own_backbone), backbone="0123456789abcdef" * 2)
    message = "trained on the backbone 0123456789ab and this one is"
    with pytest.raises(BackboneError, match=message):
        load_adapter(own_backbone.unet, adapter, backbone=own_backbone.identity)
    with (
        pytest.raises(BackboneError, match=message),
        merged(own_backbone.unet, adapter, backbone=own_backbone.identity),
    ):
        pass
    assert not lora_parameters(own_backbone.unet)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", r"the adapter lacks .*lora_A\.weight \(and 0 more\)"),
        ("unexpected", "the adapter has an unexpected conv_in.lora_A.weight"),
        ("resized", r"the adapter has the wrong size of .*lora_A\.weight"),
    ],
)
def test_an_adapter_loads_whole_or_not_at_all(what: str, message: str, own_backbone: LatentDiffusion) -> None:
    adapter, before = trained(own_backbone), state(own_backbone)
    name = next(iter(adapter.tensors))
    tensors = dict(adapter.tensors)
    if what == "missing":
        del tensors[name]
    elif what == "unexpected":
        tensors["conv_in.lora_A.weight"] = torch.zeros(RANK, 4)
    else:
        tensors[name] = torch.zeros(RANK + 1, tensors[name].shape[1])
    with pytest.raises(BackboneError, match=message):
        load_adapter(own_backbone.unet, replace(adapter, tensors=tensors), backbone=own_backbone.identity)
    assert_same(state(own_backbone), before)


def test_a_second_adapter_is_refused_until_the_first_is_removed(own_backbone: LatentDiffusion) -> None:
    adapter = trained(own_backbone)
    load_adapter(own_backbone.unet, adapter, backbone=own_backbone.identity)
    with pytest.raises(ValueError, match="already carries an adapter"):
        add_lora(own_backbone.unet, rank=1, alpha=1.0, seed=0)
    with pytest.raises(ValueError, match="already carries an adapter"):
        load_adapter(own_backbone.unet, adapter, backbone=own_backbone.identity)
    remove_lora(own_backbone.unet)
    load_adapter(own_backbone.unet, adapter, backbone=own_backbone.identity)


def test_damaged_adapter_folders_are_named(own_backbone: LatentDiffusion, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    with pytest.raises(BackboneError, match=r"adapter\.safetensors is missing; run the stage that trains"):
        read_adapter(folder)
    save_adapter(trained(own_backbone), folder)
    weights, facts = folder / "adapter.safetensors", folder / "adapter.json"
    data = weights.read_bytes()
    weights.write_bytes(data[:-4] + b"\0\0\0\1")
    with pytest.raises(BackboneError, match=r"does not have the digest that adapter\.json promises"):
        read_adapter(folder)
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(BackboneError, match=r"adapter\.safetensors is damaged or no adapter of this project"):
        read_adapter(folder)
    weights.write_bytes(data)
    facts.write_text("{}")
    with pytest.raises(BackboneError, match=r"adapter\.json is damaged"):
        read_adapter(folder)


def test_an_adapter_of_another_format_is_refused(own_backbone: LatentDiffusion) -> None:
    data = adapter_to_bytes(trained(own_backbone)).replace(b'\\"format\\":1', b'\\"format\\":9')
    with pytest.raises(BackboneError, match="x has adapter format 9; this version reads 1"):
        adapter_from_bytes(data, name="x")


def test_base_weights_of_bfloat16_carry_a_float32_adapter(own_backbone: LatentDiffusion) -> None:
    own_backbone.unet.to(torch.bfloat16)
    parameters = add_lora(own_backbone.unet, rank=RANK, alpha=ALPHA, seed=1)
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}


def test_the_facts_for_people_say_what_the_weights_file_says(own_backbone: LatentDiffusion, tmp_path: Path) -> None:
    adapter = trained(own_backbone)
    save_adapter(adapter, tmp_path)
    facts = json.loads((tmp_path / "adapter.json").read_text())
    assert facts["rank"] == RANK
    assert facts["backbone"] == own_backbone.identity
    assert facts["digest"] == adapter.digest
    assert facts["facts"] == {"steps": 7}
