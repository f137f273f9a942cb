"""docs/data-sets.md says of every published data set what the code does."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from anosynth.params import PublishedSource
from anosynth.sources.published import afid, bmad, cifar10, digits, elpv, head_scans, ksdd, mnist
from anosynth.sources.published.industrial import MVTEC, VISA
from anosynth.sources.published.listing import Counts, published_test

PAGE = Path(__file__).parents[3] / "docs" / "data-sets.md"


def rows() -> dict[str, list[str]]:
    """Kind -> the cells of its row."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("` "): row for row in cells}


def test_every_kind_has_a_row_with_its_licence() -> None:
    kinds = {get_args(one.model_fields["kind"].annotation)[0]: one for one in get_args(PublishedSource)}
    assert set(rows()) == {*kinds, "mvtec", "visa"}
    for kind, one in kinds.items():
        licence = str(one.model_fields["licence"].default)
        stated = rows()[kind][-1]
        if "not-stated" in licence:
            assert stated == "none stated"
        elif "not-verified" in licence:
            assert stated == "not verified"
        else:
            assert stated == licence
    assert len(kinds) == 10


def total(table: dict[str, tuple[int, int, int]]) -> Counts:
    train, test, anomalous = (sum(column) for column in zip(*table.values(), strict=True))
    return Counts(train=train, test=test, anomalous=anomalous)


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("mvtec", total(MVTEC)),
        ("visa", total(VISA)),
        ("ksdd", ksdd.PUBLISHED),
        ("afid", afid.PUBLISHED),
        ("elpv", elpv.PUBLISHED),
        ("oct2017", bmad.PUBLISHED["oct2017"]),
        ("resc", bmad.PUBLISHED["resc"]),
        ("brain_mri", head_scans.BRAIN_MRI),
        ("head_ct", head_scans.HEAD_CT),
        ("cifar10", Counts(train=cifar10.TRAIN, test=cifar10.TEST, anomalous=9 * cifar10.TEST)),
    ],
)
def test_the_counts_of_the_page_are_those_that_are_checked(kind: str, counts: Counts) -> None:
    val = f" (+ {counts.val} val)" if counts.val else ""
    assert rows()[kind][5] == f"{counts.train}{val} / {counts.test} + {counts.anomalous}"


def test_the_counts_that_differ_by_class_are_the_means_of_those_that_are_checked() -> None:
    assert rows()["mnist"][5] == f"about {sum(mnist.TRAIN) / 10:.0f} / {sum(mnist.TEST)} in all"
    tests = [len(published_test(count)) for count in digits.IMAGES]
    means = [sum(digits.IMAGES) - sum(tests), sum(tests), 9 * sum(digits.IMAGES)]
    train, test, anomalous = (f"{total / 10:.0f}" for total in means)
    assert rows()["digits"][5] == f"about {train} / {test} + {anomalous}"
