"""The measures that the backbone is judged by, against plain references."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from anosynth.diffusion.latent import open_backbone
from anosynth.diffusion.solver import SamplerSettings
from anosynth.features.encoder import build_features
from anosynth.params import ComputeParams, EmbeddedBackbone, EmbeddedFeatures
from anosynth.pretraining.evaluate import nearest_copy, psnr_db, ssim
from anosynth.pretraining.repair import Case, Redraw, Repair, SecondPass
from anosynth.pretraining.sheets import sheet

RNG = np.random.default_rng(0)
A = RNG.integers(0, 256, (48, 48, 3), dtype=np.uint8)
B = np.clip(A + RNG.normal(0, 20, A.shape), 0, 255).astype(np.uint8)


def test_psnr_and_ssim_agree_with_scikit_image() -> None:
    assert psnr_db(A, B) == pytest.approx(peak_signal_noise_ratio(A, B, data_range=255))
    wanted = structural_similarity(
        A, B, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert ssim(A, B) == pytest.approx(wanted, abs=1e-6)
    assert psnr_db(A, A) == float("inf")
    assert ssim(A, A) == pytest.approx(1.0)


def test_a_shifted_mirrored_copy_is_found() -> None:
    rng = np.random.default_rng(4)
    shots = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(3)]
    copy = np.roll(shots[1][:, ::-1], (5, -9), axis=(0, 1))
    assert nearest_copy(copy, shots) > 0.9
    assert nearest_copy(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), shots) < 0.2


def test_a_sheet_keeps_order() -> None:
    images = [np.full((2, 3, 3), level, np.uint8) for level in (1, 2, 3)]
    grid = sheet(images, 2)
    assert grid.shape == (4, 6, 3)
    assert (grid[0, 0, 0], grid[0, 3, 0], grid[2, 0, 0], grid[2, 3, 0]) == (1, 2, 3, 255)


def test_a_repair_is_judged_inside_and_outside_the_mask() -> None:
    sound = np.full((4, 4, 3), 100, np.uint8)
    inside = np.zeros((4, 4), bool)
    inside[1, 1] = True
    sound_trip = sound + np.uint8(2)
    scratched_trip = sound_trip.copy()
    scratched_trip[1, 1] += np.uint8(40)
    output, kept = sound_trip.astype(np.float64), sound_trip.astype(np.float64)
    output[1, 1] += 10.0
    output[0, 0] += 15.0
    kept[1, 1] += 4.0
    case = Case.of(inside, sound, output, kept, scratched_trip, sound_trip)
    assert case.residue == pytest.approx(10 / 40)
    assert case.floor == pytest.approx(4 / 40)
    assert case.growth == pytest.approx((14 * 2 + 17) / 15 / 2 - 1)


def test_the_second_pass_finds_a_foreign_cell_and_leaves_the_others_alone() -> None:
    compute = ComputeParams(threads=1, dtype="float32", device="cpu")
    backbone = open_backbone(EmbeddedBackbone(kind="embedded"), compute=compute)
    rng = np.random.default_rng(2)
    shots = [np.clip(rng.normal(120, 12, (64, 64, 3)), 0, 255).astype(np.uint8) for _ in range(3)]
    image = np.clip(rng.normal(120, 12, (64, 64, 3)), 0, 255).astype(np.uint8)
    image[18:30, 34:46] = (250, 20, 20)  # cells (2..3, 4..5) of 8 x 8
    features = build_features(EmbeddedFeatures.model_validate({"kind": "embedded", "size_px": 64}), compute=compute)
    repair = Repair(0.3, SamplerSettings("dpm_solver", 3, 1.0), 2, None, SecondPass(0.1, 0.5, 4))
    redraw = Redraw(backbone, "a photo of a plate", repair, features, shots)
    latents = backbone.encode([image])
    first = redraw.draws(latents, [5], "draw", strength=0.3, sampler=repair.sampler).mean(dim=0)
    cells = redraw.suspicious([image], latents, first, ratio=0.1)
    assert cells.shape == (1, 1, 8, 8)
    assert 6 <= int(cells.sum()) <= 7
    rows, columns = torch.nonzero(cells[0, 0], as_tuple=True)
    assert {*rows.tolist()} <= {1, 2, 3, 4}
    assert {*columns.tolist()} <= {3, 4, 5, 6}
    drawn = redraw.draws(latents, [5], "second", strength=0.5, sampler=repair.sampler, redraw=cells)
    assert drawn.shape == (2, 1, *latents.shape[1:])
    for one in drawn:
        kept = (cells == 0).expand_as(latents)
        assert torch.equal(one[kept], latents[kept])
        assert not torch.equal(one, latents)
    assert not torch.equal(drawn[0], drawn[1])
    whole = redraw.mean([image, image], [5, 6])
    assert whole.shape == (2, 64, 64, 3)
    np.testing.assert_allclose(redraw.mean([image], [5])[0], whole[0], atol=2.0)
