from __future__ import annotations

import logging
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anosynth.errors import DataError
from anosynth.params import SplitParams
from anosynth.sources.items import SourceItem
from anosynth.sources.split import assign_roles
from tests.sources.trees import item


def split(rule: str = "first_third", *, val_ratio: float = 0.0, held_out_group: str | None = None) -> SplitParams:
    return SplitParams.model_validate({"rule": rule, "val_ratio": val_ratio, "held_out_group": held_out_group})


def anomalous(count: int, *, defect: str = "hole", group: str = "") -> list[SourceItem]:
    return [
        item(f"test/{defect}/{at}.png", defect=defect, part="test", group=f"{group}{at}" if group else None)
        for at in range(count)
    ]


def parts(count: int, *, in_part: int, defects: int = 0) -> list[SourceItem]:
    """`count` physical parts, each a group of `in_part` normal and `defects` anomalous images of role train."""
    found = []
    for at in range(count):
        found += [item(f"n/{at}_{one}.png", group=f"part {at}") for one in range(in_part)]
        found += [item(f"d/{at}_{one}.png", defect="hole", group=f"part {at}") for one in range(defects)]
    return found


@pytest.mark.parametrize(("count", "train"), [(1, 0), (2, 0), (3, 1), (5, 1), (6, 2), (20, 6), (30, 10), (84, 28)])
def test_the_first_third_in_numeric_order_trains_and_the_rest_tests(count: int, train: int) -> None:
    roles = assign_roles(anomalous(count)[::-1], split(), 0)
    assert [path for path, role in roles.items() if role == "train"] == [
        f"test/hole/{at}.png" for at in reversed(range(train))
    ]
    assert set(roles.values()) <= {"train", "test"}
    assert len(roles) == count


def test_each_defect_type_is_cut_alone_and_normals_keep_the_sources_split() -> None:
    items = [*anomalous(7), *anomalous(4, defect="dent"), item("a"), item("b", part="test"), item("c", part="val")]
    roles = assign_roles(items, split(), 0)
    train = {path for path, role in roles.items() if role == "train"}
    assert train == {"test/hole/0.png", "test/hole/1.png", "test/dent/0.png", "a"}
    assert (roles["b"], roles["c"]) == ("test", "val")


def test_normals_without_a_split_test_with_the_last_third_of_their_groups() -> None:
    items = [item(f"{at}.png", part=None, group=f"{at // 2}") for at in range(14)]
    roles = assign_roles(items, split(), 0)
    assert [path for path, role in roles.items() if role == "test"] == ["10.png", "11.png", "12.png", "13.png"]


def test_as_given_is_the_sources_split() -> None:
    items = [item("a"), item("b", part="val"), item("c", part="test", defect="hole"), item("d", defect="hole")]
    assert assign_roles(items, split("as_given"), 0) == {"a": "train", "b": "val", "c": "test", "d": "train"}
    with pytest.raises(DataError, match=r"e: the source gives no split for it, which split.rule as_given needs"):
        assign_roles([*items, item("e", part=None)], split("as_given"), 0)


def test_a_path_listed_twice_is_an_error() -> None:
    with pytest.raises(DataError, match="a: listed twice in the source"):
        assign_roles([item("a"), item("b"), item("a")], split(), 0)


def test_a_group_that_the_rule_would_part_is_fatal_and_names_both_files() -> None:
    items = [*anomalous(6, group="part "), item("n.png", group="part 3")]
    with pytest.raises(DataError) as caught:
        assign_roles(items, split(), 0)
    assert "test/hole/3.png (test) and n.png (train) are of one group 'part 3'" in str(caught.value)
    items[-1] = item("n.png", group="part 1")
    assert assign_roles(items, split(), 0)["n.png"] == "train"


def test_holding_a_group_out_drops_the_true_test_and_tests_on_that_group() -> None:
    items = [*parts(3, in_part=2, defects=1), item("t.png", part="test", group="part 9")]
    items += [item(f"d/{at}.png", defect="hole", group="part 8") for at in range(30, 36)]
    roles = assign_roles(items, split(held_out_group="part 1"), 0)
    assert {path for path, role in roles.items() if role == "test"} == {"n/1_0.png", "n/1_1.png", "d/1_0.png"}
    assert "t.png" not in roles
    assert not any(path.startswith("d/3") for path in roles)
    assert Counter(roles.values()) == {"train": 6, "test": 3}


def test_an_unknown_group_to_hold_out_lists_the_groups_there_are() -> None:
    items = [*parts(2, in_part=1), item("t.png", part="test", group="part 9")]
    with pytest.raises(DataError, match=r"held_out_group is 'part 9'; the groups outside test are part 0, part 1$"):
        assign_roles(items, split(held_out_group="part 9"), 0)


def test_val_takes_whole_groups_of_both_kinds() -> None:
    items = [*parts(8, in_part=3, defects=2), *(item(f"x/{at}.png", group=f"lot {at // 5}") for at in range(20))]
    roles = assign_roles(items, split("as_given", val_ratio=0.25), 7)
    val = {item.group for item in items if roles[item.path] == "val"}
    assert {item.group for item in items if roles[item.path] == "train"}.isdisjoint(val)
    assert sorted(group.split()[0] for group in val) == ["lot", "part", "part"]
    assert roles == assign_roles(items, split("as_given", val_ratio=0.25), 7)
    others = [assign_roles(items, split("as_given", val_ratio=0.25), seed) for seed in range(6)]
    assert any(other != roles for other in others)


def test_val_never_takes_the_last_image_of_a_kind() -> None:
    items = [
        *parts(2, in_part=1),
        item("hole.png", defect="hole"),
        item("d1.png", defect="dent"),
        item("d2.png", defect="dent"),
    ]
    for seed in range(10):
        roles = assign_roles(items, split("as_given", val_ratio=0.9), seed)
        left = Counter(one.defect for one in items if roles[one.path] == "train")
        assert left == {None: 1, "hole": 1, "dent": 1}


def test_a_single_group_gives_no_val_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        roles = assign_roles(parts(1, in_part=5, defects=2), split("as_given", val_ratio=0.5), 0)
    assert set(roles.values()) == {"train"}
    assert "no val: the 7 images that may train lie in 1 group(s)" in caplog.text


@given(
    groups=st.lists(
        st.tuples(st.sampled_from("abcdef"), st.booleans(), st.sampled_from("xy")), min_size=1, max_size=24
    ),
    ratio=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_no_cut_ever_parts_a_group_or_drops_an_image(
    groups: list[tuple[str, bool, str]], ratio: float, seed: int
) -> None:
    items = [
        item(f"{at}.png", defect=kind if bad else None, group=group) for at, (group, bad, kind) in enumerate(groups)
    ]
    roles = assign_roles(items, split("as_given", val_ratio=ratio), seed)
    assert list(roles) == [one.path for one in items]
    role_of = {one.group: roles[one.path] for one in items}
    assert all(roles[one.path] == role_of[one.group] for one in items)
    kinds = {one.defect for one in items}
    assert {one.defect for one in items if roles[one.path] == "train"} == kinds
