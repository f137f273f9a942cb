"""The defect-type classifier on rendered parts with three types of defect."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from anosynth.detectors.defect_types import DefectDescriber, LinearClassifier
from anosynth.detectors.protocol import LabelledImage
from anosynth.errors import BackboneError, DataError
from anosynth.features.lite import LiteFeatures
from tests.detectors.planted import planted

CATEGORY, CLASSES = "cast_metal", ("crack", "hole", "scratch")


@cache
def describer() -> DefectDescriber:
    normals = [item.image for item in planted(CATEGORY, None, "fit", 4)]
    return DefectDescriber(LiteFeatures("lite0", size_px=96, levels=(2, 3)), normals, patch_ratio=0.02)


def labelled(part: str, count: int, *, synthetic: bool = False) -> list[LabelledImage]:
    return [
        LabelledImage(f"{part}/{defect}/{at}", item.image, item.mask, synthetic, defect)
        for defect in CLASSES
        for at, item in enumerate(planted(CATEGORY, defect, part, count))
    ]


def classifier(*, views: int = 2, seed: int = 0) -> LinearClassifier:
    rng = np.random.default_rng(seed)
    return LinearClassifier(describer(), CLASSES, l2=0.01, views=views, synthetic_ratio=0.5, rng=rng)


def right_ratio(one: LinearClassifier) -> float:
    test = labelled("test", 8)
    given = list(one.predict_proba((item.name, item.image) for item in test))
    assert len(given) == 24
    assert all(row.sum() == pytest.approx(1.0) for row in given)
    return float(np.mean([CLASSES[int(row.argmax())] == item.defect for row, item in zip(given, test, strict=True)]))


def test_three_shots_of_a_type_tell_unseen_defects_apart() -> None:
    one = classifier()
    one.fit(labelled("fit", 3))
    assert right_ratio(one) >= 0.75


def test_labels_dealt_at_random_teach_nothing() -> None:
    items = labelled("fit", 6)
    order = np.random.default_rng(1).permutation(len(items))
    shuffled = [
        LabelledImage(item.name, item.image, item.mask, False, items[at].defect)
        for item, at in zip(items, order, strict=True)
    ]
    one = classifier(views=1)
    one.fit(shuffled)
    assert right_ratio(one) <= 0.6


def test_a_saved_classifier_answers_alike_and_knows_its_classes(tmp_path: Path) -> None:
    one, other = classifier(), classifier(seed=7)
    one.fit(labelled("fit", 3))
    one.save(tmp_path)
    other.load(tmp_path)
    asked = [(item.name, item.image) for item in labelled("test", 2)]
    np.testing.assert_array_equal(list(one.predict_proba(asked)), list(other.predict_proba(asked)))
    two = LinearClassifier(
        describer(), CLASSES[:2], l2=0.01, views=1, synthetic_ratio=0.5, rng=np.random.default_rng(0)
    )
    with pytest.raises(BackboneError, match="classes"):
        two.load(tmp_path)


def test_a_type_without_images_and_one_type_alone_are_refused() -> None:
    with pytest.raises(DataError, match="no training image shows scratch"):
        classifier().fit([item for item in labelled("fit", 2) if item.defect != "scratch"])
    with pytest.raises(ValueError, match="two classes"):
        LinearClassifier(describer(), ("a",), l2=0.1, views=1, synthetic_ratio=0.5, rng=np.random.default_rng(0))
    with pytest.raises(DataError, match="at least one normal image"):
        DefectDescriber(LiteFeatures("lite0", size_px=64, levels=(2,)), [], patch_ratio=0.02)


def test_the_head_is_the_optimum_of_its_own_loss_with_balanced_shares() -> None:
    real = [item for item in labelled("fit", 3) if item.defect != "hole" or item.name.endswith("0")]
    made = labelled("fit2", 4, synthetic=True)
    one = classifier(views=1)
    one.fit([*real, *made])
    items = [*real, *made]
    x = np.stack([describer().describe(item.name, item.image) for item in items])
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
    y = [CLASSES.index(str(item.defect)) for item in items]
    shares = [
        0.5 / 3 / sum(other.defect == item.defect and other.synthetic == item.synthetic for other in items)
        for item in items
    ]
    assert sum(shares) == pytest.approx(1.0)

    def loss(flat: np.ndarray) -> float:
        weights, bias = flat[:-3].reshape(3, -1), flat[-3:]
        total = 0.005 * float(np.square(weights).sum())
        for row, label, share in zip(x, y, shares, strict=True):
            logits = weights @ row + bias
            total -= share * float(logits[label] - np.log(np.exp(logits - logits.max()).sum()) - logits.max())
        return total

    dims = x.shape[1]
    reached = loss(np.concatenate([one._weights.ravel(), one._bias]))
    start = np.concatenate([one._weights.ravel(), one._bias])
    rng = np.random.default_rng(0)
    nearby = [loss(start + 1e-2 * rng.normal(size=start.size)) for _ in range(20)]
    assert start.size == 3 * dims + 3
    assert reached < min(nearby)
    slope = [(loss(start + 1e-5 * step) - loss(start - 1e-5 * step)) / 2e-5 for step in np.eye(start.size)[::97]]
    assert len(slope) >= 4
    assert np.abs(slope).max() < 1e-3
