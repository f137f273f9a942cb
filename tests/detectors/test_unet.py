from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anosynth.detectors.batches import Augmentation, TrainingImages, draw_batch, stack
from anosynth.detectors.losses import dice_loss, focal_loss
from anosynth.detectors.protocol import LabelledImage
from anosynth.detectors.state import STATE_FILES
from anosynth.detectors.training import train
from anosynth.detectors.unet import UNetLocalizer
from anosynth.detectors.unet_network import build_unet
from anosynth.errors import BackboneError, DataError
from anosynth.imaging import to_unit
from anosynth.seeding import numpy_rng, seed_for, torch_generator
from tests.detectors.planted import SIZE_PX, judge, planted

NORMALS = planted("leather", None, "train", 6)
PAIRS = planted("leather", "hole", "train", 6)


def localizer(
    *,
    steps: int = 3,
    channels: int = 4,
    init_seed: int = 0,
    draw_seed: int = 0,
    normal_ratio: float = 0.5,
    synthetic_until: float = 1.0,
) -> UNetLocalizer:
    return UNetLocalizer(
        channels=channels,
        size_px=SIZE_PX,
        steps=steps,
        batch_size=4,
        lr=3e-3,
        normal_ratio=normal_ratio,
        synthetic_ratio=0.5,
        synthetic_until=synthetic_until,
        augmentation=Augmentation(flip=True, quarter_turns=True, brightness=0.1, contrast=0.1),
        init_seed=init_seed,
        draw_seed=draw_seed,
        dtype=torch.float32,
        device=torch.device("cpu"),
        name="leather",
    )


def saved(detector: UNetLocalizer, folder: Path) -> list[bytes]:
    folder.mkdir()
    detector.save(folder)
    return [(folder / name).read_bytes() for name in STATE_FILES]


def test_it_learns_to_find_planted_defects() -> None:
    detector = localizer(steps=60, channels=8)
    before = judge(detector, "leather", "hole", count=8)
    detector.fit(NORMALS, PAIRS)
    verdict = judge(detector, "leather", "hole", count=8)
    assert verdict.image_auroc > 0.9  # chance is 0.5
    assert verdict.pixel_auroc > 0.95
    assert verdict.peaks_on_defect >= 0.85
    assert verdict.pixel_auroc > before.pixel_auroc + 0.1


def test_a_pool_whose_masks_are_shuffled_gives_no_gain() -> None:
    normals, shots = planted("wood", None, "train", 6), planted("wood", "stain", "train", 2)
    pool = [replace(item, synthetic=True) for item in planted("wood", "stain", "pool", 8)]
    shuffled = [replace(item, mask=other.mask) for item, other in zip(pool, [*pool[3:], *pool[:3]], strict=True)]
    found = []
    for seed, shot in enumerate(shots):
        row = []
        for made in ([], shuffled, pool):
            detector = localizer(steps=50, channels=8, init_seed=seed, draw_seed=seed)
            detector.fit(normals, [shot, *made])
            row.append(judge(detector, "wood", "stain", count=6).pixel_ap)
        found.append(row)
    real, wrong, right = np.array(found).T
    assert (wrong - real).max() < 0.0
    assert (right - wrong).min() > 0.2  # it is the masks, not the pictures


@pytest.mark.parametrize(("until", "ratios"), [(0.5, [0.5, 0.5, 0.0, 0.0]), (0.6, [0.5] * 3 + [0.0]), (1.0, [0.5] * 4)])
def test_the_last_steps_of_a_curriculum_see_real_images_alone(until: float, ratios: list[float]) -> None:
    made = [replace(item, synthetic=True) for item in planted("leather", "hole", "pool", 4)]
    detector = localizer(steps=4, synthetic_until=until)
    detector.fit(NORMALS, [*PAIRS, *made])

    # The same by hand: four steps, each with its own share.
    none: tuple[LabelledImage, ...] = ()
    kinds = TrainingImages(*(stack(kind, size_px=SIZE_PX) for kind in (NORMALS, none, PAIRS, made)))
    network = build_unet(channels=4, generator=torch_generator(seed_for(0, "init")))
    train(
        network,
        draw=lambda step: draw_batch(
            kinds,
            batch_size=4,
            normal_ratio=0.5,
            synthetic_ratio=ratios[step],
            augmentation=Augmentation(flip=True, quarter_turns=True, brightness=0.1, contrast=0.1),
            rng=numpy_rng(0, step),
        ),
        loss=lambda logits, targets: focal_loss(logits, targets) + dice_loss(logits, targets),
        steps=4,
        peak_lr=3e-3,
        dtype=torch.float32,
        device=torch.device("cpu"),
        name="by hand",
    )
    image = planted("leather", "hole", "test", 1)[0].image
    (answer,) = detector.predict([("", image)])
    with torch.inference_mode():
        wanted = network.eval()(torch.from_numpy(to_unit(image)[None]))[0, 0].numpy()
    np.testing.assert_array_equal(answer.anomaly_map, wanted)


def test_one_seed_gives_equal_bytes_and_another_other_ones(tmp_path: Path) -> None:
    states = []
    for name, draw_seed in (("a", 5), ("b", 5), ("c", 6)):
        detector = localizer(draw_seed=draw_seed)
        detector.fit(NORMALS, PAIRS)
        states.append(saved(detector, tmp_path / name))
    assert states[0] == states[1]
    assert states[0] != states[2]


def test_arms_of_one_comparison_start_from_equal_weights(tmp_path: Path) -> None:
    assert saved(localizer(draw_seed=1), tmp_path / "a") == saved(localizer(draw_seed=2), tmp_path / "b")
    assert saved(localizer(init_seed=1), tmp_path / "c") != saved(localizer(init_seed=2), tmp_path / "d")


def test_saving_and_loading_changes_no_bit_of_a_prediction(tmp_path: Path) -> None:
    detector = localizer()
    detector.fit(NORMALS, PAIRS)
    detector.save(tmp_path)
    again = localizer(init_seed=7)
    again.load(tmp_path)
    images = [("a", PAIRS[0].image), ("b", PAIRS[1].image[:40]), ("c", NORMALS[0].image[:, :30])]
    both = list(detector.predict(images)), list(again.predict(images))
    assert [p.anomaly_map.shape for p in both[0]] == [(64, 64), (40, 64), (64, 30)]
    for first, second in zip(*both, strict=True):
        assert first.score == second.score
        assert np.array_equal(first.anomaly_map, second.anomaly_map)
    with pytest.raises(BackboneError, match="fitted with channels 4, now it is 8"):
        localizer(channels=8).load(tmp_path)


def test_a_prediction_depends_on_its_image_alone() -> None:
    detector = localizer()
    images = [(item.name, item.image) for item in PAIRS]
    together = {p.id: p for p in detector.predict(images)}
    assert len(together) == 6
    for name, image in reversed(images):
        alone = next(detector.predict([(name, image)]))
        assert alone.score == together[name].score
        assert np.array_equal(alone.anomaly_map, together[name].anomaly_map)


def test_missing_images_end_in_one_sentence() -> None:
    with pytest.raises(DataError, match="learns from pairs and was given none"):
        localizer().fit(NORMALS, ())
    with pytest.raises(DataError, match=r"normal_ratio is 0\.5, but the arm has no normal"):
        localizer().fit((), PAIRS)
    localizer(normal_ratio=0.0, steps=1).fit((), PAIRS)


def test_a_size_that_the_levels_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        UNetLocalizer(
            channels=4,
            size_px=72,
            steps=1,
            batch_size=1,
            lr=1e-3,
            normal_ratio=0.5,
            synthetic_ratio=0.5,
            synthetic_until=1.0,
            augmentation=Augmentation(flip=False, quarter_turns=False, brightness=0.0, contrast=0.0),
            init_seed=0,
            draw_seed=0,
            dtype=torch.float32,
            device=torch.device("cpu"),
            name="x",
        )
