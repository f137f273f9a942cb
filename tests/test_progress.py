"""Progress where stderr is no terminal: a few lines, and every item once."""

import logging
import re

import pytest

from anosynth.progress import LINES, track


@pytest.mark.parametrize(("total", "done", "lines"), [(40, 0, LINES), (40, 30, 3), (3, 0, 3), (0, 0, 0), (25, 25, 0)])
def test_items_pass_unchanged_and_lines_say_how_far_the_whole_loop_is(
    total: int, done: int, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="anosynth.progress"):
        seen = list(track(range(done, total), total=total, doing="washer", unit="step", done=done))
    assert seen == list(range(done, total))
    said = [record.getMessage() for record in caplog.records]
    found = [re.fullmatch(rf"washer: step (\d+) of {total}, [\d.]+ per second, [\d]+ s left", text) for text in said]
    counts = [int(one[1]) for one in found if one is not None]
    assert len(counts) == len(said)
    assert len(counts) in (lines, lines + 1)
    if lines:
        assert counts[-1] == total
        assert counts == sorted(set(counts))
        assert counts[0] > done
