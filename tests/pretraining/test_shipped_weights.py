"""What the shipped weights can do, so that worse ones cannot take their place unseen; figures in docs/backbone.md."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from anosynth.diffusion.latent import LatentDiffusion, open_backbone
from anosynth.params import ComputeParams, EmbeddedBackbone
from anosynth.pretraining.evaluate import fidelity, psnr_db, read_square, texture_images
from anosynth.pretraining.sheets import round_trip

BSDATA = os.environ.get("ANOSYNTH_BSDATA", "")


@pytest.fixture(scope="module")
def shipped() -> LatentDiffusion:
    compute = ComputeParams(threads=1, dtype="float32", device="cpu")
    return open_backbone(EmbeddedBackbone(kind="embedded"), compute=compute)


def test_fine_textures_come_back_at_24_db_or_more(shipped: LatentDiffusion) -> None:
    windows = [image for name, image in texture_images().items() if name.endswith("window")]
    found = fidelity(shipped, windows)
    assert found["images"] == 3
    assert found["psnr_db"] >= 24.0


@pytest.mark.skipif(not BSDATA, reason="ANOSYNTH_BSDATA names no folder with the data set ball_screw")
def test_real_photographs_come_back_as_the_acceptance_asks(shipped: LatentDiffusion) -> None:
    paths = sorted((Path(BSDATA) / "ball_screw" / "train" / "good").iterdir())
    found = fidelity(shipped, [read_square(path, 128) for path in paths[::4]])
    assert found["images"] == 20
    assert found["psnr_db"] >= 32.0
    assert found["ssim"] >= 0.90


@pytest.mark.parametrize("size_px", [96, 104, 192])
def test_other_sizes_than_that_of_training_work(shipped: LatentDiffusion, size_px: int) -> None:
    image = np.repeat(data.brick()[100 : 100 + size_px, 100 : 100 + size_px, None], 3, axis=2)
    latents = shipped.encode([image])
    assert latents.shape == (1, *shipped.latent_shape(size_px)) == (1, 16, size_px // 8, size_px // 8)
    (back,) = round_trip(shipped, [image])
    assert back.shape == image.shape
    assert psnr_db(back, image) >= 30.0
    at, noise = torch.tensor([300]), torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    noisy = shipped.schedule.add_noise(latents, noise, at)
    with torch.inference_mode():
        output = shipped.predict(noisy, at, shipped.embed(["a close-up photo of a brick wall"]))
    assert output.shape == latents.shape
    cleaned = shipped.schedule.clean(output, noisy, at)
    ratio = (cleaned - latents).square().mean() / (noisy - latents).square().mean()
    assert ratio < 0.5
