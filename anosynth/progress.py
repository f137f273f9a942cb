"""Progress of long loops on stderr: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LINES = 10
"""Lines per loop where stderr is no terminal."""

logger = logging.getLogger(__name__)


def track(items: Iterable[Item], *, total: int, doing: str, unit: str, done: int = 0) -> Iterator[Item]:
    """Pass items on while showing how far the loop is.

    Args:
        items: what is looped over, the part that is still to do.
        total: length of the whole loop.
        doing: what the loop does, for example "washer: training".
        unit: what one item is, in the singular.
        done: items that an earlier run has done already.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, initial=done, desc=doing, unit=unit, dynamic_ncols=True)
        return
    start, every = time.monotonic(), max(1, total // LINES)
    for count, item in enumerate(items, start=done + 1):
        yield item
        if count % every == 0 or count == total:
            rate = (count - done) / max(time.monotonic() - start, 1e-9)
            left_s = (total - count) / rate
            logger.info("%s: %s %d of %d, %.2f per second, %.0f s left", doing, unit, count, total, rate, left_s)
