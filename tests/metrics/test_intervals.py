from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from anosynth.metrics.detection import image_metrics, pixel_metrics
from anosynth.metrics.evaluation import IMAGE_METRICS, METRICS
from anosynth.metrics.intervals import difference_bounds, level_bounds
from anosynth.metrics.left_out import LeftOut


def test_the_difference_of_means_gets_the_paired_t_interval_of_equal_groups() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 9))
    left = [np.array([[np.delete(arm, at).mean() for at in range(9)]]) for arm in (one, two)]
    found = difference_bounds((one.mean(keepdims=True), two.mean(keepdims=True)), (left[0], left[1]), confidence=0.9)
    differences = one - two
    residuals = differences - differences.mean()
    df = math.sqrt(8 * (residuals**2).sum() ** 2 / (residuals**4).sum())
    half = stats.t.ppf(0.95, df) * differences.std(ddof=1) / 3
    assert found.value == pytest.approx(differences.mean())
    assert (found.low, found.high) == pytest.approx((differences.mean() - half, differences.mean() + half))
    assert found.df == pytest.approx(df)
    assert 1.0 <= float(found.df) <= 9.0


def test_a_level_gets_a_t_interval_on_the_logit_scale_that_stays_inside_zero_and_one() -> None:
    full = np.array([0.97])
    left = np.array([[0.99, 0.96, 0.965, 0.97, 0.93]])
    found = level_bounds(full, left, confidence=0.95)
    z, z_left = (np.log(value / (1 - value)) for value in (full, left))
    pseudo = (5 * z[:, None] - 4 * z_left)[0]
    half = stats.t.ppf(0.975, 4) * pseudo.std(ddof=1) / math.sqrt(5)
    wanted = [1 / (1 + math.exp(-(z[0] + sign * half))) for sign in (-1, 1)]
    assert [float(found.low), float(found.high)] == pytest.approx(wanted)
    assert 0.0 < found.low < 0.97 < found.high < 1.0


def test_seeds_that_disagree_widen_the_interval_and_seeds_that_agree_do_not() -> None:
    rng = np.random.default_rng(1)
    groups = rng.normal(size=12)
    zeros = np.zeros((3, 12))

    def width(luck: list[float]) -> float:
        values = groups[None] + np.array(luck)[:, None]
        left = np.stack([(values.sum(1) - values[:, at]) / 11 for at in range(12)], axis=1)
        found = difference_bounds((values.mean(1), zeros[:, 0]), (left, zeros), confidence=0.95)
        return float(found.high - found.low)

    agreeing, disagreeing = width([0.0, 0.0, 0.0]), width([-1.0, 0.0, 1.0])
    residuals = groups - groups.mean()
    df = math.sqrt(11 * (residuals**2).sum() ** 2 / (residuals**4).sum())
    assert agreeing == pytest.approx(2 * stats.t.ppf(0.975, df) * groups.std(ddof=1) / math.sqrt(12))
    variance = groups.var(ddof=1) / 12 + 1.0 / 3
    satterthwaite = variance**2 / ((groups.var(ddof=1) / 12) ** 2 / df + (1 / 3) ** 2 / 2)
    assert disagreeing == pytest.approx(2 * stats.t.ppf(0.975, satterthwaite) * math.sqrt(variance))


def test_what_does_not_vary_or_is_undefined_has_no_interval() -> None:
    perfect = level_bounds(np.ones(2), np.ones((2, 6)), confidence=0.95)
    assert (float(perfect.value), math.isnan(perfect.low), math.isnan(perfect.high)) == (1.0, True, True)
    single = level_bounds(np.array([0.5]), np.array([[0.5]]), confidence=0.95)
    assert math.isnan(single.low)
    undefined = level_bounds(np.array([0.5]), np.array([[0.4, np.nan, 0.6]]), confidence=0.95)
    assert math.isnan(undefined.low)
    same = difference_bounds((np.ones(1), np.ones(1)), (np.ones((1, 4)), np.ones((1, 4))), confidence=0.95)
    assert (float(same.value), math.isnan(same.low)) == (0.0, True)


def test_wrong_shapes_and_confidences_are_refused() -> None:
    with pytest.raises(ValueError, match="do not match"):
        level_bounds(np.ones(2), np.ones((3, 6)), confidence=0.95)
    with pytest.raises(ValueError, match="confidence is 95"):
        level_bounds(np.array([0.5]), np.array([[0.4, 0.5, 0.6]]), confidence=95)


def answers() -> list[tuple[str, str, float, bool, np.ndarray, np.ndarray]]:
    """(group, name, score, label, map, mask) of 10 images in 4 groups."""
    rng = np.random.default_rng(3)
    found = []
    for at in range(10):
        mask = np.zeros((9, 11), np.uint8)
        if at % 2:
            mask[2:5, at % 4 : at % 4 + 4] = 255
        anomaly_map = np.rint(rng.normal(size=mask.shape) * 4 + 3 * (mask > 0)).astype(np.float32)
        score = float(anomaly_map.max())
        found.append((f"position {at // 3}", f"image {at}", score, bool(at % 2), anomaly_map, mask))
    return found


@pytest.mark.parametrize("unit", ["group", "image"])
def test_values_without_a_unit_are_the_metrics_of_the_rest(unit: str) -> None:
    everything, gathered = answers(), LeftOut()
    for group, name, score, anomalous, anomaly_map, mask in everything:
        gathered.add(group=group, name=name, score=score, anomalous=anomalous, anomaly_map=anomaly_map, mask=mask)
    place = 0 if unit == "group" else 1
    names = gathered.names(unit)  # type: ignore[arg-type]
    assert names == tuple(sorted({one[place] for one in everything}))
    found = gathered.values(unit, max_fpr=0.3)  # type: ignore[arg-type]
    assert tuple(found) == METRICS
    for at, name in enumerate(names):
        rest = [one for one in everything if one[place] != name]
        images = image_metrics(np.array([one[2] for one in rest]), np.array([one[3] for one in rest]))
        pixels = pixel_metrics([one[4] for one in rest], [one[5] for one in rest], max_fpr=0.3)
        wanted = (images.auroc, images.ap, images.f1_max, pixels.auroc, pixels.ap, pixels.f1_max, pixels.aupro)
        assert tuple(found[metric][at] for metric in METRICS) == pytest.approx(wanted, abs=1e-12, nan_ok=True)
    assert len(names) == (4 if unit == "group" else 10)


def test_one_image_without_a_mask_leaves_pixel_metrics_undefined() -> None:
    gathered = LeftOut()
    for group, name, score, anomalous, anomaly_map, mask in answers():
        known = None if name == "image 1" else mask
        gathered.add(group=group, name=name, score=score, anomalous=anomalous, anomaly_map=anomaly_map, mask=known)
    found = gathered.values("group", max_fpr=0.3)
    for metric in METRICS:
        assert np.isnan(found[metric]).any() == (metric not in IMAGE_METRICS)
