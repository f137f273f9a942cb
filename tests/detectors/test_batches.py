from __future__ import annotations

import numpy as np
import pytest

from anosynth.detectors.batches import Augmentation, Stack, TrainingImages, augment, draw_batch, stack
from anosynth.detectors.protocol import LabelledImage
from anosynth.imaging import to_unit
from anosynth.seeding import numpy_rng

STILL = Augmentation(flip=False, quarter_turns=False, brightness=0.0, contrast=0.0)
MOVING = Augmentation(flip=True, quarter_turns=True, brightness=0.0, contrast=0.0)


def flat(value: int, count: int) -> Stack:
    """Images of one grey value; masks are full where the value is above 100 (pairs)."""
    masks = np.full((count, 8, 8), 255 if value > 100 else 0, np.uint8)
    return Stack(np.full((count, 8, 8, 3), value, np.uint8), masks)


KINDS = TrainingImages(flat(10, 3), flat(20, 5), flat(110, 2), flat(120, 7))
NONE = flat(10, 0)


def drawn(kinds: TrainingImages, *, normal_ratio: float, synthetic_ratio: float, steps: int = 200) -> dict[int, float]:
    """Share of each grey value over many batches of 5."""
    seen: list[int] = []
    for step in range(steps):
        pixels, targets = draw_batch(
            kinds,
            batch_size=5,
            normal_ratio=normal_ratio,
            synthetic_ratio=synthetic_ratio,
            augmentation=STILL,
            rng=numpy_rng(0, step),
        )
        assert pixels.shape == (5, 3, 8, 8)
        assert targets.shape == (5, 1, 8, 8)
        values = np.rint((pixels[:, 0, 0, 0] + 1) * 127.5).astype(int)
        assert np.array_equal(targets[:, 0, 0, 0] == 1, values > 100)
        seen.extend(values.tolist())
    return {value: seen.count(value) / len(seen) for value in sorted(set(seen))}


def test_shares_hold_on_average_though_a_batch_has_few_images() -> None:
    shares = drawn(KINDS, normal_ratio=0.3, synthetic_ratio=0.75)
    wanted = {10: 0.3 * 0.25, 20: 0.3 * 0.75, 110: 0.7 * 0.25, 120: 0.7 * 0.75}
    assert shares == pytest.approx(wanted, abs=0.04)


def test_a_kind_that_is_missing_gives_its_share_to_the_other() -> None:
    only_real = TrainingImages(flat(10, 3), NONE, flat(110, 2), NONE)
    assert drawn(only_real, normal_ratio=0.5, synthetic_ratio=0.9) == pytest.approx({10: 0.5, 110: 0.5}, abs=0.05)
    only_made = TrainingImages(NONE, flat(20, 3), NONE, flat(120, 2))
    assert drawn(only_made, normal_ratio=0.0, synthetic_ratio=0.1) == {120: 1.0}


def test_masks_move_with_their_images() -> None:
    rng = np.random.default_rng(0)
    mask = np.where(rng.random((16, 16)) < 0.3, 255, 0).astype(np.uint8)
    image = np.repeat(mask[:, :, None], 3, axis=2)
    seen = set()
    for step in range(64):
        pixels, moved = augment(image, mask, augmentation=MOVING, rng=numpy_rng(1, step))
        assert np.array_equal(pixels[0] > 0, moved > 0)
        seen.add(moved.tobytes())
    assert len(seen) == 8  # every symmetry of the square


def test_light_changes_keep_values_in_range_and_masks_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    bright = Augmentation(flip=False, quarter_turns=False, brightness=0.5, contrast=0.5)
    changed = 0
    for step in range(20):
        pixels, kept = augment(image, mask, augmentation=bright, rng=numpy_rng(2, step))
        assert np.abs(pixels).max() <= 1.0
        assert kept is mask
        changed += not np.allclose(pixels, to_unit(image))
    assert changed == 20
    assert np.array_equal(augment(image, mask, augmentation=STILL, rng=numpy_rng(2))[0], to_unit(image))


def test_a_stack_never_loses_a_thin_defect() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[57, 30:34] = 255
    stacked = stack([LabelledImage("a", np.zeros((200, 200, 3), np.uint8), mask, synthetic=False)], size_px=16)
    assert set(np.unique(stacked.masks)) == {0, 255}
    assert len(stack([], size_px=16)) == 0
