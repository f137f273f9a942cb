from __future__ import annotations

import numpy as np
import pytest

from anosynth.detectors.protocol import LabelledImage
from anosynth.detectors.winclip import WinClip, spread_harmonically, window_means
from anosynth.errors import BackboneError, DataError, ParamsError
from anosynth.features.aligned import class_prototypes
from anosynth.features.aligned_lite import LiteAligned
from tests.detectors.planted import judge, planted
from tests.detectors.tiny_aligned import GRID, TinyAligned


def winclip(features: TinyAligned | LiteAligned, **changes: object) -> WinClip:
    values = {"name": "casting", "windows": (2, 3), "max_rows": 4096, "text_weight": 0.5, "synthetic_weight": 1.0}
    return WinClip(features, **{**values, "seed": 0, **changes})  # type: ignore[arg-type]


def fitted(**changes: object) -> WinClip:
    detector = winclip(TinyAligned(), **changes)
    detector.fit(planted("cast_metal", None, "train", 3), ())
    return detector


def test_it_finds_planted_defects_that_it_never_saw() -> None:
    detector = winclip(LiteAligned("lite0", size_px=128, levels=(2, 3)), max_rows=256)
    detector.fit(planted("cast_metal", None, "train", 6), ())
    verdict = judge(detector, "cast_metal", "hole", count=4)
    assert verdict.image_auroc > 0.85  # chance is 0.5
    assert verdict.pixel_auroc > 0.85


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def test_score_and_grid_are_those_of_loops_over_windows() -> None:
    tiny, normals = TinyAligned(), planted("cast_metal", None, "train", 3)
    detector = fitted(text_weight=0.3)
    query = planted("cast_metal", "hole", "test", 1)[0].image
    levels = tiny.patch_levels([one.image for one in (*normals, LabelledImage("q", query, None, synthetic=False))])
    prototypes = class_prototypes(tiny, "casting")

    def chance(vector: np.ndarray) -> float:
        logits = np.exp(tiny.temperature * (prototypes.astype(np.float64) @ vector))
        return float(logits[1] / logits.sum())

    def windows(level: np.ndarray, side: int) -> dict[tuple[int, int], np.ndarray]:
        places = [(r, c) for r in range(GRID - side + 1) for c in range(GRID - side + 1)]
        return {(r, c): unit(level[r : r + side, c : c + side].mean(axis=(0, 1))) for r, c in places}

    association, whole = np.zeros((GRID, GRID)), chance(tiny.embed_images([query])[0])
    text = np.full((GRID, GRID), 1.0 / whole)
    for side in (1, 2, 3):
        told = {}
        for at, level in enumerate(levels):
            bank = np.array([w for image in level[:3] for w in windows(image, side).values()])
            own = windows(level[3], side)
            near = {place: max((1.0 - float((bank @ w).max())) / 2.0, 1e-6) for place, w in own.items()}
            for place, w in own.items():
                told[place] = told.get(place, 0.0) + chance(tiny.project(at, w)) / 2.0
            for r in range(GRID):
                for c in range(GRID):
                    cover = [near[p] for p in near if p[0] <= r < p[0] + side and p[1] <= c < p[1] + side]
                    association[r, c] += len(cover) / sum(1.0 / x for x in cover) / 6.0
        if side > 1:
            for r in range(GRID):
                for c in range(GRID):
                    cover = [told[p] for p in told if p[0] <= r < p[0] + side and p[1] <= c < p[1] + side]
                    text[r, c] += sum(1.0 / x for x in cover) / len(cover)
    grid = 0.7 * association + 0.3 * 3.0 / text
    found = next(detector.predict([("x", query)]))
    assert found.score == pytest.approx(0.7 * association.max() + 0.3 * whole, rel=1e-3)
    shrunk = found.anomaly_map.reshape(GRID, 8, GRID, 8).mean(axis=(1, 3))
    assert np.corrcoef(shrunk.ravel(), grid.ravel())[0, 1] > 0.8
    assert found.anomaly_map.shape == query.shape[:2]


def test_windows_are_means_of_their_patches_and_patches_harmonic_means_of_their_windows() -> None:
    patches = np.random.default_rng(1).standard_normal((4, 5, 3)).astype(np.float32)
    means = window_means(patches, 2)
    assert means.shape == (3, 4, 3)
    np.testing.assert_allclose(means[1, 2], unit(patches[1:3, 2:4].reshape(4, 3).mean(axis=0)), rtol=1e-5)
    values = np.array([[1.0, 2.0], [4.0, 4.0]])
    spread = spread_harmonically(values, 2)
    assert spread.shape == (3, 3)
    assert spread[0, 0] == 1.0
    assert spread[0, 1] == pytest.approx(2 / (1 / 1 + 1 / 2))
    assert spread[1, 1] == pytest.approx(4 / (1 / 1 + 1 / 2 + 1 / 4 + 1 / 4))
    np.testing.assert_array_equal(spread_harmonically(values, 1), values)
    assert spread_harmonically(np.zeros((2, 2)), 2).max() < 1e-5


def test_an_image_of_the_bank_is_not_associated_with_anything_anomalous() -> None:
    detector = fitted(text_weight=0.0)
    normals = planted("cast_metal", None, "train", 3)
    scores = [one.score for one in detector.predict((item.name, item.image) for item in normals)]
    assert max(scores) < 1e-5
    other = next(detector.predict([("x", planted("leather", None, "test", 1)[0].image)])).score
    assert other > 100 * max(scores)


def test_a_generated_window_counts_as_farther_away() -> None:
    real, query = planted("cast_metal", None, "train", 1), planted("leather", None, "test", 1)[0]
    made = (LabelledImage("made", query.image, None, synthetic=True),)
    near = planted("leather", None, "pool", 1)[0].image
    scores = []
    for weight in (1.0, 0.5):
        detector = winclip(TinyAligned(), text_weight=0.0, synthetic_weight=weight)
        detector.fit((*real, *made), ())
        scores.append(next(detector.predict([("x", near)])).score)
    alone = winclip(TinyAligned(), text_weight=0.0)
    alone.fit(real, ())
    assert scores[0] < scores[1] < next(alone.predict([("x", near)])).score
    only = winclip(TinyAligned(), text_weight=0.0, synthetic_weight=0.5)
    only.fit(made, ())
    assert next(only.predict([("x", query.image)])).score < 1e-5


def test_banks_are_cut_to_their_limit_by_the_seed() -> None:
    banks = [fitted(max_rows=20, seed=seed)._filled()["real_0_1"] for seed in (1, 1, 2)]
    assert banks[0].shape[0] == 20
    assert np.array_equal(banks[0], banks[1])
    assert not np.array_equal(banks[0], banks[2])


def test_saving_and_loading_changes_no_bit_and_other_settings_are_refused(tmp_path) -> None:
    detector = fitted()
    detector.save(tmp_path)
    again = winclip(TinyAligned(), seed=9)
    again.load(tmp_path)
    images = [(item.name, item.image[:50]) for item in planted("cast_metal", "hole", "test", 2)]
    compared = 0
    for first, second in zip(detector.predict(images), again.predict(images), strict=True):
        assert first.score == second.score
        assert np.array_equal(first.anomaly_map, second.anomaly_map)
        compared += 1
    assert compared == 2
    with pytest.raises(BackboneError, match="fitted with sides '1 2 3', now it is '1 2'"):
        winclip(TinyAligned(), windows=(2,)).load(tmp_path)


def test_what_cannot_work_is_said() -> None:
    with pytest.raises(DataError, match=r"WinCLIP\+ needs normal images"):
        winclip(TinyAligned()).fit((), ())
    with pytest.raises(DataError, match="a window of 9 patches is larger than the grid"):
        winclip(TinyAligned(), windows=(9,)).fit(planted("cast_metal", None, "train", 1), ())
    with pytest.raises(ParamsError, match="no letter or digit"):
        winclip(TinyAligned(), name="__").fit(planted("cast_metal", None, "train", 1), ())
    with pytest.raises(RuntimeError, match="fit or load"):
        next(winclip(TinyAligned()).predict([("x", np.zeros((64, 64, 3), np.uint8))]))
