"""The command on a tiny recipe: stopping changes nothing, the moving average is exported, stale files stop it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from anosynth.errors import TrainingError
from anosynth.layout import Layout
from tasks import pretrain_backbone
from tasks.pretrain_backbone import run

STAGES = ("autoencoder", "denoiser", "decoder")
STEPS = {"autoencoder": 3, "denoiser": 4, "decoder": 3}
RECIPE = {
    "seed": 5,
    "threads": 2,
    "device": "cpu",
    "minutes_between_exports": 10.0,
    "corpus": {"num_images": 400, "size_px": 64, "damage_ratio": 0.2},
    "autoencoder": {"latent_channels": 4, "steps": 3, "decay_steps": 2, "batch_size": 4, "crop_px": 32},
    "denoiser": {
        "num_images": 400,
        "channels": [32, 64],
        "size_px": 64,
        "steps": 4,
        "decay_steps": 2,
        "batch_size": 4,
        "half_size_ratio": 0.5,
    },
    "decoder": {"steps": 3, "decay_steps": 2, "batch_size": 4, "crop_px": 32, "redrawn_ratio": 0.5},
}


def _work(root: Path) -> Path:
    return Layout(root).pretraining()


def _write(root: Path, **changed: Mapping[str, object]) -> Layout:
    root.mkdir(exist_ok=True)
    recipe = {
        name: {**value, **changed.get(name, {})} if isinstance(value, dict) else value for name, value in RECIPE.items()
    }
    (root / "pretrain.yaml").write_text(yaml.safe_dump(recipe))
    return Layout(root)


def _tensors(root: Path, part: str) -> dict[str, Tensor]:
    return load_file(_work(root) / "export" / part / "diffusion_pytorch_model.safetensors")


def _ema(root: Path, stage: str) -> dict[str, Tensor]:
    return {
        name.removeprefix("ema."): value
        for name, value in load_file(_work(root) / f"{stage}.safetensors").items()
        if name.startswith("ema.")
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain_backbone, "LOG_EVERY", 1)
        run(layout=_write(root))
    return root


def test_a_run_stopped_in_every_stage_exports_what_an_unbroken_one_does(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = _write(tmp_path)
    for folder in (*_work(unbroken).glob("corpus-*"), *_work(unbroken).glob("latents-*")):  # they cost most of a run
        shutil.copytree(folder, _work(tmp_path) / folder.name)
    monkeypatch.setattr(pretrain_backbone, "LOG_EVERY", 1)
    monkeypatch.setattr(pretrain_backbone, "SAVE_EVERY_S", -1.0)
    log, stopped = pretrain_backbone.append_log, set()

    def log_and_stop(path: Path, row: Mapping[str, object]) -> None:
        log(path, row)
        if row["step"] == 2 and path.stem not in stopped:
            stopped.add(path.stem)
            raise KeyboardInterrupt

    monkeypatch.setattr(pretrain_backbone, "append_log", log_and_stop)
    for _ in STAGES:
        with pytest.raises(KeyboardInterrupt):
            run(layout=layout)
    run(layout=layout)
    assert stopped == set(STAGES)
    compared = 0
    for part in ("vae", "unet"):
        wanted, found = _tensors(unbroken, part), _tensors(tmp_path, part)
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            assert torch.equal(value, found[name]), name
            compared += 1
    assert compared > 100
    for stage, steps in STEPS.items():
        rows = [json.loads(line) for line in (_work(tmp_path) / f"{stage}.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(1, steps + 1))


def test_what_is_exported_is_the_moving_average(unbroken: Path) -> None:
    unet, network = _tensors(unbroken, "unet"), load_file(_work(unbroken) / "denoiser.safetensors")
    for name, value in _ema(unbroken, "denoiser").items():
        assert torch.equal(unet[name], value.half()), name
    assert any(not torch.equal(unet[name], network[f"network.{name}"].half()) for name in unet)
    vae, before = _tensors(unbroken, "vae"), _ema(unbroken, "autoencoder")
    after = {f"decoder.{name}": value for name, value in _ema(unbroken, "decoder").items()}
    assert {name for name in before if name.startswith("decoder.")} == after.keys()
    for name, value in {**before, **after}.items():
        assert torch.equal(vae[name], value.half()), name
    assert any(not torch.equal(vae[name], before[name].half()) for name in after)


def test_every_stage_leaves_a_sheet(unbroken: Path) -> None:
    sheets = {path.name: path for path in (_work(unbroken) / "sheets").iterdir()}
    assert sheets.keys() == {f"{stage}-{steps:06d}.png" for stage, steps in STEPS.items()}
    for name, rows in (("autoencoder-000003.png", 2), ("denoiser-000004.png", 1), ("decoder-000003.png", 3)):
        with Image.open(sheets[name]) as image:
            assert image.size == (8 * 64, rows * 64)
    first = np.load(next(_work(unbroken).glob("corpus-*")) / "0000.npy", mmap_mode="r")[:8]
    with Image.open(sheets["autoencoder-000003.png"]) as image:
        assert np.array_equal(np.asarray(image)[:64], np.concatenate(first, axis=1))


@pytest.mark.parametrize(
    ("stage", "value", "files"),
    [
        ("autoencoder", {"lr": 2e-4}, ["autoencoder.lr was 0.001 and is 0.0002"]),
        ("corpus", {"damage_ratio": 0.3}, ["corpus (version) was"]),
        ("decoder", {"noise_std": 0.3}, ["decoder.safetensors", "decoder.noise_std was 0.4 and is 0.3"]),
        ("autoencoder", {"steps": 4}, ["denoiser.safetensors and", "decoder.safetensors", "3 of the 4 steps"]),
        ("denoiser", {"steps": 6}, ["decoder.safetensors: trained on", "4 of the 6 steps of denoiser.steps"]),
    ],
)
def test_checkpoints_of_another_recipe_stop_the_run_before_any_work(
    unbroken: Path, stage: str, value: dict[str, object], files: list[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in _work(unbroken).rglob("*")}
    with pytest.raises(TrainingError) as caught:
        run(layout=_write(unbroken, **{stage: value}))
    _write(unbroken)
    assert all(words in str(caught.value) for words in files), str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in _work(unbroken).rglob("*")} == before


def test_other_weights_below_a_stage_stop_it_and_get_latents_of_their_own(unbroken: Path, tmp_path: Path) -> None:
    shutil.copytree(unbroken, tmp_path / "copy")
    root = tmp_path / "copy"
    path = _work(root) / "autoencoder.safetensors"
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
    tensors = load_file(path)
    tensors["ema.encoder.1.weight"] = tensors["ema.encoder.1.weight"] * 1.5
    save_file(tensors, path, facts)
    with pytest.raises(TrainingError, match=r"denoiser\.safetensors was trained with .*autoencoder \(weights\) was"):
        run(layout=_write(root))
    assert len(list(_work(root).glob("latents-*"))) == 2


def test_more_steps_of_the_denoiser_go_on_once_the_decoder_is_removed(unbroken: Path, tmp_path: Path) -> None:
    shutil.copytree(unbroken, tmp_path / "copy")
    root = tmp_path / "copy"
    (_work(root) / "decoder.safetensors").unlink()
    run(layout=_write(root, denoiser={"steps": 5}))
    wanted = _ema(root, "denoiser")
    assert all(torch.equal(value, wanted[name].half()) for name, value in _tensors(root, "unet").items())
    vae, before = _tensors(root, "vae"), _tensors(unbroken, "vae")
    assert any(not torch.equal(value, before[name]) for name, value in vae.items() if name.startswith("decoder."))
