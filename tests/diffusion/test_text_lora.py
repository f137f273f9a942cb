"""A LoRA of the text encoder, trained with both branches: on the toy backbone (CLIP) and the embedded one (MiniLM)."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from anosynth.diffusion.devices import accelerator_for
from anosynth.diffusion.dual import DualAdapter, DualShape, num_parameters
from anosynth.diffusion.dual_adapters import SavedDual, open_dual, read_dual, save_dual, take_dual
from anosynth.diffusion.dual_sample import DualPrompts, draw_pairs, two_branches
from anosynth.diffusion.dual_train import DualSet, DualTrainSettings, train_dual
from anosynth.diffusion.latent import LatentDiffusion, open_backbone
from anosynth.diffusion.loop import LoopSettings
from anosynth.diffusion.minilm import MiniLMTextEncoder
from anosynth.diffusion.solver import SamplerSettings
from anosynth.diffusion.text import ClipText
from anosynth.diffusion.text_lora import TextLoRA, adapted
from anosynth.errors import BackboneError
from anosynth.params import ComputeParams, EmbeddedBackbone, ToyBackbone
from anosynth.seeding import torch_generators
from tests.blobs import Blobs

COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")
SHAPE = DualShape(mode="default", rank=2, alpha=4.0, inner=4, text_rank=3)
SIZE = 64
STEPS = 3
LR = 1e-2
CAPTIONS = ("", "a photo of plate with hole", "hole")


@pytest.fixture(scope="module")
def toy_backbone() -> LatentDiffusion:
    return open_backbone(ToyBackbone(kind="toy", seed=0), compute=COMPUTE)


@pytest.fixture(scope="module", params=["toy", "embedded"])
def backbone(request: pytest.FixtureRequest, toy_backbone: LatentDiffusion) -> LatentDiffusion:
    return toy_backbone if request.param == "toy" else open_backbone(EmbeddedBackbone(kind="embedded"), compute=COMPUTE)


def adapter_of(backbone: LatentDiffusion, shape: DualShape = SHAPE) -> DualAdapter:
    return DualAdapter(backbone.unet, shape, generator=torch.Generator().manual_seed(0), text=backbone.text)


def moved(backbone: LatentDiffusion, shape: DualShape = SHAPE) -> DualAdapter:
    """Every tensor away from its start."""
    adapter, generator = adapter_of(backbone, shape), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return adapter


def text_of(adapter: DualAdapter) -> TextLoRA:
    assert adapter.text is not None
    return adapter.text


def model_of(backbone: LatentDiffusion) -> torch.nn.Module:
    assert isinstance(backbone.text, ClipText | MiniLMTextEncoder)
    return backbone.text.model


def weights(backbone: LatentDiffusion) -> dict[str, torch.Tensor]:
    """A copy of every frozen number."""
    networks = {"vae": backbone.vae, "unet": backbone.unet, "text": model_of(backbone)}
    states = {name: network.state_dict() for name, network in networks.items()}
    return {f"{name}.{key}": value.clone() for name, state in states.items() for key, value in state.items()}


def shots(backbone: LatentDiffusion) -> DualSet:
    rng = np.random.default_rng(0)
    whole, part = ([rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(2)] for _ in range(2))
    return DualSet(
        backbone.encode_moments(whole),
        backbone.encode_moments(part),
        backbone.embed(CAPTIONS),
        (1, 1),
        (2, 2),
        blank=0,
        captions=CAPTIONS,
    )


def fit(
    backbone: LatentDiffusion,
    adapter: DualAdapter,
    blobs: Blobs,
    *,
    given: DualSet | None = None,
    text_dropout: float = 0.0,
) -> np.ndarray:
    given = shots(backbone) if given is None else given
    return train_dual(
        backbone,
        adapter,
        given,
        DualTrainSettings(
            LoopSettings(steps=STEPS, lr=LR, checkpoint_every=1, log_every=STEPS),
            batch_size=2,
            text_dropout=text_dropout,
        ),
        seed=5,
        address=("personalize_pairs", "plate"),
        accelerator=accelerator_for(COMPUTE),
        checkpoints=blobs,
        key="pairs",
        backgrounds=None if adapter.shape.background == "off" else given.whole,
    ).losses


def taken(backbone: LatentDiffusion, adapter: DualAdapter, *, half_precision: bool = False) -> SavedDual:
    return take_dual(adapter, backbone=backbone.identity, half_precision=half_precision, terms={}, facts={})


def drawn(
    backbone: LatentDiffusion, adapter: DualAdapter, *, captions: tuple[str, ...] = ("hole", "a hole", "")
) -> tuple[np.ndarray, np.ndarray]:
    with two_branches(backbone, adapter):
        return draw_pairs(
            backbone,
            DualPrompts(*(backbone.embed([caption]) for caption in captions)),
            size_px=SIZE,
            settings=SamplerSettings("dpm_solver", 2, 2.0),
            generators=torch_generators([1]),
        )


def test_an_encoder_names_q_k_v_and_out_of_every_attention_layer(backbone: LatentDiffusion) -> None:
    model = model_of(backbone)
    found = backbone.text.attention_projections()
    expected = {}
    for number in range(model.config.num_hidden_layers):
        if isinstance(backbone.text, ClipText):
            layer = model.encoder.layers[number].self_attn
            maps = (layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj)
        else:
            layer = model.encoder.layer[number].attention
            maps = (layer.self.query, layer.self.key, layer.self.value, layer.output.dense)
        expected |= {f"{number}.{name}": base for name, base in zip(("q", "k", "v", "out"), maps, strict=True)}
    assert list(found) == list(expected)
    assert all(found[name] is base for name, base in expected.items())
    assert len(found) >= 8


def test_before_training_everything_is_as_without_it_to_the_bit(backbone: LatentDiffusion) -> None:
    plain, fresh = adapter_of(backbone, replace(SHAPE, text_rank=0)), adapter_of(backbone)
    assert plain.text is None
    started = dict(fresh.named_parameters())
    assert all(torch.equal(value, started[name]) for name, value in plain.named_parameters())
    before = backbone.embed(CAPTIONS)
    with adapted(backbone.text, fresh.text):
        after = backbone.embed(CAPTIONS)
    assert torch.equal(before.states, after.states)
    for first, second in zip(drawn(backbone, plain), drawn(backbone, fresh), strict=True):
        assert np.array_equal(first, second)


def test_prompts_are_embedded_as_by_the_sum_of_weights_and_update(backbone: LatentDiffusion) -> None:
    """Reference: a copy of the encoder whose weights are W + (alpha / rank) B A."""
    lora = text_of(moved(backbone))
    merged = copy.deepcopy(backbone.text)
    with torch.no_grad():
        for name, base in merged.attention_projections().items():
            update = lora.by_name()[name]
            base.weight += 2.0 * update.up @ update.down
    plain = backbone.embed(CAPTIONS).states
    with adapted(backbone.text, lora):
        states = backbone.embed(CAPTIONS).states
    assert not states.requires_grad
    torch.testing.assert_close(states, merged.embed(CAPTIONS).states, atol=2e-5, rtol=1e-4)
    assert (states - plain).abs().max() > 1e-2


def test_the_encoder_is_as_before_even_after_an_error(backbone: LatentDiffusion) -> None:
    frozen, before = weights(backbone), backbone.embed(CAPTIONS).states
    with pytest.raises(ValueError, match=r"guidance 2\.0 needs the embedding of the empty prompt"):
        drawn(backbone, moved(backbone), captions=CAPTIONS[1:])
    assert torch.equal(backbone.embed(CAPTIONS).states, before)
    assert all(torch.equal(value, frozen[name]) for name, value in weights(backbone).items())


def test_three_steps_move_every_trained_tensor_and_nothing_frozen(backbone: LatentDiffusion) -> None:
    frozen, before, adapter = weights(backbone), backbone.embed(CAPTIONS).states, adapter_of(backbone)
    start = {name: value.detach().clone() for name, value in text_of(adapter).named_parameters()}
    losses = fit(backbone, adapter, Blobs(), text_dropout=0.3)
    assert np.isfinite(losses).all()
    decayed = (1.0 - LR * 1e-2) ** STEPS  # what weight decay alone would leave
    for name, value in text_of(adapter).named_parameters():
        assert (value - decayed * start[name]).abs().max() > 1e-4, name
    assert len(start) == 2 * len(backbone.text.attention_projections())
    assert all(torch.equal(value, frozen[name]) for name, value in weights(backbone).items())
    assert torch.equal(backbone.embed(CAPTIONS).states, before)


def test_a_run_stopped_between_checkpoints_ends_like_an_unbroken_one(backbone: LatentDiffusion) -> None:
    whole, resumed, blobs = adapter_of(backbone), adapter_of(backbone), Blobs(stop_after=2)
    losses = fit(backbone, whole, Blobs())
    with pytest.raises(KeyboardInterrupt):
        fit(backbone, adapter_of(backbone), blobs)
    blobs.stop_after = None
    assert np.array_equal(losses, fit(backbone, resumed, blobs))
    pairs = list(zip(whole.named_parameters(), resumed.named_parameters(), strict=True))
    assert any(name.startswith("text.") for (name, _), _ in pairs)
    assert all(torch.equal(first, second) for (_, first), (_, second) in pairs)


def test_each_caption_of_a_batch_is_embedded_once_a_step_and_without_a_lora_none_is(
    toy_backbone: LatentDiffusion,
) -> None:
    given, rows = shots(toy_backbone), []
    hook = model_of(toy_backbone).register_forward_pre_hook(lambda _, ids: rows.append(len(ids[0])))
    fit(toy_backbone, adapter_of(toy_backbone, replace(SHAPE, text_rank=0)), Blobs(), given=given)
    assert rows == []
    fit(toy_backbone, adapter_of(toy_backbone), Blobs(), given=given)
    hook.remove()
    assert rows == [2] * (STEPS + 4)  # two captions in each step, and in the probe: before, at two checkpoints, after


def test_it_is_trained_beside_background_compensation(toy_backbone: LatentDiffusion) -> None:
    adapter = adapter_of(toy_backbone, replace(SHAPE, background="paper"))
    assert np.isfinite(fit(toy_backbone, adapter, Blobs())).all()
    assert all(update.up.abs().max() > 0 for update in text_of(adapter).by_name().values())


def test_beside_bfloat16_weights_it_stays_float32() -> None:
    compute = ComputeParams(threads=1, dtype="bfloat16", device="cpu")
    backbone = open_backbone(ToyBackbone(kind="toy", seed=0), compute=compute)
    lora, before = text_of(moved(backbone)), backbone.embed(CAPTIONS).states
    with adapted(backbone.text, lora):
        states = backbone.embed(CAPTIONS).states
        with torch.autocast("cpu", torch.bfloat16):  # as in training
            backbone.text.embed(CAPTIONS).states.square().mean().backward()
    assert states.dtype == before.dtype == torch.bfloat16
    assert not torch.equal(states, before)
    for value in lora.parameters():
        assert value.grad is not None
        assert value.dtype == value.grad.dtype == torch.float32


@pytest.mark.parametrize("half_precision", [False, True])
def test_what_is_saved_and_opened_embeds_and_draws_the_same(
    backbone: LatentDiffusion, tmp_path: Path, half_precision: bool
) -> None:
    adapter = moved(backbone)
    if half_precision:
        adapter = adapter.half().float()
    save_dual(taken(backbone, adapter, half_precision=half_precision), tmp_path)
    read = read_dual(tmp_path)
    assert read.shape == SHAPE
    opened = open_dual(backbone.unet, read, backbone=backbone.identity, text=backbone.text)
    with adapted(backbone.text, adapter.text):
        states = backbone.embed(CAPTIONS).states
    with adapted(backbone.text, opened.text):
        assert torch.equal(backbone.embed(CAPTIONS).states, states)
    for first, second in zip(drawn(backbone, adapter), drawn(backbone, opened), strict=True):
        assert np.array_equal(first, second)


def test_a_pair_is_drawn_by_what_the_text_encoder_learned(toy_backbone: LatentDiffusion) -> None:
    adapter = moved(toy_backbone)
    saved = taken(toy_backbone, adapter)
    told = drawn(toy_backbone, adapter)
    adapter.text = None
    assert not np.array_equal(told[0], drawn(toy_backbone, adapter)[0])
    assert saved.digest != taken(toy_backbone, adapter).digest


def test_text_tensors_that_do_not_fit_have_one_sentence(toy_backbone: LatentDiffusion) -> None:
    saved = taken(toy_backbone, moved(toy_backbone))
    lacking = {name: value for name, value in saved.tensors.items() if name != "text:1.out.up"}
    wrong = {**saved.tensors, "text:1.out.up": torch.zeros(2, 2)}
    strange = {**saved.tensors, "text:9.q.up": torch.zeros(2, 2)}
    off = replace(SHAPE, text_rank=0)
    for given, named in (
        (replace(saved, tensors=lacking), r"text:1\.out\.up is missing, unexpected or of another size \(and 0 more"),
        (replace(saved, tensors=wrong), r"text:1\.out\.up is missing, unexpected or of another size \(and 0 more"),
        (replace(saved, tensors=strange), r"text:9\.q\.up is missing, unexpected or of another size \(and 0 more"),
        (replace(saved, shape=off), r"text:0\.k\.down is missing, unexpected or of another size \(and 15 more"),
    ):
        with pytest.raises(BackboneError, match=f"does not fit this text encoder: {named}") as caught:
            open_dual(toy_backbone.unet, given, backbone=toy_backbone.identity, text=toy_backbone.text)
        assert "\n" not in str(caught.value)
    with pytest.raises(BackboneError, match="was trained on the backbone"):
        open_dual(toy_backbone.unet, saved, backbone="a" * 32, text=toy_backbone.text)


def test_an_adapter_for_another_text_encoder_is_refused(toy_backbone: LatentDiffusion) -> None:
    other, before = MiniLMTextEncoder(), toy_backbone.embed(CAPTIONS).states
    lora = TextLoRA(other, rank=2, scale=1.0, generator=torch.Generator().manual_seed(0))
    with (
        pytest.raises(BackboneError, match=r"made for another text encoder: 0\.k is missing, unexpected or of another"),
        adapted(toy_backbone.text, lora),
    ):
        pass
    assert torch.equal(toy_backbone.embed(CAPTIONS).states, before)


def test_an_encoder_or_words_that_are_needed_and_missing_are_asked_for(toy_backbone: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="text_rank is 3 and no text encoder was given"):
        DualAdapter(toy_backbone.unet, SHAPE, generator=torch.Generator())
    with pytest.raises(ValueError, match=r"text_rank is -1; it must be 0 \(no LoRA of the text encoder\) or more"):
        replace(SHAPE, text_rank=-1)
    given = shots(toy_backbone)
    with pytest.raises(ValueError, match="the shots have no captions in words"):
        fit(toy_backbone, adapter_of(toy_backbone), Blobs(), given=replace(given, captions=None))
    with pytest.raises(ValueError, match="2 captions in words and 3 embedded"):
        replace(given, captions=CAPTIONS[:2])


def test_for_stable_diffusions_text_encoder_it_has_the_published_size(toy_backbone: LatentDiffusion) -> None:
    assert isinstance(toy_backbone.text, ClipText)
    with torch.device("meta"):
        model = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        )
    full = ClipText(toy_backbone.text.tokenizer, model)
    lora = TextLoRA(full, rank=32, scale=1.0, generator=torch.Generator().manual_seed(0))
    count = sum(value.numel() for value in lora.parameters())
    assert count == 12 * 4 * 32 * (768 + 768) == 2_359_296  # 2.36 M, as counted from the published code
    small = adapter_of(toy_backbone)
    branches = num_parameters(adapter_of(toy_backbone, replace(SHAPE, text_rank=0)))
    assert num_parameters(small) - branches == sum(value.numel() for value in text_of(small).parameters())
