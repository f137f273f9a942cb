"""Small open_clip models with seeded random weights: what is read from them must be what they compute."""

import logging
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transformer import Transformer
from safetensors.torch import save_file
from skimage import data

from anosynth.errors import BackboneError, ParamsError
from anosynth.features import aligned_clip
from anosynth.features.aligned import build_aligned, class_prototypes
from anosynth.features.aligned_clip import ClipAligned, OpenedClip, interpolate_positions
from anosynth.fingerprint import digest_value
from anosynth.params import ComputeParams, OpenClipAligned

WIDTH, LAYERS, PATCH, SIZE_PX = 32, 6, 14, 60
COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")
TAGGED = "ViT-B-32"


def small_model(*, quick_gelu: bool = True, batch_first: bool = True) -> open_clip.CLIP:
    vision = {"layers": LAYERS, "width": WIDTH, "head_width": 16, "patch_size": PATCH, "image_size": 42}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = open_clip.CLIP(24, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text), quick_gelu)
        for parameter in model.visual.parameters():  # LayerNorms of 1 and biases of 0 would hide mistakes
            parameter.data += 0.1 * torch.randn_like(parameter)
        if not batch_first:
            old = model.visual.transformer
            act = type(old.resblocks[0].mlp.gelu)
            other = Transformer(WIDTH, LAYERS, 2, 4.0, act_layer=act, batch_first=False)
            other.load_state_dict(old.state_dict())
            model.visual.transformer = other
    return model


def opened(**options: bool) -> OpenedClip:
    return OpenedClip(
        name="small",
        model=small_model(**options),
        tokenize=open_clip.SimpleTokenizer(),
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
        quick_gelu=options.get("quick_gelu", True),
        weights_digest="0" * 64,
    )


@pytest.fixture(scope="module")
def features() -> ClipAligned:
    return ClipAligned(opened(), size_px=SIZE_PX, num_levels=3)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [data.chelsea()[:60, :60], data.coffee()[50:110, 50:110]]


def naive_tokens(image: np.ndarray, *, quick_gelu: bool = True) -> tuple[list[np.ndarray], np.ndarray]:
    """CLIP's vision transformer written out for one image: all block outputs [L, D] and the image features [E]."""
    visual = small_model().visual
    weights = {name: value.detach().double() for name, value in visual.state_dict().items()}
    mean, std = (torch.tensor(x).double() for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    pixels = (torch.tensor(image).double() / 255 - mean) / std
    grid = SIZE_PX // PATCH

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centered = x - x.mean(dim=-1, keepdim=True)
        scaled = centered / torch.sqrt((centered**2).mean(dim=-1, keepdim=True) + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    kernel = weights["conv1.weight"]
    patches = [
        torch.einsum("hwc,dchw->d", pixels[PATCH * r : PATCH * (r + 1), PATCH * c : PATCH * (c + 1)], kernel)
        for r in range(grid)
        for c in range(grid)
    ]
    x = torch.stack([weights["class_embedding"], *patches])
    x = norm(x + interpolate_positions(weights["positional_embedding"], grid=grid), "ln_pre")
    blocks = []
    for at in range(LAYERS):
        block = f"transformer.resblocks.{at}"
        q, k, v = (
            (norm(x, f"{block}.ln_1") @ weights[f"{block}.attn.in_proj_weight"].T)
            .add(weights[f"{block}.attn.in_proj_bias"])
            .chunk(3, dim=-1)
        )
        heads = []
        for head in range(2):
            part = slice(16 * head, 16 * (head + 1))
            heads.append(torch.softmax(q[:, part] @ k[:, part].T / 4.0, dim=-1) @ v[:, part])
        mixed = torch.cat(heads, dim=-1) @ weights[f"{block}.attn.out_proj.weight"].T
        x = x + mixed + weights[f"{block}.attn.out_proj.bias"]
        h = norm(x, f"{block}.ln_2") @ weights[f"{block}.mlp.c_fc.weight"].T + weights[f"{block}.mlp.c_fc.bias"]
        h = h * torch.sigmoid(1.702 * h) if quick_gelu else torch.nn.functional.gelu(h)
        x = x + h @ weights[f"{block}.mlp.c_proj.weight"].T + weights[f"{block}.mlp.c_proj.bias"]
        blocks.append(x)
    pooled = norm(x, "ln_post") @ weights["proj"]
    return [block.numpy() for block in blocks], pooled.numpy()


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("quick_gelu", [True, False])
def test_levels_are_the_tokens_of_a_transformer_written_out(
    images: list[np.ndarray], batch_first: bool, quick_gelu: bool
) -> None:
    encoder = ClipAligned(opened(batch_first=batch_first, quick_gelu=quick_gelu), size_px=SIZE_PX, num_levels=3)
    levels = encoder.patch_levels(images)
    assert [level.shape for level in levels] == [(2, 4, 4, WIDTH)] * 3
    for at, image in enumerate(images):
        blocks, pooled = naive_tokens(image, quick_gelu=quick_gelu)
        for level, depth in zip(levels, (2, 4, 6), strict=True):
            np.testing.assert_allclose(level[at].reshape(16, -1), unit(blocks[depth - 1][1:]), atol=1e-4)
        np.testing.assert_allclose(encoder.embed_images([image])[0], unit(pooled[0]), atol=1e-4)
        np.testing.assert_allclose(encoder.project(2, levels[2][at]).reshape(16, -1), unit(pooled[1:]), atol=1e-3)


def test_the_layout_survives_as_many_images_as_tokens(
    monkeypatch: pytest.MonkeyPatch, images: list[np.ndarray]
) -> None:
    monkeypatch.setitem(aligned_clip.MICRO_BATCH, "cpu", 17)
    many = [np.roll(images[0], shift, axis=1) for shift in range(17)]
    for batch_first in (True, False):
        encoder = ClipAligned(opened(batch_first=batch_first), size_px=SIZE_PX, num_levels=1)
        together = encoder.patch_levels(many)[0]
        for at in (0, 5, 16):
            np.testing.assert_allclose(encoder.patch_levels([many[at]])[0][0], together[at], atol=1e-5)


def test_depths_are_evenly_spaced_and_end_at_the_last_block() -> None:
    for count, depths in ((1, [5]), (2, [2, 5]), (4, [1, 2, 3, 5]), (6, [0, 1, 2, 3, 4, 5])):
        encoder = ClipAligned(opened(), size_px=SIZE_PX, num_levels=count)
        assert encoder._depths == depths
        assert encoder.text_levels == (count - 1,)
        assert encoder.local_levels == tuple(range(count))[: max(1, count - 1)]


@pytest.mark.parametrize("name", ["ViT-L-14-336", "ViT-L-14-336-quickgelu"])
def test_the_papers_vit_l_at_240_px_gives_17_x_17_patches_behind_blocks_6_12_18_and_24(name: str) -> None:
    """Its depth, patches and positions as open_clip configures them; 16 features wide in place of 1,024."""
    config = open_clip.get_model_config(name)
    vision = {**config["vision_cfg"], "width": 16, "head_width": 16}
    text = {**config["text_cfg"], "width": 16, "heads": 2, "layers": 1}
    quick_gelu = bool(config.get("quick_gelu", False))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(24, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text), quick_gelu)
    scaling = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    opened_model = OpenedClip(name, model, open_clip.SimpleTokenizer(), *scaling, quick_gelu, "0" * 64)
    encoder = ClipAligned(opened_model, size_px=240, num_levels=4)
    behind: dict[int, np.ndarray] = {}
    for at, block in enumerate(model.visual.transformer.resblocks, start=1):
        block.register_forward_hook(lambda _module, _given, made, at=at: behind.update({at: made.numpy()}))
    image = data.chelsea()[:240, :240]
    levels = encoder.patch_levels([image])
    assert [level.shape for level in levels] == [(1, 17, 17, 16)] * 4
    assert len(behind) == 24
    for level, depth in zip(levels, (6, 12, 18, 24), strict=True):
        np.testing.assert_allclose(level.reshape(289, 16), unit(behind[depth].reshape(290, 16)[1:]), atol=1e-5)


def test_an_activation_or_an_answer_other_than_promised_is_noticed() -> None:
    lying = OpenedClip(**{**vars(opened(quick_gelu=False)), "quick_gelu": True})
    with pytest.raises(BackboneError, match="its activation is not QuickGELU"):
        ClipAligned(lying, size_px=SIZE_PX, num_levels=2)
    other = opened()
    other.model.visual.final_ln_after_pool = True  # the class token is then normalized elsewhere, with the same result
    ClipAligned(other, size_px=SIZE_PX, num_levels=2)
    other = opened()
    other.model.visual.transformer.register_forward_hook(
        lambda _module, _given, made: 2.0 * made + 1.0 * made.roll(1, -1)
    )
    with pytest.raises(BackboneError, match="projected class token is not the model's answer"):
        ClipAligned(other, size_px=SIZE_PX, num_levels=2)


def test_positions_keep_their_values_on_their_own_grid_and_their_shape_on_another() -> None:
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 24), indexing="ij")
    positions = torch.cat([torch.full((1, 2), 7.0), torch.stack([rows, columns], dim=-1).reshape(-1, 2)])
    assert interpolate_positions(positions, grid=24) is positions
    smaller = interpolate_positions(positions, grid=17)
    assert smaller.shape == (1 + 17 * 17, 2)
    assert smaller[0].tolist() == [7.0, 7.0]
    expected = torch.linspace(-1, 1, 24).mean() + (torch.arange(17) - 8) * (2 / 23 * 24 / 17)
    np.testing.assert_allclose(smaller[1:].reshape(17, 17, 2)[3:-3, 5, 0], expected[3:-3], atol=0.01)


def test_text_is_the_models_own_and_empty_prompts_are_refused(features: ClipAligned) -> None:
    prompts = ["a photo of a cat", "a photo of a scratched steel washer"]
    model = small_model()
    with torch.no_grad():
        expected = model.encode_text(open_clip.SimpleTokenizer()(prompts)).numpy()
    np.testing.assert_allclose(features.embed_text(prompts), unit(expected), atol=1e-5)
    with pytest.raises(BackboneError, match="holds nothing that its tokenizer knows"):
        features.embed_text(["a photo", "  "])
    assert features.temperature == pytest.approx(1 / 0.07, rel=1e-5)
    assert class_prototypes(features, "cable").shape == (2, 24)


def test_what_does_not_fit_the_model_is_said_in_one_sentence() -> None:
    with pytest.raises(ParamsError, match="small has 6 blocks"):
        ClipAligned(opened(), size_px=SIZE_PX, num_levels=7)
    with pytest.raises(ParamsError, match="needs one patch of 14 px"):
        ClipAligned(opened(), size_px=13, num_levels=2)
    with pytest.raises(ValueError, match="level 0 is not aligned"):
        ClipAligned(opened(), size_px=SIZE_PX, num_levels=2).project(0, np.zeros((1, WIDTH), np.float32))


def test_identity_names_depths_and_size(features: ClipAligned) -> None:
    same = ClipAligned(opened(), size_px=SIZE_PX, num_levels=3).identity
    others = {ClipAligned(opened(), size_px=size, num_levels=count).identity for size, count in ((42, 3), (SIZE_PX, 2))}
    assert same == features.identity
    assert len({same, *others}) == 3


def build(model: str, checkpoint: str | Path) -> None:
    spec = OpenClipAligned(kind="open_clip", model=model, checkpoint=str(checkpoint), size_px=64, levels=2)
    build_aligned(spec, compute=COMPUTE)


def test_an_unknown_model_is_answered_with_close_names() -> None:
    with pytest.raises(ParamsError, match=r"knows no model 'ViT-L/14@336'; close names are .*ViT-L-14-336"):
        build("ViT-L/14@336", "openai")


def test_models_without_clips_transformers_unknown_tags_and_wrong_activations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="not made of CLIP's own transformers"):
        build("convnext_base", "laion400m_s13b_b51k")
    with pytest.raises(ParamsError, match=r"neither a file nor weights that open_clip has for ViT-B-32 \(openai, "):
        build(TAGGED, tmp_path / "missing.safetensors")
    with pytest.raises(ParamsError, match="trained with the activation of ViT-B-32-quickgelu"):
        build(TAGGED, "openai")


def test_without_a_network_a_tag_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BackboneError, match=r"cannot be fetched here .*give the path of a downloaded file"):
        build("ViT-B-32-quickgelu", "openai")


def tiny_config(*, quick_gelu: bool) -> dict[str, object]:
    return {
        "embed_dim": 24,
        "quick_gelu": quick_gelu,
        "vision_cfg": {"layers": LAYERS, "width": WIDTH, "head_width": 16, "patch_size": PATCH, "image_size": 42},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }


@pytest.fixture
def tiny_registered(monkeypatch: pytest.MonkeyPatch) -> str:
    """A model small enough to be opened by name, known to open_clip for the time of a test."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-test", tiny_config(quick_gelu=True))
    return "tiny-test"


def test_a_file_that_may_need_the_other_activation_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in small_model().state_dict().items()}, path)
    for name in (TAGGED, f"{TAGGED}-quickgelu"):  # the names that tags are listed under, of a small model
        config = tiny_config(quick_gelu=name != TAGGED)
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
        with caplog.at_level(logging.INFO, logger="anosynth.features.aligned_clip"):
            aligned_clip.open_clip_model(name, checkpoint=str(path))
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "ViT-B-32: the file " in caplog.messages[0]
    assert "GELU is used; if these are the weights of openai or " in caplog.messages[0]
    assert caplog.messages[0].endswith("set aligned.model to ViT-B-32-quickgelu")
    assert caplog.messages[1].endswith("QuickGELU is used")


def test_a_checkpoint_gives_the_model_that_was_saved(tiny_registered: str, tmp_path: Path, images, features) -> None:
    for name, save in (("a.safetensors", save_file), ("a.pt", torch.save)):
        save({key: value.contiguous() for key, value in small_model().state_dict().items()}, tmp_path / name)
        found = aligned_clip.open_clip_model(tiny_registered, checkpoint=str(tmp_path / name))
        encoder = ClipAligned(found, size_px=SIZE_PX, num_levels=3)
        for ours, theirs in zip(encoder.patch_levels(images), features.patch_levels(images), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert found.weights_digest != digest_value({})


def test_a_checkpoint_of_another_model_is_named_with_the_weight_that_differs(
    tiny_registered: str, tmp_path: Path
) -> None:
    weights = small_model().state_dict()
    path = tmp_path / "other.safetensors"
    positions = "visual.positional_embedding"
    for change, message in (
        ({positions: torch.zeros(26, WIDTH)}, rf"does not fit the model tiny-test: {positions} has shape \[26, 32\]"),
        ({"extra": torch.zeros(1)}, "it holds extra"),
    ):
        save_file({key: value.contiguous() for key, value in {**weights, **change}.items()}, path)
        with pytest.raises(BackboneError, match=message):
            build(tiny_registered, path)
    save_file({key: value.contiguous() for key, value in weights.items() if key != "visual.proj"}, path)
    with pytest.raises(BackboneError, match=r"it lacks visual\.proj"):
        build(tiny_registered, path)
    path.write_bytes(b"no weights at all")
    with pytest.raises(BackboneError, match="no safetensors file or state dict"):
        build(tiny_registered, path)
