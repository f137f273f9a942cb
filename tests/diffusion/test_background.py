"""Background compensation: one layer against a naive reference, training and drawing on the toy backbone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from anosynth.diffusion import toy
from anosynth.diffusion.background import (
    NEUTRAL,
    BackgroundFeatures,
    BackgroundMap,
    Form,
    background_features,
    background_image,
    see_background,
)
from anosynth.diffusion.devices import accelerator_for
from anosynth.diffusion.dual import (
    DualAdapter,
    DualAttention,
    DualShape,
    MergedProcessor,
    TrainableProcessor,
    attach,
    attach_merged,
    attention_layers,
    detach,
    num_parameters,
)
from anosynth.diffusion.dual_sample import DualPrompts, draw_pairs, two_branches
from anosynth.diffusion.dual_train import DualSet, DualTrainSettings, train_dual
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.loop import LoopSettings
from anosynth.diffusion.solver import SamplerSettings
from anosynth.errors import DataError
from anosynth.params import ComputeParams
from anosynth.seeding import torch_generators
from tests.blobs import Blobs

FORMS: tuple[Form, ...] = ("paper", "code")
COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")
OFF = DualShape(mode="default", rank=2, alpha=2.0, inner=4)
SIZE = 64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(module: torch.nn.Module, seed: int = 3) -> None:
    """Every tensor away from its start."""
    source = generator(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))


def adapter_of(backbone: LatentDiffusion, form: Form, *, mode: str = "default") -> DualAdapter:
    adapter = DualAdapter(backbone.unet, replace(OFF, background=form, mode=mode), generator=generator(0))
    moved(adapter)
    return adapter


def prompts(backbone: LatentDiffusion) -> DualPrompts:
    return DualPrompts(backbone.embed(["a vfx with sks"]), backbone.embed(["sks"]), backbone.embed([""]))


def pictures(number: int, seed: int = 0, size: int = SIZE) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(number)]


def draw(
    backbone: LatentDiffusion,
    backgrounds: torch.Tensor | None,
    *,
    seeds: tuple[int, ...] = (1, 2, 3),
    guidance: float = 2.5,
) -> tuple[np.ndarray, np.ndarray]:
    return draw_pairs(
        backbone,
        prompts(backbone),
        size_px=SIZE,
        settings=SamplerSettings("ddim", 2, guidance),
        generators=torch_generators(list(seeds)),
        backgrounds=backgrounds,
    )


def naive_linear(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([weight @ row + (0 if bias is None else bias) for row in x])


def naive_attention(heads: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """[n, c] each."""
    columns = []
    for part in torch.arange(q.shape[1]).chunk(heads):
        scores = q[:, part] @ k[:, part].T / math.sqrt(len(part))
        weights = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
        columns.append(weights @ v[:, part])
    return torch.cat(columns, dim=1)


def naive_layer(attn: Attention, part: DualAttention, branch: int, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """Branch `branch` of one sample before the exchange: queries from x, keys and values from s, [n, c] each."""
    bases = {"q": attn.to_q, "k": attn.to_k, "v": attn.to_v, "out": attn.to_out[0]}
    weights = {
        name: base.weight.double() + part.lora[name].up[branch].double() @ part.lora[name].down[branch].double()
        for name, base in bases.items()
    }
    mixed = naive_attention(
        attn.heads,
        naive_linear(weights["q"], None, x),
        naive_linear(weights["k"], None, s),
        naive_linear(weights["v"], None, s),
    )
    return naive_linear(weights["out"], attn.to_out[0].bias.double(), mixed)


def naive_read(reads: BackgroundMap, b: torch.Tensor) -> torch.Tensor:
    hidden = naive_linear(reads.down.weight.double(), reads.down.bias.double(), b)
    return naive_linear(reads.up.weight.double(), reads.up.bias.double(), hidden / (1 + (-hidden).exp()))


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [TrainableProcessor, MergedProcessor])
def test_one_layer_equals_the_naive_reference(form: Form, kind: type) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attn = Attention(query_dim=12, heads=3, dim_head=4).requires_grad_(False)
    part = DualAttention(attn, replace(OFF, background=form), generator(1))
    moved(part)
    assert part.background is not None
    shared, source = BackgroundFeatures(), generator(2)
    processor = kind("layer", part, shared) if kind is TrainableProcessor else kind("layer", attn, part, shared)
    pairs, guided = 2, 2
    seen, x = torch.randn(pairs, 5, 12, generator=source), torch.randn(2 * guided * pairs, 5, 12, generator=source)
    with shared.recorded():
        passed = processor(attn, seen)
    wanted = torch.stack([naive_layer(attn, part, 0, row, row) for row in seen.double()])
    torch.testing.assert_close(passed.double(), wanted, atol=1e-5, rtol=1e-5)

    found = processor(attn, x)
    rows, gate, before = [], float(part.background.gate), x.double()
    for row in range(guided * pairs):
        b = wanted[row % pairs] if form == "paper" else seen[row % pairs].double()
        kept = 1.0 if form == "paper" else 1.0 - gate
        rows.append(naive_layer(attn, part, 0, before[row], kept * before[row] + gate * naive_read(part.background, b)))
    rows += [naive_layer(attn, part, 1, row, row) for row in before[guided * pairs :]]
    exchanged = part.interaction.double()(torch.stack(rows))
    part.interaction.float()
    torch.testing.assert_close(found.double(), exchanged, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["default", "paper"])
def test_gradients_reach_every_tensor_in_three_steps_and_never_the_background_pass(
    backbone: LatentDiffusion, form: Form, mode: str
) -> None:
    adapter = DualAdapter(backbone.unet, replace(OFF, background=form, mode=mode), generator=generator(0))
    start = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    latents = torch.randn(4, 4, 16, 16, generator=generator(1))
    text = prompts(backbone).whole.rows([0] * 4)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=1e-2)  # no weight decay: nothing moves without a gradient
    with_gradients: list[bool] = []
    handle = backbone.unet.register_forward_hook(lambda *_: with_gradients.append(torch.is_grad_enabled()))
    attach(backbone.unet, adapter)
    try:
        for _ in range(3):
            see_background(backbone, latents[:2].flip(0), timesteps=torch.full((2,), 500), text=text.rows([0, 0]))
            shared = background_features(backbone.unet)
            assert shared is not None
            own = [name for name, layer in attention_layers(backbone.unet).items() if not layer.is_cross_attention]
            assert len(own) == 10
            assert not any(shared.at(name).requires_grad for name in own)
            optimizer.zero_grad()
            (backbone.predict(latents, torch.full((4,), 500), text) - 1.0).pow(2).mean().backward()
            optimizer.step()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):  # which may keep casts made without gradients for those with
            see_background(backbone, latents[:2], timesteps=torch.full((2,), 500), text=text.rows([0, 0]))
            (backbone.predict(latents, torch.full((4,), 500), text) - 1.0).pow(2).mean().backward()
        assert [name for name, value in adapter.named_parameters() if value.grad is None or not value.grad.any()] == []
    finally:
        detach(backbone.unet)
        handle.remove()
    assert with_gradients == [False, True] * 4
    reads = [name for name in start if ".background." in name]
    assert len(reads) == 5 * len(own)
    assert [name for name, tensor in adapter.state_dict().items() if torch.equal(tensor, start[name])] == []


@torch.no_grad()
def test_off_is_no_compensation_at_all(backbone: LatentDiffusion) -> None:
    off = DualAdapter(backbone.unet, OFF, generator=generator(0))
    assert not any("background" in name for name in off.state_dict())
    closed = adapter_of(backbone, "code")
    for part in closed.by_name().values():
        if part.background is not None:
            part.background.gate.zero_()
    left = off.load_state_dict(closed.state_dict(), strict=False)
    assert left.missing_keys == []
    assert all(".background." in name for name in left.unexpected_keys)
    backgrounds = backbone.encode(pictures(3))
    for put_on in (attach, attach_merged):
        put_on(backbone.unet, off)
        assert background_features(backbone.unet) is None
        without = draw(backbone, None)
        put_on(backbone.unet, closed)
        shut = draw(backbone, backgrounds)
        detach(backbone.unet)
        assert all(np.array_equal(a, b) for a, b in zip(without, shut, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_the_default_mode_equals_the_base_model_at_step_zero(backbone: LatentDiffusion, form: Form) -> None:
    latents, text = torch.randn(4, 4, 8, 8, generator=generator(1)), prompts(backbone).whole.rows([0] * 4)
    at = torch.full((4,), 300)
    base = backbone.predict(latents, at, text)
    for put_on in (attach, attach_merged):
        put_on(backbone.unet, DualAdapter(backbone.unet, replace(OFF, background=form), generator=generator(0)))
        see_background(backbone, latents[2:], timesteps=at[:2], text=text.rows([0, 0]))
        found = backbone.predict(latents, at, text)
        detach(backbone.unet)
        torch.testing.assert_close(found, base, atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["default", "paper"])
def test_merged_branches_draw_what_the_trained_branches_draw(backbone: LatentDiffusion, form: Form, mode: str) -> None:
    adapter, backgrounds = adapter_of(backbone, form, mode=mode), backbone.encode(pictures(3))
    attach(backbone.unet, adapter)
    loose = draw(backbone, backgrounds)
    detach(backbone.unet)
    with two_branches(backbone, adapter):
        merged = draw(backbone, backgrounds)
        alone = draw(backbone, backgrounds[1:2], seeds=(2,))
        shared = draw(backbone, backgrounds[1:2])
    for a, b in zip(merged, loose, strict=True):
        assert np.abs(a.astype(int) - b.astype(int)).max() <= 1
    for a, b, c in zip(merged, alone, shared, strict=True):
        assert np.abs(a[1].astype(int) - b[0].astype(int)).max() <= 1
        assert np.abs(a[1].astype(int) - c[1].astype(int)).max() <= 1


@pytest.mark.parametrize("form", FORMS)
def test_a_backbone_in_bf16_draws_with_an_adapter_in_float32(backbone: LatentDiffusion, form: Form) -> None:
    half = LatentDiffusion.on(toy.build(0), compute=ComputeParams(threads=1, dtype="bfloat16", device="cpu"))
    adapter, backgrounds = adapter_of(backbone, form), backbone.encode(pictures(1))
    found = []
    for one in (backbone, half):
        with two_branches(one, adapter):
            found.append(draw(one, backgrounds, seeds=(1,)))
    for exact, rough in zip(*found, strict=True):
        difference = np.abs(exact.astype(int) - rough.astype(int))
        assert 0 < difference.max() < 16
        assert difference.mean() < 3.0


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_only_the_whole_image_reads_the_background(backbone: LatentDiffusion, form: Form) -> None:
    adapter = DualAdapter(backbone.unet, replace(OFF, background=form), generator=generator(0))
    for part in adapter.by_name().values():  # the exchange stays shut
        if part.background is not None:
            moved(part.background)
    latents, at = torch.randn(4, 4, 8, 8, generator=generator(1)), torch.full((4,), 300)
    text = prompts(backbone).whole.rows([0] * 4)
    found = []
    attach_merged(backbone.unet, adapter)
    for seed in (2, 3):
        background = torch.randn(2, 4, 8, 8, generator=generator(seed))
        see_background(backbone, background, timesteps=at[:2], text=text.rows([0, 0]))
        found.append(backbone.predict(latents, at, text))
    attach(backbone.unet, adapter)
    see_background(backbone, background, timesteps=at[:2], text=text.rows([0, 0]))
    loose = backbone.predict(latents, at, text)
    detach(backbone.unet)
    torch.testing.assert_close(found[1], loose, atol=1e-6, rtol=1e-4)
    assert float((found[0][:2] - found[1][:2]).abs().amax(dim=(1, 2, 3)).min()) > 1e-5
    assert torch.equal(found[0][2:], found[1][2:])


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 2), (2.5, 4)])
def test_guidance_shares_one_background_pass_and_each_pair_keeps_one_noise(
    backbone: LatentDiffusion, guidance: float, rows: int
) -> None:
    latents = backbone.encode(pictures(3))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = backbone.unet.register_forward_pre_hook(lambda _, given: seen.append((given[0].clone(), given[1].clone())))
    try:
        with two_branches(backbone, adapter_of(backbone, "paper")):
            draw(backbone, latents, guidance=guidance)
            many = seen[::2]
            assert [len(z) for z, _ in seen] == [3, rows * 3] * 2
            seen.clear()
            draw(backbone, latents[1:2], seeds=(2,), guidance=guidance)
    finally:
        handle.remove()
    noises = []
    for z, at in many:
        alpha, sigma = backbone.schedule.levels(at, like=z)
        noises.append((z - alpha * latents) / sigma)
    assert len(noises) == 2
    for noise in noises[1:]:
        torch.testing.assert_close(noise, noises[0], atol=1e-3, rtol=0)
    assert 0.7 < float(noises[0].std()) < 1.3
    assert float((noises[0][0] - noises[0][1]).abs().max()) > 0.5
    for (alone, _), (together, _) in zip(seen[::2], many, strict=True):
        assert torch.equal(alone[0], together[1])


def shots(backbone: LatentDiffusion) -> DualSet:
    text = backbone.embed(["a vfx with sks", "sks"])
    return DualSet(
        backbone.encode_moments(pictures(3)), backbone.encode_moments(pictures(3, 1)), text, (0, 0, 0), (1, 1, 1)
    )


def fit(
    backbone: LatentDiffusion, blobs: Blobs, *, shape: DualShape, seed: int | None = 2
) -> tuple[DualAdapter, np.ndarray]:
    adapter = DualAdapter(backbone.unet, shape, generator=generator(0))
    result = train_dual(
        backbone,
        adapter,
        shots(backbone),
        DualTrainSettings(LoopSettings(steps=2, lr=1e-2, checkpoint_every=1, log_every=2), batch_size=2),
        seed=5,
        address=("personalize_pairs", "washer"),
        accelerator=accelerator_for(COMPUTE),
        checkpoints=blobs,
        key="pairs",
        backgrounds=None if seed is None else backbone.encode_moments(pictures(3, seed)),
    )
    return adapter, result.losses


def test_training_reads_backgrounds_and_a_stopped_run_ends_like_an_unbroken_one(backbone: LatentDiffusion) -> None:
    shape = replace(OFF, background="paper", mode="paper")
    whole, losses = fit(backbone, Blobs(), shape=shape)
    _, other = fit(backbone, Blobs(), shape=shape, seed=9)
    assert not np.array_equal(losses, other)
    blobs = Blobs(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        fit(backbone, blobs, shape=shape)
    blobs.stop_after = None
    resumed, again = fit(backbone, blobs, shape=shape)
    assert np.array_equal(losses, again)
    assert len(losses) == 2
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_an_adapter_and_backgrounds_come_together_or_not_at_all(backbone: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="compensates the background, but no background was given"):
        fit(backbone, Blobs(), shape=replace(OFF, background="code"), seed=None)
    with pytest.raises(ValueError, match="made without background compensation"):
        fit(backbone, Blobs(), shape=OFF)
    with two_branches(backbone, adapter_of(backbone, "code")), pytest.raises(ValueError, match="no background was giv"):
        draw(backbone, None)
    with pytest.raises(ValueError, match="no adapter with background compensation is attached"):
        see_background(
            backbone, torch.zeros(1, 4, 8, 8), timesteps=torch.zeros(1, dtype=torch.long), text=backbone.embed([""])
        )
    attach(backbone.unet, adapter_of(backbone, "paper"))
    with pytest.raises(ValueError, match="no background was given"):
        backbone.predict(
            torch.zeros(2, 4, 8, 8), torch.zeros(2, dtype=torch.long), prompts(backbone).whole.rows([0, 0])
        )
    detach(backbone.unet)


def test_a_background_is_the_image_with_its_object_painted_over() -> None:
    (image,) = pictures(1)
    foreground = np.zeros((SIZE, SIZE), np.uint8)
    foreground[10:30, 20:40] = 255
    foreground[40, 40], foreground[41, 41] = 127, 128  # soft masks are cut at the middle
    found = background_image(image, foreground)
    assert (found[10:30, 20:40] == NEUTRAL).all()
    assert (found[41, 41] == NEUTRAL).all()
    outside = foreground < 128
    assert np.array_equal(found[outside], image[outside])
    assert (background_image(image, foreground, neutral=(0, 90, 200))[15, 25] == (0, 90, 200)).all()
    with pytest.raises(DataError, match="the foreground mask is empty"):
        background_image(image, np.zeros((SIZE, SIZE), np.uint8))
    with pytest.raises(DataError, match="they must be as large"):
        background_image(image, foreground[:-1])


def test_the_default_shape_with_backgrounds_stays_below_forty_megabytes_on_stable_diffusion_1_5() -> None:
    with torch.device("meta"):
        full = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
        )
    shape = DualShape(mode="default", rank=32, alpha=32.0, inner=64)
    plain, reading = (
        num_parameters(DualAdapter(full, replace(shape, background=form), generator=generator(0)))
        for form in ("off", "paper")
    )
    widths = 5 * [320] + 5 * [640] + 6 * [1280]
    assert reading - plain == sum(2 * width * 64 + 64 + width + 1 for width in widths)
    assert reading * 2 <= 40e6
