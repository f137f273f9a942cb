import pytest

from anosynth.screening.checkpoints import CurvePoint, choose_checkpoint


def curve(*rows: tuple[int, float | None, float]) -> list[CurvePoint]:
    return [CurvePoint(*row) for row in rows]


def test_the_lowest_held_out_loss_below_the_limit_wins() -> None:
    rows = curve((100, 0.30, 0.0), (200, 0.20, 0.05), (300, 0.10, 0.15), (400, 0.05, 0.60))
    choice = choose_checkpoint(rows)
    assert choice.point == rows[2]
    assert "step 300" in choice.why
    assert choose_checkpoint(rows, max_share=1.0).point == rows[3]
    assert choose_checkpoint(rows, max_share=0.1).point == rows[1]


def test_the_earliest_of_nearly_equal_losses_wins() -> None:
    rows = curve((100, 0.30, 0.0), (200, 0.1005, 0.05), (300, 0.1, 0.15))
    assert choose_checkpoint(rows).point == rows[1]
    assert choose_checkpoint(rows, tolerance=0.0).point == rows[2]


def test_a_rising_held_out_loss_stops_before_memorization_shows() -> None:
    rows = curve((100, 0.2, 0.0), (200, 0.1, 0.0), (300, 0.4, 0.1))
    assert choose_checkpoint(rows).point == rows[1]


def test_without_a_held_out_shot_the_last_below_the_limit_is_kept() -> None:
    rows = curve((100, None, 0.0), (200, None, 0.3), (300, None, 0.2), (400, None, 0.9))
    choice = choose_checkpoint(rows)
    assert choice.point == rows[2]
    assert "no shot was held out" in choice.why


def test_if_all_memorize_the_least_is_kept_and_said() -> None:
    rows = curve((100, 0.5, 0.4), (200, 0.1, 0.3), (300, 0.1, 0.3))
    choice = choose_checkpoint(rows)
    assert choice.point == rows[1]
    assert "every checkpoint is above 20% memorized" in choice.why


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one checkpoint"),
        ([(200, 0.1, 0.0), (100, 0.1, 0.0)], r"ascending steps; got \[200, 100\]"),
        ([(100, 0.1, 0.0), (100, 0.1, 0.0)], "ascending steps"),
        ([(100, 0.1, 0.0), (200, None, 0.0)], "1 of 2 checkpoints have a held-out loss"),
    ],
)
def test_a_curve_that_says_nothing_is_refused(rows: list[tuple[int, float | None, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_checkpoint(curve(*rows))


@pytest.mark.parametrize("row", [(0, 0.1, 0.0), (1, float("nan"), 0.0), (1, 0.1, 1.5), (1, 0.1, -0.1)])
def test_a_point_with_impossible_values_is_refused(row: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match=r"a finite loss and a share in \[0, 1\]"):
        CurvePoint(*row)
