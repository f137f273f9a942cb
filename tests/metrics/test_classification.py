"""Accuracy and macro-F1 against loops over the images."""

import math

import numpy as np
import pytest

from anosynth.metrics.classification import accuracy, class_f1, confusion, macro_f1


def naive_macro_f1(true: list[int], predicted: list[int]) -> float:
    scores = []
    for one in sorted({*true, *predicted}):
        hits = sum(t == p == one for t, p in zip(true, predicted, strict=True))
        false_alarms = sum(p == one != t for t, p in zip(true, predicted, strict=True))
        misses = sum(t == one != p for t, p in zip(true, predicted, strict=True))
        precision = hits / (hits + false_alarms) if hits + false_alarms else 0.0
        recall = hits / (hits + misses) if hits + misses else 0.0
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return sum(scores) / len(scores)


def test_accuracy_and_macro_f1_equal_the_loops() -> None:
    rng = np.random.default_rng(0)
    checked = 0
    for _ in range(200):
        count = int(rng.integers(1, 12))
        true, predicted = rng.integers(0, 4, count), rng.integers(0, 4, count)
        counts = confusion(true, predicted, num_classes=4)
        assert float(accuracy(counts)) == pytest.approx(float(np.mean(true == predicted)))
        assert float(macro_f1(counts)) == pytest.approx(naive_macro_f1(true.tolist(), predicted.tolist()))
        checked += 1
    assert checked == 200


def test_the_rows_are_the_truth_and_leading_axes_are_kept() -> None:
    counts = confusion(np.array([0, 0, 1]), np.array([1, 0, 1]), num_classes=3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    many = np.stack([[counts, 2 * counts], [np.eye(3, dtype=np.int64), counts]])
    assert accuracy(many).tolist() == pytest.approx(np.array([[2 / 3, 2 / 3], [1.0, 2 / 3]]))
    assert macro_f1(many).shape == (2, 2)
    assert math.isnan(class_f1(counts)[2])


def test_no_images_are_undefined_and_unknown_classes_are_refused() -> None:
    nothing = np.zeros((2, 2), np.int64)
    assert math.isnan(float(accuracy(nothing)))
    assert math.isnan(float(macro_f1(nothing)))
    with pytest.raises(ValueError, match=r"\[0, 2\), got 0 to 2"):
        confusion(np.array([0, 2]), np.array([0, 1]), num_classes=2)
    with pytest.raises(ValueError, match="2 true and 1 predicted"):
        confusion(np.array([0, 1]), np.array([0]), num_classes=2)
