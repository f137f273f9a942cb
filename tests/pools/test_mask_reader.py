"""Masks read by a network that is learned on shots, against renders whose masks are exact."""

import numpy as np
import pytest
from scipy import ndimage

from anosynth.errors import BackboneError
from anosynth.pools import mask_reader
from anosynth.pools.dual_fit import mask_rule
from anosynth.pools.dual_terms import DualTerms, terms_from_json
from anosynth.pools.masks import MaskRule, calibrate, iou, key_difference, learn_rule, neutral_part, part_mask
from anosynth.pools.real import RealPair
from anosynth.sources.procedural import render

KEY = (32, 32, 32)


def softened(part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What an autoencoder of factor 8 does to a part: a wider, fainter line with a halo, and noise."""
    values = part.astype(float)
    soft = ndimage.gaussian_filter(values, (1.3, 1.3, 0)) * 1.5 - ndimage.gaussian_filter(values, (2.6, 2.6, 0)) * 0.5
    return np.clip(np.rint(soft + rng.normal(0, 2, part.shape)), 0, 255).astype(np.uint8)


def scratches(count: int, first: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    made = [render("washer", defect="scratch", seed=first + at, size_px=128) for at in range(count)]
    rng = np.random.default_rng(first)
    return [softened(neutral_part(one.image, one.mask, key=KEY), rng) for one in made], [one.mask for one in made]


def test_thin_scratches_are_read_better_than_by_thresholds_on_renders_that_neither_saw() -> None:
    parts, masks = scratches(5, 0)
    plain, learned = calibrate(parts, masks, key=KEY), learn_rule(parts, masks, key=KEY, seed=1)
    assert learned.reader
    assert learned.fit > plain.fit
    others, wanted = scratches(5, 100)
    by_threshold, by_reader = (
        np.mean([iou(part_mask(part, rule), mask) for part, mask in zip(others, wanted, strict=True)])
        for rule in (plain, learned)
    )
    assert by_reader > by_threshold + 0.03
    assert learned.fit == pytest.approx(by_reader, abs=0.1)


def test_where_thresholds_are_exact_no_reader_is_kept() -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, 10:30] = 255  # a band: the thresholds' median filter rounds corners
    part = np.where(mask[:, :, None] > 0, np.uint8(220), np.uint8(32)) * np.ones(3, np.uint8)
    rule = learn_rule([part, part.copy()], [mask, mask], key=KEY, seed=0)
    assert rule == calibrate([part, part], [mask, mask], key=KEY)
    assert (rule.fit, rule.reader) == (1.0, "")


def test_reading_follows_the_pixels_around_and_the_seed_alone() -> None:
    parts, masks = scratches(2, 0)
    differences = [key_difference(part, key=KEY) for part in parts]
    weights = mask_reader.learn(differences, masks, seed=3)
    assert np.array_equal(weights, mask_reader.learn(differences, masks, seed=3))
    assert not np.array_equal(weights, mask_reader.learn(differences, masks, seed=4))
    whole = mask_reader.read(differences[0], weights)
    assert whole.shape == (128, 128)
    assert 0.0 <= whole.min() <= whole.max() <= 1.0
    window = mask_reader.read(differences[0][30:90, 40:110], weights)
    assert np.allclose(window[4:-4, 4:-4], whole[34:86, 44:106], atol=1e-5)


def test_a_reader_survives_the_adapters_file_and_a_damaged_one_is_named() -> None:
    parts, masks = scratches(2, 0)
    weights = mask_reader.learn([key_difference(part, key=KEY) for part in parts], masks, seed=3)
    text = mask_reader.to_text(weights)
    assert np.array_equal(mask_reader.from_text(text), weights)
    rule = MaskRule(KEY, 150.0, 100.0, 0.0, 0.8, reader=text)
    terms = DualTerms(
        {"scratch": ("a", "b")}, {"scratch": ("0" * 64,)}, "CC0-1.0", {"scratch": rule}, 128, False, 180.0
    )
    assert terms_from_json(terms.to_json()) == terms
    broken = terms.to_json()
    broken["rules"]["scratch"]["reader"] = text[: len(text) // 2]  # type: ignore[index]
    with pytest.raises(BackboneError, match="run personalize_pairs again"):
        terms_from_json(broken)


def test_a_rule_of_thresholds_alone_can_be_asked_for() -> None:
    parts, masks = scratches(3, 0)
    pairs = [RealPair(part, mask, f"{at}", "CC0-1.0") for at, (part, mask) in enumerate(zip(parts, masks, strict=True))]
    rng = np.random.default_rng(0)
    rules = [
        mask_rule(pairs, key="grey", reading=reading, see=lambda some: [softened(one, rng) for one in some], seed=0)
        for reading in ("threshold", "learned")
    ]
    assert [bool(rule.reader) for rule in rules] == [False, True]
