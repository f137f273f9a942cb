from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from anosynth.errors import DataError
from anosynth.fingerprint import digest_pixels
from anosynth.imaging import hamming_bits, perceptual_hash
from anosynth.samples import Record, Role
from anosynth.selection.leaks import (
    PUBLISHED_RULES,
    Comparison,
    check_copies,
    compare,
    published_rules,
    summarize_rules,
)
from anosynth.sources.procedural import render
from tests.selection.pictures import COPIES, Picture, halved, washer

BITS, CORRELATION = 6, 0.9


def record(path: str, picture: Picture, role: Role, *, defect: str | None = None) -> Record:
    return Record(
        path=path,
        category="washer",
        defect=defect,
        mask_path=None,
        role=role,
        group=path,
        licence="CC0-1.0",
        sha256=digest_pixels(picture),
        phash=perceptual_hash(picture),
        height=picture.shape[0],
        width=picture.shape[1],
    )


def compared(train: Mapping[str, Picture], test: Mapping[str, Picture], *, phash_bits: int = BITS) -> list[Comparison]:
    pictures = {**train, **test}
    records = [record(path, picture, "train" if path in train else "test") for path, picture in pictures.items()]
    return compare(records, image=lambda one: pictures[one.path], phash_bits=phash_bits)


@pytest.fixture(scope="module")
def parts() -> list[Picture]:
    return [washer(seed) for seed in range(40)]


def test_every_kind_of_copy_is_caught_and_nothing_else(parts: list[Picture]) -> None:
    train = {f"train/{at}.png": part for at, part in enumerate(parts[:20])}
    test = {f"test/{at}.png": part for at, part in enumerate(parts[20:], start=20)}
    copies = {f"test/{name} {at}.png": change(parts[at]) for at, (name, change) in enumerate(COPIES.items())}
    found = compared(train, {**test, **copies})
    caught = {(pair.train.path, pair.sealed.path) for pair in found if pair.correlation >= CORRELATION}
    assert caught == {(f"train/{at}.png", name) for at, name in enumerate(copies)}
    assert len(caught) == len(COPIES) == 9
    of = {pair.sealed.path: pair for pair in found if pair.correlation >= CORRELATION}
    mirrored, shifted = (next(of[name] for name in copies if kind in name) for kind in ("mirrored", "shifted 8"))
    assert mirrored.turn == "mirrored"
    assert (shifted.turn, shifted.shift) == ("as it is", (8, 8))
    with pytest.raises(DataError) as caught_error:
        check_copies(found, copy_correlation=CORRELATION)
    assert "9 pairs are concerned" in str(caught_error.value)
    assert "are copies of one photograph" in str(caught_error.value)


def test_two_hundred_independent_parts_in_one_pose_are_not_flagged() -> None:
    """Every pair is looked at closely, whatever nominates it."""
    pictures = [washer(seed, side=64) for seed in range(1000, 1200)]
    train = {f"train/{at}.png": part for at, part in enumerate(pictures[:5])}
    test = {f"test/{at}.png": part for at, part in enumerate(pictures[5:])}
    found = compared(train, test, phash_bits=64)
    assert len(found) == 5 * 195
    assert found[0].correlation < 0.5
    check_copies(found, copy_correlation=CORRELATION)


def test_two_hundred_independent_renders_of_the_demo_washer_are_not_flagged() -> None:
    pictures = [render("washer", defect=None, seed=seed, size_px=64).image for seed in range(200)]
    train = {f"train/{at}.png": part for at, part in enumerate(pictures[:20])}
    test = {f"test/{at}.png": part for at, part in enumerate(pictures[20:])}
    found = compared(train, test)
    assert len(found) > 100, "so many looked alike enough for a close look"
    assert sum(pair.bits <= BITS for pair in found) > 50
    check_copies(found, copy_correlation=CORRELATION)


def test_the_perceptual_hash_alone_misses_shifted_and_mirrored_copies(parts: list[Picture]) -> None:
    """The reason for a second nomination."""
    missed = {
        name
        for name, change in COPIES.items()
        if min(hamming_bits(perceptual_hash(part), perceptual_hash(change(part))) for part in parts[:6]) > BITS
    }
    assert {"shifted 3", "shifted 8", "mirrored", "all at once"} <= missed


def test_a_copy_of_another_size_is_caught(parts: list[Picture]) -> None:
    large = [washer(seed, side=192) for seed in range(8)]
    train = {f"train/{at}.png": part for at, part in enumerate(large)}
    test = {f"test/{at}.png": part for at, part in enumerate(parts[20:28])} | {"test/half.png": halved(large[3])}
    best = compared(train, test)[0]
    assert (best.train.path, best.sealed.path) == ("train/3.png", "test/half.png")
    assert best.correlation >= CORRELATION


def test_a_leak_names_both_files_and_what_to_do(parts: list[Picture]) -> None:
    found = compared(
        {f"train/{at}.png": part for at, part in enumerate(parts[:6])},
        {f"test/{at}.png": part for at, part in enumerate(parts[6:12])} | {"test/copy.png": COPIES["darker"](parts[2])},
    )
    with pytest.raises(DataError) as caught:
        check_copies(found, copy_correlation=CORRELATION)
    message = str(caught.value)
    assert "train/2.png (train) and test/copy.png (test) are copies" in message
    assert "at least 0.9 (select_shots.copy_correlation), as it is, moved by 0, 0 of 96 px; remove one of" in message
    check_copies(found, copy_correlation=1.0)


def test_nothing_to_compare_is_no_leak(parts: list[Picture]) -> None:
    assert compared({"a": parts[0]}, {}) == []
    assert compared({}, {"a": parts[0]}) == []
    two = compared({"a": parts[0]}, {"b": parts[1]})
    assert all(np.isfinite(pair.correlation) for pair in two)
    assert compared({"a": parts[0]}, {"b": COPIES["reencoded"](parts[0])})[0].correlation >= CORRELATION


# Counts of the 73 defect types of MVTec AD's test set (Bergmann et al. 2019), by category.
MVTEC = {
    "bottle": (20, 22, 21),
    "cable": (13, 12, 11, 14, 10, 12, 10, 10),
    "capsule": (23, 22, 21, 23, 20),
    "carpet": (19, 17, 17, 17, 19),
    "grid": (12, 12, 11, 11, 11),
    "hazelnut": (18, 17, 18, 17),
    "leather": (19, 19, 17, 19, 18),
    "metal_nut": (25, 22, 23, 23),
    "pill": (25, 17, 21, 26, 19, 9, 24),
    "screw": (24, 24, 25, 23, 23),
    "tile": (17, 18, 16, 18, 15),
    "toothbrush": (30,),
    "transistor": (10, 10, 10, 10),
    "wood": (8, 11, 10, 10, 21),
    "zipper": (19, 16, 17, 16, 17, 18, 16),
}


class Counted:
    def __init__(self, category: str, defect: str | None) -> None:
        self.category, self.defect = category, defect


def test_published_rules_leak_as_was_counted_on_mvtec() -> None:
    items = [
        Counted(category, f"type{at}")
        for category, counts in MVTEC.items()
        for at, n in enumerate(counts)
        for _ in range(n)
    ]
    assert len(items) == 1258
    leaks = published_rules([*items, Counted("bottle", None)])
    assert len(leaks) == 3 * 73
    by_rule = {rule: [leak for leak in leaks if leak.rule == rule] for rule in PUBLISHED_RULES}
    anomalydiffusion, dualanodiff, unsorted = by_rule.values()
    assert sum(leak.count // 3 for leak in dualanodiff) == 393
    assert sum(leak.expected for leak in anomalydiffusion) == 73
    assert sum(leak.expected for leak in dualanodiff) == sum(leak.expected > 0 for leak in dualanodiff) == 43
    share = sum(leak.expected for leak in unsorted) / sum(leak.trained for leak in unsorted)
    assert share == pytest.approx(2 / 3, abs=0.03)
    assert "43 of 73" in summarize_rules(leaks)


def naive(rule: str, count: int) -> tuple[float, int]:
    """Expected and worst leak by writing the rule down and enumerating every order of a listing."""
    from itertools import combinations

    test = set(range(count)[count // 3 :])
    if "unsorted" in rule:
        k = count // 3 + (1 if count % 3 else 0)
        leaks = [len(test & set(taken)) for taken in combinations(range(count), k)]
        return sum(leaks) / len(leaks), max(leaks)
    if "AnomalyDiffusion" in rule:
        taken = [index for index in range(count) if index <= int(count / 3)]
    else:
        k = count // 3
        if k % 3 != 0:
            k += 1
        taken = list(range(count))[:k]
    return len(test & set(taken)), len(test & set(taken))


def test_published_rules_against_their_own_words() -> None:
    checked = 0
    for count in range(1, 13):
        for leak in published_rules([Counted("a", "b")] * count):
            expected, worst = naive(leak.rule, count)
            assert leak.expected == pytest.approx(expected)
            assert leak.worst == worst
            assert leak.count == count
            checked += 1
    assert checked == 36
