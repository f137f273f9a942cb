from __future__ import annotations

import numpy as np
import pytest

from anosynth.detectors.calibration import (
    held_out_views,
    planted_defect,
    separation,
    usual_map,
    usual_score,
)


def test_the_spread_of_a_score_is_between_the_prior_and_what_was_seen() -> None:
    seen = [0.9, 1.0, 1.1, 1.2]
    usual = usual_score(seen)
    squares = sum((value - np.mean(seen)) ** 2 for value in seen) + 4 * (0.15 * np.mean(seen)) ** 2
    assert float(usual.mean) == pytest.approx(np.mean(seen))
    assert float(usual.spread) == pytest.approx((squares / 7) ** 0.5)
    assert float(usual_score([0.8]).spread) == pytest.approx(0.12)  # the prior alone: 15 % of the mean
    assert float(usual_score([0.0]).spread) == pytest.approx(0.01)
    assert float(usual_score([5.0], prior_spread=2.0).spread) == pytest.approx(2.0)
    many = usual_score(list(np.random.default_rng(0).normal(1.0, 0.5, 4000)))
    assert float(many.spread) == pytest.approx(0.5, rel=0.05)


def test_a_place_that_is_never_drawn_well_is_forgiven_more_with_every_reference() -> None:
    spoiled = []
    for count in (1, 4, 16):
        maps = np.full((count, 1, 6, 6), 0.1, np.float32)
        maps[:, :, 2, 3] = 0.5
        usual = usual_map(maps)
        spoiled.append(float(usual.standardized(maps[0])[0, 2, 3]))
        assert usual.mean.shape == (1, 6, 6)
    assert spoiled == sorted(spoiled, reverse=True)
    assert spoiled[-1] < 0.6 * spoiled[0]


def test_the_mean_of_a_place_is_pulled_towards_its_level() -> None:
    maps = np.random.default_rng(0).random((3, 2, 4, 5)).astype(np.float32)
    usual = usual_map(maps)
    wanted = (maps[:, 1, 2, 3].sum() + 4 * maps[:, 1].mean()) / 7
    assert usual.mean[1, 2, 3] == pytest.approx(wanted, rel=1e-5)


def test_views_of_one_reference_are_four_shifts_of_it() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    views = held_out_views(image)
    assert len(views) == 4
    assert len({view.tobytes() for view in views}) == 4
    assert np.array_equal(views[0][2:, 3:], image[:-2, :-3])
    assert np.array_equal(views[3][:-2, :-3], image[2:, 3:])


def test_a_planted_defect_changes_its_place_and_nothing_else() -> None:
    image = np.random.default_rng(0).integers(90, 160, (40, 60, 3), dtype=np.uint8)
    changed = []
    for seed in range(5):
        spoiled, where = planted_defect(image, seed=seed)
        assert np.array_equal(spoiled[~where], image[~where])
        assert 0 < where.mean() < 0.1
        changed.append(float(np.abs(spoiled[where].astype(int) - image[where]).mean()))
        assert np.array_equal(spoiled, planted_defect(image, seed=seed)[0])
    assert min(changed) > 15


def test_separation_is_the_share_of_pairs_in_order() -> None:
    values = np.array([0.1, 0.4, 0.4, 0.9, 0.2])
    where = np.array([False, True, False, True, False])
    pairs = [(values[i], values[o]) for i in (1, 3) for o in (0, 2, 4)]
    wanted = np.mean([1.0 if i > o else 0.5 if i == o else 0.0 for i, o in pairs])
    assert separation(values, where) == pytest.approx(wanted)
