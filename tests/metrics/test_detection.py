"""Every metric against the naivest loop that gives the right answer, and the histogram against its own bounds."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from anosynth.metrics.detection import PixelHistogram, image_metrics, pixel_metrics
from anosynth.metrics.regions import REGION_WEIGHT, region_weights


def naive_auroc(scores, labels):
    wins = [
        (1.0 if p > n else 0.5 if p == n else 0.0)
        for p, is_p in zip(scores, labels, strict=True)
        if is_p
        for n, is_n in zip(scores, labels, strict=True)
        if not is_n
    ]
    return sum(wins) / len(wins) if wins else math.nan


def naive_points(scores, labels):
    """(TP, FP) at every distinct threshold, from the highest."""
    points = []
    for threshold in sorted(set(scores), reverse=True):
        flagged = [bool(label) for score, label in zip(scores, labels, strict=True) if score >= threshold]
        points.append((sum(flagged), len(flagged) - sum(flagged)))
    return points


def naive_ap(scores, labels):
    total, area, recall_before = sum(map(bool, labels)), 0.0, 0.0
    if not total:
        return math.nan
    for tp, fp in naive_points(scores, labels):
        area += (tp / total - recall_before) * tp / (tp + fp)
        recall_before = tp / total
    return area


def naive_f1_max(scores, labels):
    total = sum(map(bool, labels))
    return (
        max((2 * tp / (tp + fp + total) for tp, fp in naive_points(scores, labels)), default=0.0) if total else math.nan
    )


def naive_regions(mask):
    """8-connected regions by flood fill, as lists of (row, column)."""
    left = {(int(r), int(c)) for r, c in np.argwhere(mask)}
    regions = []
    while left:
        region, frontier = [], [left.pop()]
        while frontier:
            r, c = frontier.pop()
            region.append((r, c))
            near = {(r + dr, c + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)} & left
            left -= near
            frontier.extend(near)
        regions.append(region)
    return regions


def naive_aupro(maps, masks, max_fpr):
    regions = [(m, region) for m, mask in zip(maps, masks, strict=True) for region in naive_regions(mask)]
    background = [float(v) for m, mask in zip(maps, masks, strict=True) for v in m[mask == 0]]
    if not regions or not background:
        return math.nan
    curve = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
        overlaps = [sum(float(m[at]) >= threshold for at in region) / len(region) for m, region in regions]
        curve.append((sum(v >= threshold for v in background) / len(background), sum(overlaps) / len(overlaps)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x0 >= max_fpr:
            break
        if x1 > max_fpr:
            x1, y1 = max_fpr, y0 + (y1 - y0) * (max_fpr - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / max_fpr


def naive_pixels(maps, masks, max_fpr):
    scores = [float(v) for m in maps for v in m.ravel()]
    labels = [bool(v) for mask in masks for v in mask.ravel()]
    return (
        naive_auroc(scores, labels),
        naive_ap(scores, labels),
        naive_f1_max(scores, labels),
        naive_aupro(maps, masks, max_fpr),
    )


def images(seed, *, count=4, size=(9, 11), levels=None):
    """Small maps with blob masks; `levels` rounds the scores so that there are ties."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for at in range(count):
        mask = np.zeros(size, np.uint8)
        if at % 2:
            for _ in range(3):
                r, c = rng.integers(0, size[0] - 2), rng.integers(0, size[1] - 3)
                mask[r : r + 2, c : c + int(rng.integers(1, 4))] = 255
        scores = rng.normal(size=size) + 1.2 * (mask > 0)
        maps.append((np.round(scores * levels) / levels if levels else scores).astype(np.float32))
        masks.append(mask)
    return maps, masks


def histogram(maps, masks, *, bits=20):
    state = PixelHistogram(bits=bits)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        state.update(anomaly_map, mask)
    return state


SCORES = st.lists(st.tuples(st.sampled_from([-1.5, -0.0, 0.0, 0.25, 1.0, 3.0]), st.booleans()), min_size=1, max_size=25)


@given(SCORES)
@settings(max_examples=200)
def test_image_metrics_equal_the_naive_loops_with_ties(rows):
    scores, labels = np.array([score for score, _ in rows]), np.array([label for _, label in rows])
    found = astuple(image_metrics(scores, labels))
    wanted = (naive_auroc(scores, labels), naive_ap(scores, labels), naive_f1_max(scores, labels))
    assert found == pytest.approx(wanted, abs=1e-12, nan_ok=True)


def test_hand_computed_image_metrics():
    found = image_metrics(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False]))
    assert found.auroc == 0.75
    assert found.ap == pytest.approx((1 + 2 / 3) / 2)
    assert found.f1_max == pytest.approx(0.8)


def test_constant_scores_are_chance_and_a_missing_class_is_nan():
    constant = image_metrics(np.ones(10), np.arange(10) < 3)
    assert (constant.auroc, constant.ap) == (0.5, 0.3)
    assert math.isnan(image_metrics(np.ones(3), np.ones(3, bool)).auroc)
    assert math.isnan(image_metrics(np.ones(3), np.zeros(3, bool)).ap)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        image_metrics(np.array([0.0, np.nan]), np.array([True, False]))
    bad = np.zeros((4, 4), np.float32)
    bad[0, 0] = np.inf
    with pytest.raises(ValueError, match="finite"):
        PixelHistogram().update(bad, np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="one size"):
        PixelHistogram().update(np.zeros((4, 4), np.float32), np.zeros((4, 5), np.uint8))


@pytest.mark.parametrize("levels", [None, 3, 1])
@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 1.0])
def test_exact_pixel_metrics_equal_the_naive_loops(levels, max_fpr):
    maps, masks = images(7, levels=levels)
    found = astuple(pixel_metrics(maps, masks, max_fpr=max_fpr))
    assert found == pytest.approx(naive_pixels(maps, masks, max_fpr), abs=1e-9)


@given(
    hnp.arrays(np.float32, (5, 6), elements=st.sampled_from([-2.0, -0.0, 0.0, 1e-30, 0.5, 7.0])),
    hnp.arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 255])),
    st.sampled_from([0.1, 0.3, 1.0]),
)
@settings(max_examples=100)
def test_exact_and_streamed_metrics_equal_the_naive_loops_on_any_mask(anomaly_map, mask, max_fpr):
    wanted = naive_pixels([anomaly_map], [mask], max_fpr)
    assert astuple(pixel_metrics([anomaly_map], [mask], max_fpr=max_fpr)) == pytest.approx(
        wanted, abs=1e-9, nan_ok=True
    )
    streamed = histogram([anomaly_map], [mask])  # these scores lie in bins of their own
    assert astuple(streamed.result(max_fpr=max_fpr)) == pytest.approx(wanted, abs=1e-9, nan_ok=True)


def test_a_perfect_map_has_1_and_a_constant_map_is_chance():
    _, masks = images(3)
    perfect = histogram([(mask > 0).astype(np.float32) for mask in masks], masks).result()
    assert astuple(perfect) == (1.0, 1.0, 1.0, 1.0)
    constant = histogram([np.full(mask.shape, 0.7, np.float32) for mask in masks], masks).result(max_fpr=0.3)
    share = np.mean([mask > 0 for mask in masks])
    assert constant.auroc == 0.5
    assert constant.ap == pytest.approx(share)
    assert constant.aupro == pytest.approx(0.15)  # the diagonal up to 0.3, divided by 0.3


@pytest.mark.parametrize("bits", [10, 12, 16, 20])
def test_the_streamed_result_is_within_its_stated_bounds(bits):
    checked = 0
    for seed in range(8):
        maps, masks = images(seed, count=6, size=(16, 16))
        exact = astuple(pixel_metrics(maps, masks, max_fpr=0.3))
        state = histogram(maps, masks, bits=bits)
        for found, wanted, bound in zip(
            astuple(state.result(max_fpr=0.3)), exact, astuple(state.error_bounds(max_fpr=0.3)), strict=True
        ):
            assert abs(found - wanted) <= bound + 1e-12
            checked += 1
    assert checked == 32


def test_bounds_shrink_with_bits_and_vanish_for_half_precision_maps():
    maps, masks = images(5, count=6, size=(24, 24))
    coarse, fine = (astuple(histogram(maps, masks, bits=bits).error_bounds()) for bits in (12, 20))
    assert all(f < c / 20 for f, c in zip(fine, coarse, strict=True))
    half = [m.astype(np.float16).astype(np.float32) for m in maps]
    assert astuple(histogram(half, masks, bits=19).result()) == pytest.approx(
        astuple(pixel_metrics(half, masks)), abs=1e-12
    )


def test_bins_keep_the_order_of_floats_of_both_signs_and_one_zero():
    values = np.array([-3e38, -1.0, -1e-3, -1e-40, -0.0, 0.0, 1e-40, 1e-3, 1.0, 3e38], np.float32)
    bins = PixelHistogram(bits=20)._bins(values)
    assert (np.diff(bins) >= 0).all()
    assert bins[4] == bins[5]
    assert len(set(bins.tolist())) >= 7


def test_merging_is_associative_and_order_never_matters_to_the_last_bit():
    maps, masks = images(11, count=7, size=(20, 20))
    whole = histogram(maps, masks)
    parts = [histogram(maps[a:b], masks[a:b]) for a, b in ((0, 2), (2, 3), (3, 7))]
    left, right = PixelHistogram(), PixelHistogram()
    for part in parts:
        left.merge(part)
    tail = histogram(maps[3:], masks[3:])
    tail.merge(parts[1])
    right.merge(tail)
    right.merge(parts[0])
    shuffled = histogram(maps[::-1], masks[::-1])
    for other in (left, right, shuffled):
        assert other.result() == whole.result()
        assert (other.num_images, other.num_regions) == (whole.num_images, whole.num_regions)
    with pytest.raises(ValueError, match="merged"):
        left.merge(PixelHistogram(bits=16))


def test_regions_touch_at_corners_and_share_one_weight_each():
    mask = np.zeros((6, 8), np.uint8)
    mask[1, 1] = mask[2, 2] = 255  # one region, by its corner
    mask[4:6, 5:8] = 255
    foreground, weights, num_regions = region_weights(mask)
    assert num_regions == 2
    assert foreground.tolist() == np.flatnonzero(mask).tolist()
    assert weights.tolist() == [REGION_WEIGHT // 2] * 2 + [(REGION_WEIGHT + 3) // 6] * 6


def test_the_precision_recall_points_lie_on_the_curve():
    maps, masks = images(2, count=6, size=(16, 16), levels=5)
    scores, labels = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() > 0 for m in masks])
    curve = {(tp / labels.sum(), tp / (tp + fp)) for tp, fp in naive_points(scores.tolist(), labels.tolist())}
    recall, precision = histogram(maps, masks).precision_recall(points=12)
    assert 5 <= recall.size <= 12
    assert recall[-1] == 1.0
    assert (np.diff(recall) > 0).all()
    assert {(float(r), float(p)) for r, p in zip(recall, precision, strict=True)} <= curve
    assert PixelHistogram().precision_recall(points=5)[0].size == 0


def test_memory_stays_below_32_mb_beyond_the_inputs():
    rng = np.random.default_rng(0)
    anomaly_map = rng.normal(size=(512, 512)).astype(np.float32)
    mask = np.zeros((512, 512), np.uint8)
    mask[100:200, 50:300] = 255
    tracemalloc.start()
    state = PixelHistogram(bits=20)
    for _ in range(5):
        state.update(anomaly_map, mask)
    state.result()
    state.error_bounds()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert state.num_images == 5
    assert peak < 32e6


def test_peak_memory_does_not_grow_with_the_number_of_pixels_seen():
    rng = np.random.default_rng(1)
    anomaly_map = rng.normal(size=(512, 512)).astype(np.float32)
    mask = np.zeros((512, 512), np.uint8)
    mask[100:200, 50:300] = 255
    peaks = []
    for count in (2, 40):
        tracemalloc.start()
        state = PixelHistogram(bits=20)
        for _ in range(count):
            state.update(anomaly_map, mask)
        state.result()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 32e6
    assert peaks[1] <= peaks[0] + 1e5
