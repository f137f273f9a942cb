"""Views of a normal shot: only what the category allows, by seed alone."""

import numpy as np
import pytest

from anosynth.diffusion.views import NormalViews, normal_views, views_of
from anosynth.params import ObjectParams


def picture() -> np.ndarray:
    rows, columns = np.mgrid[:48, :64]
    return np.stack([4 * rows, 3 * columns, rows + columns], axis=2).astype(np.uint8)


def test_by_default_there_is_the_shot_alone_and_its_mirror_image_where_it_is_normal() -> None:
    assert [view.tolist() for view in views_of(picture(), NormalViews(), num_views=1, seed=0)] == [picture().tolist()]
    both = views_of(picture(), NormalViews(mirror=True), num_views=1, seed=0)
    assert len(both) == 2
    assert np.array_equal(both[0], picture())
    assert np.array_equal(both[1], picture()[:, ::-1])


def test_where_nothing_is_allowed_every_view_is_the_shot() -> None:
    for view in views_of(picture(), NormalViews(), num_views=3, seed=0):
        assert np.array_equal(view, picture())


def test_views_are_many_for_each_orientation_and_follow_the_seed() -> None:
    allowed = NormalViews(mirror=True, max_turn_deg=10.0, max_shift_ratio=0.1, max_light_ratio=0.2)
    first = views_of(picture(), allowed, num_views=4, seed=1)
    assert len(first) == 8
    assert len({view.tobytes() for view in first}) == 8
    assert all(
        np.array_equal(one, other)
        for one, other in zip(first, views_of(picture(), allowed, num_views=4, seed=1), strict=True)
    )
    assert not np.array_equal(first[2], views_of(picture(), allowed, num_views=4, seed=2)[2])
    fewer = views_of(picture(), allowed, num_views=2, seed=1)
    assert all(np.array_equal(one, other) for one, other in zip(fewer, first[:4], strict=True))


def test_a_shift_moves_the_picture_and_mirrors_it_at_the_border() -> None:
    """A ramp 3 x: shifted by s it is 3 (x + s), and s is the same in every row."""
    allowed = NormalViews(max_shift_ratio=0.1)
    for view in views_of(picture(), allowed, num_views=20, seed=3)[1:]:
        inner = view[8:-8, 8:-8, 1].astype(float) - picture()[8:-8, 8:-8, 1]
        assert inner.max() - inner.min() <= 1.0
        assert abs(inner.mean()) <= 3 * 6.4 + 0.5
        seen = np.arange(64) + inner.mean() / 3
        seen = np.clip(np.where(seen > 63.5, 127 - seen, np.where(seen < -0.5, -1 - seen, seen)), 0, 63)
        assert np.abs(view[24, :, 1] - 3 * seen).max() <= 1.0
    assert max(abs(float(v[24, 32, 1]) - 96) for v in views_of(picture(), allowed, num_views=20, seed=3)) > 6.0


def test_a_turn_is_about_the_centre_and_no_wider_than_allowed() -> None:
    disc = np.zeros((65, 65, 3), np.uint8)
    disc[32, 52] = 255
    for view in views_of(disc, NormalViews(max_turn_deg=30.0), num_views=20, seed=0)[1:]:
        weight = view[:, :, 0].astype(float)
        rows, columns = np.mgrid[:65, :65] - 32
        down, right = (weight * rows).sum() / weight.sum(), (weight * columns).sum() / weight.sum()
        assert np.hypot(down, right) == pytest.approx(20.0, abs=0.5)
        assert abs(np.rad2deg(np.arctan2(down, right))) <= 30.5


def test_light_is_one_factor_for_the_whole_picture() -> None:
    grey = np.full((16, 16, 3), 100, np.uint8)
    levels = {int(view[0, 0, 0]) for view in views_of(grey, NormalViews(max_light_ratio=0.2), num_views=30, seed=0)}
    assert min(levels) >= 80
    assert max(levels) <= 120
    assert max(levels) - min(levels) > 20
    for view in views_of(grey, NormalViews(max_light_ratio=0.2), num_views=5, seed=0):
        assert len(np.unique(view)) == 1


def test_params_say_what_is_allowed() -> None:
    params = ObjectParams(name="x", mirror=True, normal_turn_deg=5.0, normal_shift_ratio=0.05, normal_light_ratio=0.1)
    assert normal_views(params) == NormalViews(True, 5.0, 0.05, 0.1)
    assert normal_views(ObjectParams(name="x")) == NormalViews()
