from __future__ import annotations

import numpy as np
import pytest

from anosynth.metrics.detection import PixelHistogram
from anosynth.metrics.thresholds import best_pixel, best_score, images_at, pixels_at


def f1(threshold: float, scores: np.ndarray, anomalous: np.ndarray) -> float:
    flagged = scores >= threshold
    return 2 * (flagged & anomalous).sum() / (flagged.sum() + anomalous.sum())


def test_the_chosen_score_has_the_greatest_f1_of_all_thresholds() -> None:
    checked = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        anomalous = rng.random(25) < 0.4
        scores = np.round(rng.normal(size=25) + anomalous, 1)
        if not anomalous.any():
            continue
        chosen = best_score(scores, anomalous)
        assert chosen is not None
        best = max(f1(score, scores, anomalous) for score in scores)
        found = images_at(chosen, scores, anomalous)
        assert found.f1 == pytest.approx(best)
        assert chosen == max(score for score in scores if f1(score, scores, anomalous) == best)
        flagged = scores >= chosen
        assert found.precision == pytest.approx(anomalous[flagged].mean())
        assert found.recall == pytest.approx(flagged[anomalous].mean())
        checked += 1
    assert checked >= 29


def test_the_chosen_pixel_threshold_is_an_edge_that_flags_what_it_says() -> None:
    rng = np.random.default_rng(5)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:20, 10:25] = 255
    anomaly_map = (rng.normal(size=mask.shape) - 1.0 + 2 * (mask > 0)).astype(np.float16).astype(np.float32)
    histogram = PixelHistogram(bits=20)
    histogram.update(anomaly_map, mask)
    chosen = best_pixel(histogram)
    assert chosen is not None
    assert chosen in anomaly_map  # float16 values are exact at 20 bits
    found = pixels_at(chosen, histogram)
    scores, anomalous = anomaly_map.ravel(), mask.ravel() > 0
    assert found.f1 == pytest.approx(max(f1(value, scores, anomalous) for value in np.unique(scores)))
    assert found.f1 == pytest.approx(f1(chosen, scores, anomalous))
    assert found.recall == pytest.approx((scores >= chosen)[anomalous].mean())


@pytest.mark.parametrize("value", [-3.5, -0.0, 0.0, 2.0**-40, 1.0, 513.25])
def test_the_lower_edge_of_a_bin_is_its_least_value(value: float) -> None:
    histogram = PixelHistogram(bits=20)
    histogram.update(np.full((1, 1), value, np.float32), np.zeros((1, 1), np.uint8))
    edge = histogram.lower_edge(int(histogram.used()[0][0]))
    assert edge <= value
    assert value - edge <= abs(value) * 2**-10
    below = float(np.nextafter(np.float32(edge), np.float32(-np.inf)))
    assert histogram.flagged_from(edge) == (0, 1, 0)
    assert histogram.flagged_from(edge + abs(edge) * 0.01 + 1e-30) == (0, 0, 0)
    assert below < edge


def test_a_threshold_needs_anomalies_to_choose_it_and_says_what_it_cannot_say() -> None:
    scores, normal = np.array([0.1, 0.2]), np.zeros(2, np.bool_)
    assert best_score(scores, normal) is None
    histogram = PixelHistogram(bits=12)
    histogram.update(np.ones((2, 2), np.float32), np.zeros((2, 2), np.uint8))
    assert best_pixel(histogram) is None
    found = images_at(0.15, scores, normal)
    assert (found.f1, found.precision, found.recall) == (None, 0.0, None)
    nothing = images_at(0.9, scores, np.array([True, False]))
    assert (nothing.f1, nothing.precision, nothing.recall) == (0.0, None, 0.0)
