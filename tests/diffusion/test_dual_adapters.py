"""Pair adapters as files."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from anosynth.diffusion.adapters import Adapter, adapter_to_bytes
from anosynth.diffusion.dual import DualAdapter, DualShape, attach_merged, detach
from anosynth.diffusion.dual_adapters import (
    SavedDual,
    dual_from_bytes,
    dual_to_bytes,
    open_dual,
    read_dual,
    save_dual,
    take_dual,
)
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.errors import BackboneError
from anosynth.fingerprint import digest_bytes

SHAPE = DualShape(mode="default", rank=2, alpha=3.0, inner=4)
TERMS = {"prompts": {"hole": ["a photo of plate with hole", "hole"]}, "size_px": 64}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(backbone: LatentDiffusion, shape: DualShape = SHAPE) -> DualAdapter:
    """An adapter with every tensor away from its start."""
    adapter = DualAdapter(backbone.unet, shape, generator=generator(1))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator(2)))
    return adapter


def taken(backbone: LatentDiffusion, *, half_precision: bool = False, shape: DualShape = SHAPE) -> SavedDual:
    return take_dual(
        trained(backbone, shape), backbone=backbone.identity, half_precision=half_precision, terms=TERMS, facts={"n": 3}
    )


def predicted(backbone: LatentDiffusion, adapter: DualAdapter) -> torch.Tensor:
    latents = torch.randn(4, 4, 8, 8, generator=generator(3))
    attach_merged(backbone.unet, adapter)
    with torch.no_grad():
        output = backbone.predict(latents, torch.full((4,), 400), backbone.embed(["a", "a", "b", "b"]))
    detach(backbone.unet)
    return output


@pytest.mark.parametrize("mode", ["default", "paper"])
def test_what_is_saved_and_opened_predicts_the_same_to_the_bit(
    backbone: LatentDiffusion, tmp_path: Path, mode: str
) -> None:
    shape = DualShape(mode, rank=2, alpha=3.0, inner=4)  # type: ignore[arg-type]
    save_dual(taken(backbone, shape=shape), tmp_path)
    again = read_dual(tmp_path)
    opened = open_dual(backbone.unet, again, backbone=backbone.identity)
    assert torch.equal(predicted(backbone, opened), predicted(backbone, trained(backbone, shape)))
    assert again.shape == shape
    assert again.terms == TERMS
    assert again.facts == {"n": 3}
    assert again.digest == taken(backbone, shape=shape).digest


def test_equal_adapters_give_equal_bytes(backbone: LatentDiffusion) -> None:
    first, second = dual_to_bytes(taken(backbone)), dual_to_bytes(taken(backbone))
    assert first == second
    assert dual_to_bytes(dual_from_bytes(first, name="x")) == first


def test_half_precision_halves_the_file_and_hardly_moves_the_prediction(backbone: LatentDiffusion) -> None:
    full, half = taken(backbone), taken(backbone, half_precision=True)
    sizes = [sum(value.nbytes for value in saved.tensors.values()) for saved in (full, half)]
    assert sizes[0] == 2 * sizes[1] > 10_000
    opened = open_dual(backbone.unet, dual_from_bytes(dual_to_bytes(half), name="x"), backbone=backbone.identity)
    assert all(parameter.dtype == torch.float32 for parameter in opened.parameters())
    torch.testing.assert_close(
        predicted(backbone, opened), predicted(backbone, trained(backbone)), atol=5e-3, rtol=5e-3
    )
    assert full.digest != half.digest


def test_the_terms_are_part_of_the_digest_and_the_facts_are_not(backbone: LatentDiffusion) -> None:
    saved = taken(backbone)
    other_terms = SavedDual(saved.shape, saved.backbone, saved.tensors, {"size_px": 128}, saved.facts)
    other_facts = SavedDual(saved.shape, saved.backbone, saved.tensors, saved.terms, {"n": 4})
    assert saved.digest == other_facts.digest != other_terms.digest


def test_without_a_lora_of_the_text_encoder_the_file_is_what_it_was_before_there_was_one() -> None:
    saved = SavedDual(SHAPE, "b" * 32, {"mid:lora.q.down": torch.zeros(2, 2, 4)}, {"size_px": 64})
    assert saved.digest == "bb221965caf22d946fc76f5fd74d644e"  # written by the version before
    assert digest_bytes(dual_to_bytes(saved)) == "fea63f698d64409d71cd0011da559e38"
    assert dual_from_bytes(dual_to_bytes(saved), name="x").shape == SHAPE


def test_an_adapter_of_another_backbone_is_refused(backbone: LatentDiffusion) -> None:
    with pytest.raises(BackboneError, match=r"was trained on the backbone \w{12} and this one is aaaaaaaaaaaa; run"):
        open_dual(backbone.unet, taken(backbone), backbone="a" * 32)


def test_an_adapter_for_another_topology_is_refused_by_its_first_strange_layer(backbone: LatentDiffusion) -> None:
    with torch.random.fork_rng():
        other = UNet2DConditionModel(
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
    with pytest.raises(BackboneError, match=r"does not fit this U-Net: down_blocks\.\S+ is missing, unexpected or"):
        open_dual(other, taken(backbone), backbone=backbone.identity)


def test_a_damaged_file_another_kind_and_another_version_each_have_their_sentence(backbone: LatentDiffusion) -> None:
    data = dual_to_bytes(taken(backbone))
    normal = adapter_to_bytes(Adapter(1, 1.0, ("to_q",), backbone.identity, {"x": torch.zeros(2)}))
    for wrong, said in (
        (data[:-5], "x is damaged or no pair adapter"),
        (normal, "x is damaged or no pair adapter"),
        (data.replace(b'\\"format\\":1', b'\\"format\\":7'), "x has pair adapter format 7; this version reads 1"),
    ):
        with pytest.raises(BackboneError, match=said):
            dual_from_bytes(wrong, name="x")


def test_a_folder_without_weights_or_with_other_ones_is_refused(backbone: LatentDiffusion, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"adapter\.safetensors is missing; run the stage personalize_pairs"):
        read_dual(tmp_path)
    save_dual(taken(backbone), tmp_path)
    facts = json.loads((tmp_path / "adapter.json").read_text())
    (tmp_path / "adapter.json").write_text(json.dumps({**facts, "digest": "0" * 32}))
    with pytest.raises(BackboneError, match=r"does not have the digest that adapter\.json promises"):
        read_dual(tmp_path)
    (tmp_path / "adapter.json").write_text("{")
    with pytest.raises(BackboneError, match=r"adapter\.json is damaged"):
        read_dual(tmp_path)
