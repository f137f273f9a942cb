from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from anosynth.errors import DataError
from anosynth.samples import Record, Role
from anosynth.selection.shots import Method, order, select_shots

METHODS: tuple[Method, ...] = ("first_third", "random", "k_center")


def record(name: str, *, defect: str | None = None, role: Role = "train") -> Record:
    return Record(
        path=name,
        category="bottle",
        defect=defect,
        mask_path=None if defect is None else f"masks/{name}",
        role=role,
        group=name,
        licence="CC0-1.0",
        sha256=name,
        phash="0" * 16,
        height=8,
        width=8,
    )


def features_of(records: Sequence[Record]) -> NDArray[np.float32]:
    """Points in the plane that depend on the name alone."""
    rows = [np.random.default_rng(list(one.path.encode())).normal(size=2) for one in records]
    return np.array(rows, dtype=np.float32)


def chosen(records: Sequence[Record], *, count: int, method: Method, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [one.path for one in order(records, count=count, method=method, rng=rng, describe=features_of)]


@given(
    method=st.sampled_from(METHODS), total=st.integers(1, 40), count=st.integers(1, 20), more=st.integers(0, 20),
    seed=st.integers(0, 3),
)  # fmt: skip
def test_a_smaller_choice_is_a_prefix_of_a_larger_one(
    method: Method, total: int, count: int, more: int, seed: int
) -> None:
    records = [record(f"{at}.png") for at in range(total)]
    count, larger = min(count, total), min(count + more, total)
    few = chosen(records, count=count, method=method, seed=seed)
    many = chosen(records, count=larger, method=method, seed=seed)
    assert many[:count] == few
    assert len(set(many)) == larger


def test_first_third_takes_numeric_order_whatever_the_seed() -> None:
    records = [record(f"{at}.png") for at in range(12)]
    for seed in range(3):
        assert chosen(records, count=3, method="first_third", seed=seed) == ["0.png", "1.png", "2.png"]


def test_seeds_give_other_choices() -> None:
    records = [record(f"{at}.png") for at in range(30)]
    for method in ("random", "k_center"):
        choices = {tuple(chosen(records, count=4, method=method, seed=seed)) for seed in range(8)}
        assert len(choices) >= 6


def test_k_center_takes_what_is_farthest_from_all_taken() -> None:
    """Against the naive definition."""
    records = [record(f"{at}.png") for at in range(25)]
    points = features_of(records)
    names = chosen(records, count=9, method="k_center")
    at = [int(name.removesuffix(".png")) for name in names]
    for count in range(1, 9):
        nearest = [min(float(np.sum((point - points[one]) ** 2)) for one in at[:count]) for point in points]
        assert at[count] == int(np.argmax(nearest))


def lock_of(
    records: Sequence[Record], *, normal: int = 2, anomalous: int = 1, seed: int = 0, method: Method = "random"
):  # type: ignore[no-untyped-def]
    return select_shots(
        records,
        category="bottle",
        defects=("hole", "dent"),
        normal=normal,
        anomalous=anomalous,
        method=method,
        seed=seed,
        root_seed=1,
        describe=features_of,
    )


def some_records() -> list[Record]:
    roles: tuple[Role, ...] = ("train", "val", "test")
    return [
        record(f"{role}/{defect or 'good'}/{at}.png", defect=defect, role=role)
        for role in roles
        for defect in (None, "hole", "dent", "crack")
        for at in range(11)
    ]


@pytest.mark.parametrize("method", METHODS)
def test_shots_come_from_train_and_everything_else_is_sealed(method: Method) -> None:
    records = some_records()
    lock = lock_of(records, normal=5, anomalous=3, method=method)
    assert [shot.rank for shot in lock.normal] == list(range(5))
    assert {defect: len(shots) for defect, shots in lock.anomalous.items()} == {"hole": 3, "dent": 3}
    assert all(shot.record.role == "train" for shot in lock.shots)
    assert {one.path for one in lock.sealed} == {one.path for one in records if one.role != "train"}
    assert lock == lock_of(records[::-1], normal=5, anomalous=3, method=method)


def test_kinds_are_chosen_independently() -> None:
    records = some_records()
    without = [one for one in records if one.defect != "crack"]
    assert lock_of(records) == lock_of(without) or lock_of(records).shots == lock_of(without).shots
    normal = [shot.record.path.split("/")[-1] for shot in lock_of(records, normal=8).normal]
    holes = [shot.record.path.split("/")[-1] for shot in lock_of(records, anomalous=8).anomalous["hole"]]
    assert normal != holes


def test_fewer_images_than_shots_is_one_sentence_about_all_of_them(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(DataError) as caught:
        lock_of(some_records(), normal=12, anomalous=40)
    assert str(caught.value) == (
        "bottle: too few images may train: 12 normal asked for, 11 there; 40 hole asked for, 11 there; 40 dent asked "
        "for, 11 there (defects in the index: crack, dent, hole); lower select_shots.normal or .anomalous, or give "
        "training more through source and split"
    )


def test_no_anomalous_shots_may_be_asked_for() -> None:
    lock = lock_of(some_records(), anomalous=0)
    assert lock.anomalous == {"hole": (), "dent": ()}
