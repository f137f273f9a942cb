"""Stable Diffusion 1.5's exact topology at a tenth of the width, random weights, through a diffusers folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from anosynth.diffusion import toy
from anosynth.diffusion.components import Components, factor_of
from anosynth.diffusion.devices import accelerator_for
from anosynth.diffusion.dual import DualAdapter, DualShape, attach_merged, attention_layers, detach
from anosynth.diffusion.dual_adapters import open_dual, read_dual, save_dual, take_dual
from anosynth.diffusion.dual_sample import DualPrompts, draw_pairs, two_branches
from anosynth.diffusion.dual_train import DualSet, DualTrainSettings, train_dual
from anosynth.diffusion.folder import write_folder
from anosynth.diffusion.latent import LatentDiffusion, open_backbone
from anosynth.diffusion.loop import LoopSettings
from anosynth.diffusion.schedule import NoiseSchedule
from anosynth.diffusion.solver import SamplerSettings
from anosynth.errors import BackboneError
from anosynth.params import ComputeParams, PretrainedBackbone
from anosynth.seeding import torch_generators
from tests.blobs import Blobs

SIZE = 64
# unet/config.json, vae/config.json and scheduler_config.json of Stable Diffusion 1.5, with other widths alone.
UNET = {
    "act_fn": "silu",
    "attention_head_dim": 8,  # of diffusers' older models: the number of heads
    "block_out_channels": (32, 64, 128, 128),  # 320, 640, 1280, 1280
    "center_input_sample": False,
    "cross_attention_dim": toy.WIDTH,  # 768
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
VAE = {
    "act_fn": "silu",
    "block_out_channels": (32, 32, 32, 32),  # 128, 256, 512, 512
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
PLAIN = DualShape(mode="default", rank=4, alpha=4.0, inner=8)
PAPER = DualShape(mode="paper", rank=4, alpha=4.0, inner=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae, unet = AutoencoderKL(**VAE), UNet2DConditionModel(**UNET)
    schedule = NoiseSchedule.from_config(SCHEDULER, name="Stable Diffusion 1.5")
    path = tmp_path_factory.mktemp("sd15") / "stable-diffusion-v1-5"
    write_folder(Components(vae, unet, toy.build(0).text, schedule, factor_of(vae), "before it was written"), path)
    return path


@pytest.fixture(scope="module")
def sd15(folder: Path) -> LatentDiffusion:
    compute = ComputeParams(threads=1, dtype="float32", device="cpu")
    return open_backbone(PretrainedBackbone(kind="pretrained", path=str(folder)), compute=compute)


def test_every_attention_layer_lies_where_stable_diffusion_has_it(sd15: LatentDiffusion) -> None:
    layers = attention_layers(sd15.unet)
    assert len(layers) == 32
    places = Counter((name.split(".attentions")[0], layer.to_q.in_features) for name, layer in layers.items())
    assert places == {
        ("down_blocks.0", 32): 4,
        ("down_blocks.1", 64): 4,
        ("down_blocks.2", 128): 4,
        ("mid_block", 128): 2,
        ("up_blocks.1", 128): 6,
        ("up_blocks.2", 64): 6,
        ("up_blocks.3", 32): 6,
    }
    for name, layer in layers.items():
        assert layer.heads == 8
        assert layer.is_cross_attention == name.endswith("attn2")
        assert layer.to_k.in_features == (toy.WIDTH if layer.is_cross_attention else layer.to_q.in_features)
    assert sd15.factor == 8
    assert sd15.schedule.num_timesteps == 1000


@pytest.mark.parametrize(
    "shape", [PAPER, replace(PLAIN, background="paper")], ids=["paper", "default with a background"]
)
def test_a_pair_comes_from_an_adapter_that_was_trained_saved_and_read(
    sd15: LatentDiffusion, tmp_path: Path, shape: DualShape
) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(6)]
    whole, part, surroundings = (sd15.encode_moments(images[at : at + 2]) for at in (0, 2, 4))
    reads = shape.background != "off"
    text = sd15.embed(["a vfx with sks", "sks", ""])
    adapter = DualAdapter(sd15.unet, shape, generator=torch.Generator().manual_seed(0))
    frozen = {name: value.clone() for name, value in sd15.unet.state_dict().items()}
    start = {name: value.clone() for name, value in adapter.state_dict().items()}
    result = train_dual(
        sd15,
        adapter,
        DualSet(whole, part, text, (0, 0), (1, 1)),
        DualTrainSettings(LoopSettings(steps=2, lr=1e-2, checkpoint_every=2, log_every=2), batch_size=1),
        seed=0,
        address=("sd15",),
        accelerator=accelerator_for(ComputeParams(threads=1, dtype="float32", device="cpu")),
        checkpoints=Blobs(),
        key="none",
        backgrounds=surroundings if reads else None,
    )
    assert np.isfinite(result.losses).all()
    assert all(torch.equal(value, frozen[name]) for name, value in sd15.unet.state_dict().items())
    ups = [
        name for name, value in adapter.state_dict().items() if ".up" in name and not torch.equal(value, start[name])
    ]
    assert len(ups) >= 32 * 4

    saved = take_dual(adapter, backbone=sd15.identity, half_precision=False, terms={}, facts={})
    save_dual(saved, tmp_path)
    read = read_dual(tmp_path)
    assert read.shape == shape
    assert any(":background." in name for name in read.tensors) == reads
    drawn = []
    for one in (adapter, open_dual(sd15.unet, read, backbone=sd15.identity)):
        with two_branches(sd15, one):
            drawn.append(
                draw_pairs(
                    sd15,
                    DualPrompts(text.rows([0]), text.rows([1]), text.rows([2])),
                    size_px=SIZE,
                    settings=SamplerSettings("dpm_solver", 2, 2.5),
                    generators=torch_generators([1]),
                    backgrounds=surroundings.mean[:1] if reads else None,
                )
            )
    for first, second in zip(*drawn, strict=True):
        assert first.shape == (1, SIZE, SIZE, 3)
        assert np.array_equal(first, second)
    with pytest.raises(BackboneError, match="was trained on the backbone"):
        open_dual(sd15.unet, read, backbone="another")


def test_a_lora_of_the_text_encoder_is_trained_saved_read_and_draws(sd15: LatentDiffusion, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(2)]
    captions = ("a vfx with sks", "sks", "")
    before = sd15.embed(captions)
    adapter = DualAdapter(
        sd15.unet, replace(PLAIN, text_rank=4), generator=torch.Generator().manual_seed(0), text=sd15.text
    )
    whole, part = (sd15.encode_moments([image]) for image in images)
    result = train_dual(
        sd15,
        adapter,
        DualSet(whole, part, before, (0,), (1,), captions=captions),
        DualTrainSettings(LoopSettings(steps=2, lr=1e-2, checkpoint_every=2, log_every=2), batch_size=1),
        seed=0,
        address=("sd15",),
        accelerator=accelerator_for(ComputeParams(threads=1, dtype="float32", device="cpu")),
        checkpoints=Blobs(),
        key="none",
    )
    assert np.isfinite(result.losses).all()
    save_dual(take_dual(adapter, backbone=sd15.identity, half_precision=False, terms={}, facts={}), tmp_path)
    opened = open_dual(sd15.unet, read_dual(tmp_path), backbone=sd15.identity, text=sd15.text)
    states = []
    for one in (adapter, opened):
        with two_branches(sd15, one):
            states.append(sd15.embed(captions).states)
    assert torch.equal(*states)
    assert not torch.equal(states[0], before.states)
    assert torch.equal(sd15.embed(captions).states, before.states)


def test_an_adapter_of_another_topology_is_refused(sd15: LatentDiffusion) -> None:
    other = toy.build(0).unet
    adapter = DualAdapter(other, PLAIN, generator=torch.Generator().manual_seed(0))
    with pytest.raises(BackboneError, match="made for a U-Net with other attention layers"):
        attach_merged(sd15.unet, adapter)
    detach(sd15.unet)
