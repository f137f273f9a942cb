"""Choosing a checkpoint by its memorization curve."""

import pytest

from anosynth.screening.checkpoints import CurvePoint, choose_checkpoint


def curve(*rows: tuple[int, float]) -> list[CurvePoint]:
    return [CurvePoint(*row) for row in rows]


def test_the_last_checkpoint_below_the_limit_is_kept() -> None:
    rows = curve((100, 0.0), (200, 0.05), (300, 0.2), (400, 0.60))
    choice = choose_checkpoint(rows)
    assert choice.point == rows[2]
    assert choice.why == "step 300 is the last with at most 20% of its draws above the ceiling"
    assert choose_checkpoint(rows, max_share=1.0).point == rows[3]
    assert choose_checkpoint(rows, max_share=0.1).point == rows[1]


def test_a_dip_after_too_many_copies_counts_again() -> None:
    rows = curve((100, 0.1), (200, 0.5), (300, 0.1))
    assert choose_checkpoint(rows).point == rows[2]


def test_if_all_copy_too_much_the_one_that_copies_least_is_kept_and_said_so() -> None:
    rows = curve((100, 0.5), (200, 0.4), (300, 0.4))
    choice = choose_checkpoint(rows)
    assert choice.point == rows[1]
    assert choice.why.startswith("every checkpoint has more than 20% of its draws above the ceiling; step 200 the")


@pytest.mark.parametrize("rows", [(), ((200, 0.0), (100, 0.0)), ((100, 0.0), (100, 0.1))])
def test_a_curve_that_is_none_is_refused(rows: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(ValueError, match="at least one checkpoint, in ascending steps"):
        choose_checkpoint(curve(*rows))


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (1, -0.1), (1, 1.1), (1, float("nan"))])
def test_a_point_that_is_none_is_refused(step: int, share: float) -> None:
    with pytest.raises(ValueError, match="a step from 1 on and a share in"):
        CurvePoint(step, share)
