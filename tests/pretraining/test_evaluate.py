"""The measures that the backbone is judged by, against plain references."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from anosynth.diffusion.latent import open_backbone
from anosynth.diffusion.solver import SamplerSettings
from anosynth.features.encoder import build_features
from anosynth.metrics.synthesis import polynomial_mmd
from anosynth.params import ComputeParams, EmbeddedBackbone, EmbeddedFeatures, PersonalizeNormalsParams, ToyBackbone
from anosynth.pretraining import evaluate
from anosynth.pretraining.evaluate import (
    draw,
    memorization,
    personalization,
    psnr_db,
    read_prompts,
    recognized,
    ssim,
)
from anosynth.pretraining.rendering import render
from anosynth.pretraining.repair import Case, Redraw, Repair, SecondPass, scratch_removal
from anosynth.pretraining.sheets import sheet
from anosynth.screening.ceiling import similarity_ceiling
from anosynth.screening.memorization import NearestShot
from anosynth.seeding import numpy_rng
from anosynth.sources.procedural import DEFECTS
from anosynth.sources.procedural.render import render_pair

COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")
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


def test_copies_lie_above_the_ceiling_of_different_shots_and_other_parts_below() -> None:
    shots, others, unseen = (
        [render_pair("leather", defect="scratch", seed=seed, size_px=64).sound.image for seed in seeds]
        for seeds in (range(4), range(50, 60), range(100, 102))
    )
    copies = [np.ascontiguousarray(shot[:, ::-1]) for shot in shots]
    groups = ["a", "b", "c", "c"]
    found = memorization([*copies, *unseen], shots, groups, others)
    ceiling = similarity_ceiling(shots, groups, others=others[:8])
    assert ceiling is not None
    assert found["ceiling"] == pytest.approx(ceiling.value, abs=1e-3)
    assert found["ceiling_of_nearest"] == pytest.approx(ceiling.nearest, abs=1e-3)
    nearest = NearestShot(shots, others=others[:8])
    for name, images in (("drawn", [*copies, *unseen]), ("held_out", others[8:])):
        above = [max(nearest.similarity(image, shot=at) for at in range(4)) > ceiling.nearest for image in images]
        figures = found[name]
        assert isinstance(figures, dict)
        assert figures["above_ceiling_of_nearest"] == pytest.approx(np.mean(above), abs=1e-4)
        if name == "drawn":
            assert above[:4] == [True] * 4
            assert above[4:] == [False, False]
    with pytest.raises(ValueError, match="come from one group"):
        memorization(copies, shots, ["a"] * 4, others)


def test_renders_are_recognized_as_what_they_are_and_not_as_their_neighbours() -> None:
    features = build_features(EmbeddedFeatures.model_validate({"kind": "embedded", "model": "lite2"}), compute=COMPUTE)
    names = list(read_prompts("eval"))[:5]
    drawn = np.stack([
        render(numpy_rng(3, "evaluate_renders", name, at), 128, subject=name, damage=None)[0]
        for name in names
        for at in range(2)
    ])  # fmt: skip
    right = recognized(drawn, features, names, renders_per_class=2, seed=3)
    assert right == {"recognized": 1.0, "per_class": dict.fromkeys(names, 1.0), "images": 10}
    wrong = recognized(np.roll(drawn, 2, axis=0), features, names, renders_per_class=2, seed=3)
    assert wrong["recognized"] == 0.0
    half = recognized(np.roll(drawn, 1, axis=0), features, names, renders_per_class=2, seed=3)
    assert half["recognized"] == 0.5


def test_personalization_of_the_toy_backbone_compares_what_it_says() -> None:
    toy = open_backbone(ToyBackbone(kind="toy", seed=0), compute=COMPUTE)
    features = build_features(EmbeddedFeatures.model_validate({"kind": "embedded", "size_px": 64}), compute=COMPUTE)
    real = [render_pair("wood", defect="scratch", seed=seed, size_px=128).sound.image for seed in range(12)]
    sampler = SamplerSettings("ddim", 2, 1.0)
    settings = PersonalizeNormalsParams(steps=2, batch_size=2, prior_weight=0.0, prior_images=0, decoder_steps=0)
    found, drawn = personalization(
        toy,
        features,
        real[:2],
        ["a", "b"],
        real[2:],
        compute=COMPUTE,
        settings=settings,
        sampler=sampler,
        name="wood",
        num_samples=3,
        seed=5,
    )
    plain = draw(toy, [settings.prompt.format(name="wood")] * 3, seed=5, settings=sampler)
    assert drawn.shape == plain.shape == (3, 128, 128, 3)
    assert not np.array_equal(drawn, plain)
    held_out = features.pooled(real[2:])
    for name, images in (("personalized", drawn), ("unpersonalized", plain)):
        value = polynomial_mmd(features.pooled(list(images)), held_out)
        assert found[name][0] == pytest.approx(value, abs=1e-5)  # type: ignore[index]
    assert found["shots_augmented"] < found["unpersonalized"]  # type: ignore[operator]
    assert found["memorization"] == memorization(list(drawn), real[:2], ["a", "b"], real[2:])


def test_without_strength_nothing_is_repaired_and_nothing_grows() -> None:
    toy = open_backbone(ToyBackbone(kind="toy", seed=0), compute=COMPUTE)
    features = build_features(EmbeddedFeatures.model_validate({"kind": "embedded", "size_px": 64}), compute=COMPUTE)
    repair = Repair(0.0, SamplerSettings("ddim", 2, 1.0), 2, None)
    figures, rows = scratch_removal(
        toy,
        categories={"wood": "wood", "leather": "leather"},
        per_category=1,
        repair=repair,
        features=features,
        compute=COMPUTE,
        seed=1,
    )
    assert (figures["cases"], figures["repaired"], figures["residue_median"]) == (2, 0.0, 1.0)
    assert (figures["sound_floor_median"], figures["outside_growth_median"]) == (0.0, 0.0)
    assert figures["strength_0_max_difference"] == 0.0
    assert rows.shape == (2 * 128, 4 * 128, 3)
    assert np.array_equal(rows[:, 128:256], rows[:, 256:384])
    drawn, _ = scratch_removal(
        toy,
        categories={"wood": "wood"},
        per_category=1,
        repair=replace(repair, strength=0.5),
        features=features,
        compute=COMPUTE,
        seed=1,
    )
    assert drawn["residue_median"] != 1.0
    assert drawn["outside_growth_median"] != 0.0


def test_suspicion_goes_by_as_many_sound_parts_as_asked() -> None:
    toy = open_backbone(ToyBackbone(kind="toy", seed=0), compute=COMPUTE)
    features = build_features(EmbeddedFeatures.model_validate({"kind": "embedded", "size_px": 64}), compute=COMPUTE)
    found = []
    for count in (1, 6):
        repair = Repair(0.5, SamplerSettings("ddim", 2, 1.0), 1, None, SecondPass(0.2, 0.5, 2), count)
        figures, rows = scratch_removal(
            toy,
            categories={"wood": "wood"},
            per_category=1,
            repair=repair,
            features=features,
            compute=COMPUTE,
            seed=1,
        )
        assert figures["sound_parts"] == count
        found.append(rows)
    same = [np.array_equal(*(rows[:, at : at + 128] for rows in found)) for at in (0, 128, 256, 384)]
    assert same == [True, True, False, True]


def test_a_case_agrees_with_a_loop_over_pixels() -> None:
    rng = np.random.default_rng(9)
    sound, scratched_trip, sound_trip = (rng.integers(0, 256, (5, 6, 3), dtype=np.uint8) for _ in range(3))
    output, kept = (rng.uniform(0, 255, (5, 6, 3)) for _ in range(2))
    inside = rng.random((5, 6)) < 0.4
    sums = dict.fromkeys(("scar", "residue", "floor", "before", "after"), 0.0)
    for y in range(5):
        for x in range(6):
            for c in range(3):
                one, trip, clean = (float(image[y, x, c]) for image in (scratched_trip, sound_trip, sound))
                if inside[y, x]:
                    sums["scar"] += abs(one - trip)
                    sums["residue"] += abs(output[y, x, c] - trip)
                    sums["floor"] += abs(kept[y, x, c] - trip)
                else:
                    sums["before"] += abs(one - clean)
                    sums["after"] += abs(output[y, x, c] - clean)
    case = Case.of(inside, sound, output, kept, scratched_trip, sound_trip)
    assert case.residue == pytest.approx(sums["residue"] / sums["scar"])
    assert case.floor == pytest.approx(sums["floor"] / sums["scar"])
    assert case.growth == pytest.approx(sums["after"] / sums["before"] - 1)


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
    backbone = open_backbone(EmbeddedBackbone(kind="embedded"), compute=COMPUTE)
    rng = np.random.default_rng(2)
    shots = [np.clip(rng.normal(120, 12, (64, 64, 3)), 0, 255).astype(np.uint8) for _ in range(3)]
    image = np.clip(rng.normal(120, 12, (64, 64, 3)), 0, 255).astype(np.uint8)
    image[18:30, 34:46] = (250, 20, 20)  # cells (2..3, 4..5) of 8 x 8
    features = build_features(EmbeddedFeatures.model_validate({"kind": "embedded", "size_px": 64}), compute=COMPUTE)
    repair = Repair(0.3, SamplerSettings("dpm_solver", 3, 1.0), 3, None, SecondPass(0.1, 0.5, 4))
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
    assert drawn.shape == (3, 1, *latents.shape[1:])
    for one in drawn:
        kept = (cells == 0).expand_as(latents)
        assert torch.equal(one[kept], latents[kept])
        assert not torch.equal(one, latents)
    assert not torch.equal(drawn[0], drawn[1])
    whole = redraw.median([image, image], [5, 6])
    assert whole.shape == (2, 64, 64, 3)
    alone = redraw.median([image], [5])
    np.testing.assert_allclose(alone[0], whole[0], atol=2.0)
    start = torch.where(cells > 0, first, latents)
    again = redraw.draws(start, [5], "second", strength=0.5, sampler=replace(repair.sampler, steps=4), redraw=cells)
    decoded = np.stack([backbone.decode(one) for one in again])
    np.testing.assert_array_equal(alone, np.sort(decoded, axis=0)[1])
    assert not np.array_equal(decoded[0], decoded[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "texts"], "invalid choice: 'texts' (choose from 'vae', 'text', 'lora', 'repair', 'sizes')"),
        (["--only", "lora"], "--only lora: it learns from photographs; add --bsdata FOLDER"),
        (["--repair-categories", "fabric"], "invalid choice: 'fabric'"),
        (["--repair-sound", "0"], "--repair-sound: 0 sound parts; allowed: 1 or more"),
    ],
)
def test_a_part_that_cannot_be_measured_ends_in_one_sentence(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", *words])
    with pytest.raises(SystemExit) as ended:
        evaluate.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_every_category_that_is_repaired_can_be_scratched() -> None:
    assert all("scratch" in DEFECTS[category] for category in evaluate.REPAIRED)
    assert {category for category, kinds in DEFECTS.items() if "scratch" in kinds} == set(evaluate.REPAIRED)
