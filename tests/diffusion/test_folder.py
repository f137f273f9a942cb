"""Backbones on disk: opened whole, or refused in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from anosynth.diffusion import toy
from anosynth.diffusion.components import Components, factor_of
from anosynth.diffusion.folder import inspect_folder, read_folder, write_folder
from anosynth.diffusion.latent import LatentDiffusion, backbone_identity, open_backbone
from anosynth.errors import BackboneError
from anosynth.params import ComputeParams, PretrainedBackbone, ToyBackbone

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy backbone as a diffusers folder; leave it as it is."""
    path = tmp_path_factory.mktemp("backbone") / "toy"
    write_folder(toy.build(0), path)
    return path


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(written, tmp_path / "copied"))


def variant(*, vae: dict[str, object], unet: dict[str, object]) -> Components:
    """The toy backbone with other sizes."""
    plain = toy.build(0)
    with torch.random.fork_rng(devices=[]):
        autoencoder, network = AutoencoderKL(**{**toy.VAE, **vae}), UNet2DConditionModel(**{**toy.UNET, **unet})
    return Components(autoencoder, network, plain.text, plain.schedule, factor_of(autoencoder), "variant")


def rename_weights(path: Path, rename: Callable[[str], str]) -> None:
    save_file({rename(name): value for name, value in load_file(path).items()}, path, metadata={"format": "pt"})


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_written_backbone_opens_as_the_same_one(
    written: Path, backbone: LatentDiffusion, compute: ComputeParams
) -> None:
    spec = PretrainedBackbone(kind="pretrained", path=written.name)
    opened = open_backbone(spec, compute=compute, root=written.parent)
    assert opened.identity == backbone_identity(spec, root=written.parent) == inspect_folder(written).identity()
    assert opened.identity != backbone.identity
    prompts = ["a photo of normal cable", ""]
    assert torch.equal(opened.embed(prompts).states, backbone.embed(prompts).states)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps, text = torch.tensor([9, 900]), backbone.embed(prompts)
    with torch.no_grad():
        assert torch.equal(opened.predict(latents, timesteps, text), backbone.predict(latents, timesteps, text))
    assert (opened.decode(latents) == backbone.decode(latents)).all()
    assert torch.equal(opened.schedule.abar, backbone.schedule.abar)


def test_the_identity_of_a_toy_spec_is_that_of_what_it_opens(compute: ComputeParams) -> None:
    spec = ToyBackbone(kind="toy", seed=5)
    assert open_backbone(spec, compute=compute).identity == backbone_identity(spec)


def test_the_identity_follows_every_weight_and_no_readme(copied: Path) -> None:
    before = inspect_folder(copied).identity()
    (copied / "README.md").write_text("a card")
    (copied / "unet" / "notes.md").write_text("a note")
    assert inspect_folder(copied).identity() == before
    tensors = load_file(copied / UNET)
    tensors["conv_in.bias"][0] += 1e-3
    save_file(tensors, copied / UNET, metadata={"format": "pt"})
    changed = inspect_folder(copied).identity()
    assert changed != before
    edit_json(copied / "scheduler" / "scheduler_config.json", beta_end=0.013)
    assert inspect_folder(copied).identity() not in (before, changed)


def test_the_weight_names_of_stable_diffusion_1_5_are_understood(copied: Path) -> None:
    """Its text encoder has a prefix and a stored constant, its VAE older names of the attention projections."""
    clip = copied / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(clip).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(77).unsqueeze(0)
    save_file(tensors, clip, metadata={"format": "pt"})
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old_name(name: str) -> str:
        if "attentions" not in name:
            return name
        for new, old in older.items():
            name = name.replace(new, old)
        return name

    rename_weights(copied / "vae" / "diffusion_pytorch_model.safetensors", old_name)
    opened, reference = read_folder(copied, dtype=torch.float32), toy.build(0)
    assert torch.equal(opened.text.embed(["tile"]).states, reference.text.embed(["tile"]).states)
    for left, right in zip(opened.vae.state_dict().values(), reference.vae.state_dict().values(), strict=True):
        assert torch.equal(left, right)


def test_half_precision_files_are_read_where_there_are_no_others(copied: Path) -> None:
    for part, stem in (
        ("vae", "diffusion_pytorch_model"),
        ("unet", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        plain = copied / part / f"{stem}.safetensors"
        tensors = {name: value.half() for name, value in load_file(plain).items()}
        save_file(tensors, copied / part / f"{stem}.fp16.safetensors", metadata={"format": "pt"})
        if part != "unet":
            plain.unlink()
    with pytest.raises(BackboneError, match="some parts are stored as fp16 files and some are not"):
        inspect_folder(copied)
    (copied / UNET).unlink()
    opened = read_folder(copied, dtype=torch.float32)
    wanted = toy.build(0).unet.conv_in.weight
    assert opened.unet.conv_in.weight.dtype == torch.float32
    assert torch.allclose(opened.unet.conv_in.weight, wanted, atol=1e-3)


@pytest.mark.parametrize("channels", [3, 16])
def test_any_number_of_latent_channels_and_any_vae_factor_fit(
    channels: int, tmp_path: Path, compute: ComputeParams
) -> None:
    levels = 3
    vae: dict[str, object] = {
        "latent_channels": channels,
        "block_out_channels": (8,) * levels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    write_folder(variant(vae=vae, unet={"in_channels": channels, "out_channels": channels}), tmp_path / "odd")
    opened = open_backbone(PretrainedBackbone(kind="pretrained", path=str(tmp_path / "odd")), compute=compute)
    assert opened.factor == 4
    assert opened.latent_shape(64) == (channels, 16, 16)
    assert opened.decode(torch.zeros(1, channels, 8, 8)).shape == (1, 32, 32, 3)


def remove_part(path: Path) -> None:
    shutil.rmtree(path / "scheduler")


def remove_weights(path: Path) -> None:
    (path / UNET).unlink()


def only_pickles(path: Path) -> None:
    (path / UNET).rename(path / "unet" / "diffusion_pytorch_model.bin")


def single_checkpoint(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()
    (path / "v1-5-pruned.ckpt").write_bytes(b"x")


def other_class(path: Path) -> None:
    edit_json(path / "model_index.json", unet=["diffusers", "UNetMotionModel"])


def other_text(path: Path) -> None:
    edit_json(path / "model_index.json", text_encoder=["transformers", "T5EncoderModel"])


def damaged_index(path: Path) -> None:
    (path / "model_index.json").write_text("{")


def no_part_named(path: Path) -> None:
    edit_json(path / "model_index.json", vae=None)


def lost_weight(path: Path) -> None:
    tensors = load_file(path / UNET)
    del tensors["conv_in.bias"]
    save_file(tensors, path / UNET, metadata={"format": "pt"})


def added_weight(path: Path) -> None:
    save_file({**load_file(path / UNET), "lora.down": torch.zeros(1)}, path / UNET, metadata={"format": "pt"})


def truncated(path: Path) -> None:
    data = (path / UNET).read_bytes()
    (path / UNET).write_bytes(data[: len(data) // 2])


def second_text_encoder(path: Path) -> None:
    edit_json(path / "unet" / "config.json", class_embed_type="identity")


def no_tokenizer_files(path: Path) -> None:
    for file in (path / "tokenizer").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_part, "the part scheduler/ is missing; a backbone has vae, unet"),
        (remove_weights, r"diffusion_pytorch_model\.safetensors is missing"),
        (only_pickles, r"holds diffusion_pytorch_model\.bin but no safetensors file; pickled weights can run code"),
        (single_checkpoint, r"holds no model_index\.json.*v1-5-pruned\.ckpt is a single-file checkpoint"),
        (other_class, r"unet is diffusers\.UNetMotionModel, not diffusers\.UNet2DConditionModel"),
        (
            other_text,
            r"text encoder transformers\.T5EncoderModel with tokenizer transformers\.CLIPTokenizer is not known",
        ),
        (damaged_index, "is not readable JSON"),
        (no_part_named, "vae is None; it must name a library and a class"),
        (lost_weight, r"1 weights are missing, the first is conv_in\.bias"),
        (added_weight, r"1 weights are unexpected, the first is lora\.down"),
        (truncated, "the weights cannot be read"),
        (second_text_encoder, "the U-Net has class_embed_type = 'identity'; only Stable-Diffusion-1.x-shaped"),
        (no_tokenizer_files, "tokenizer"),
    ],
)
def test_a_folder_that_is_no_whole_backbone_is_refused(
    damage: Callable[[Path], None], message: str, copied: Path
) -> None:
    damage(copied)
    with pytest.raises(BackboneError, match=message) as caught:
        read_folder(copied, dtype=torch.float32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere/at/all", "backbone.path: the folder /nowhere/at/all does not exist"),
        (
            "someone/some-model",
            "someone/some-model is neither a folder .* nor a model that can be fetched from the hub",
        ),
    ],
)
def test_a_backbone_that_is_not_there_is_named(path: str, message: str, compute: ComputeParams) -> None:
    with pytest.raises(BackboneError, match=message):
        open_backbone(PretrainedBackbone(kind="pretrained", path=path), compute=compute)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(BackboneError, match="takes 9 and gives 4 channels, but the VAE's latents have 4"):
        variant(vae={}, unet={"in_channels": 9})
    with pytest.raises(BackboneError, match="token states of size 24, but the text encoder gives 32"):
        variant(vae={}, unet={"cross_attention_dim": 24})
