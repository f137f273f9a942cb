"""Proof that what may train and what tests are different pictures, and a count of what published rules leak.

Equal pixels and equal groups are told by hashes (`sources.lock.check_lock`); this module looks for near-copies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from anosynth.errors import DataError
from anosynth.imaging import hamming_bits
from anosynth.progress import track
from anosynth.samples import Record
from anosynth.selection.residuals import FINE_PX, TURNS, Fine, coarse_correlations, grey_square, turned

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

# A pair stands out if its coarse correlation lies five deviations above the median of all pairs; below the first bound
# it is chance in any set, above the second it is looked at in any set.
STANDS_OUT = 5.0
STANDS_OUT_BOUNDS = (0.2, 0.5)
CACHED_BANDS = 256


@dataclass(frozen=True)
class Comparison:
    """A nominated pair of images and what a close look found.

    Attributes:
        train, sealed: the records; the role of `sealed` is val or test.
        bits: distance of their perceptual hashes, 0 to 64.
        coarse: largest coarse correlation over the eight orientations, [-1, 1].
        correlation: of the residuals after registration, [0, 1]; copies are near 1.
        turn: orientation of `sealed` in which they correlate most, one of `residuals.TURNS`.
        shift: rows and columns by which its content is moved, in pixels of `side`.
        side: working size in pixels.
    """

    train: Record
    sealed: Record
    bits: int
    coarse: float
    correlation: float
    turn: str
    shift: tuple[int, int]
    side: int


def compare(
    records: Sequence[Record], *, image: Callable[[Record], NDArray[np.uint8]], phash_bits: int
) -> list[Comparison]:
    """Compare every train image with every val and test image of one category, closely where something nominates.

    A pair is nominated if its perceptual hashes differ in at most `phash_bits` bits, or if its coarse correlation
    stands out from all others in one of eight orientations. The hash alone is not enough: of copies shifted by 3 px of
    128 it finds none on a washer, and mirrored copies it never finds.

    Args:
        records: the index of one category; all of train counts, not the shots alone, because detectors and parents may
            be drawn from all of it.
        image: reads the pixels of a record, uint8 [H, W, 3]; called once for each. Memory: 64 KiB an image.
        phash_bits: see above; 0 to 64.

    Returns:
        The nominated pairs, most alike first.
    """
    train = [record for record in records if record.role == "train"]
    sealed = [record for record in records if record.role != "train"]
    if not train or not sealed:
        return []
    side = min(FINE_PX, *(min(record.height, record.width) for record in records))
    squares = np.stack([grey_square(image(record), side=side) for record in (*train, *sealed)])
    coarse = coarse_correlations(squares[: len(train)], squares[len(train) :])
    bits = np.array([[hamming_bits(one.phash, two.phash) for two in sealed] for one in train])
    nominated = coarse >= np.array([_outlier_limit(plane) for plane in coarse])[:, None, None]
    nominated[0] |= bits <= phash_bits
    pairs = np.argwhere(nominated.any(axis=0))
    fine = Fine(squares)

    @lru_cache(maxsize=CACHED_BANDS)
    def band(at: int, turn: int) -> NDArray[np.float32]:
        return fine.band(turned(squares[at], turn))

    found = []
    for one, two in track(pairs, total=len(pairs), doing="leak check, close look", unit="pair"):
        results = [
            (fine.correlation(band(int(one), 0), band(len(train) + int(two), int(turn))), TURNS[turn])
            for turn in np.flatnonzero(nominated[:, one, two])
        ]
        (correlation, shift), turn = max(results)
        found.append(
            Comparison(
                train=train[one],
                sealed=sealed[two],
                bits=int(bits[one, two]),
                coarse=float(coarse[:, one, two].max()),
                correlation=correlation,
                turn=turn,
                shift=shift,
                side=side,
            )
        )
    found.sort(key=lambda pair: (-pair.correlation, pair.train.path, pair.sealed.path))
    logger.info(
        "leak check: %d x %d pairs, %d looked at closely, the closest correlate by %.2f",
        len(train),
        len(sealed),
        len(found),
        found[0].correlation if found else 0.0,
    )
    return found


def _outlier_limit(correlations: NDArray[np.float32]) -> float:
    median = float(np.median(correlations))
    deviation = 1.4826 * float(np.median(np.abs(correlations - median)))
    low, high = STANDS_OUT_BOUNDS
    return min(high, max(low, median + STANDS_OUT * deviation))


def check_copies(compared: Iterable[Comparison], *, copy_correlation: float) -> None:
    """Refuse a category in which a train image is a near-copy of a val or test image.

    Args:
        compared: from `compare`.
        copy_correlation: residual correlation from which a pair is a copy, (0, 1].

    Raises:
        DataError: naming both files of the closest pair, how it was found and how many pairs there are.
    """
    copies = [pair for pair in compared if pair.correlation >= copy_correlation]
    if not copies:
        return
    pair = max(copies, key=lambda pair: pair.correlation)
    more = f"; {len(copies)} pairs are concerned" if len(copies) > 1 else ""
    raise DataError(
        f"{pair.train.path} (train) and {pair.sealed.path} ({pair.sealed.role}) are copies of one photograph: residual "
        f"correlation {pair.correlation:.3f}, at least {copy_correlation:g} (select_shots.copy_correlation), "
        f"{pair.turn}, moved by {pair.shift[0]}, {pair.shift[1]} of {pair.side} px{more}; remove one of them, or give "
        "them one group in source.groups"
    )


class _HasDefect(Protocol):
    @property
    def category(self) -> str: ...

    @property
    def defect(self) -> str | None: ...


@dataclass(frozen=True)
class RuleLeak:
    """What one published rule would have leaked in one defect type.

    Attributes:
        rule: name of the rule, a key of `PUBLISHED_RULES`.
        category, defect: slugs.
        count: images n of the defect type; the published test set is the last n - floor(n/3), sorted by number.
        trained: images that the rule trains on.
        expected: test images among them; of an unsorted listing the expected value over all orders.
        worst: test images among them in the worst order of the listing; equal to `expected` for sorted rules.
    """

    rule: str
    category: str
    defect: str
    count: int
    trained: int
    expected: float
    worst: int


def _sorted_rule(count: int, trained: int) -> tuple[int, float, int]:
    leaked = max(0, min(trained, count) - count // 3)
    return min(trained, count), float(leaked), leaked


def _anomalydiffusion(count: int) -> tuple[int, float, int]:
    return _sorted_rule(count, count // 3 + 1)


def _dualanodiff(count: int) -> tuple[int, float, int]:
    third = count // 3
    return _sorted_rule(count, third + 1 if third % 3 else third)


def _unsorted_third(count: int) -> tuple[int, float, int]:
    trained, tested = -(-count // 3), count - count // 3
    return trained, trained * tested / count, min(trained, tested)


PUBLISHED_RULES: dict[str, Callable[[int], tuple[int, float, int]]] = {
    "floor(n/3) + 1, sorted (AnomalyDiffusion)": _anomalydiffusion,
    "floor(n/3), + 1 if that is no multiple of 3, sorted (DualAnoDiff)": _dualanodiff,
    "ceil(n/3), unsorted (DualAnoDiff with background)": _unsorted_third,
}


def published_rules(items: Iterable[_HasDefect]) -> tuple[RuleLeak, ...]:
    """Count the test images that three published split rules would have trained on; for comparison only.

    All three works test on the last n - floor(n/3) images of a defect type, sorted by number, and train as
    `PUBLISHED_RULES` says, as read in their released code. Nothing in this project splits by these rules.

    Args:
        items: images of any categories, for example `SourceItem` or `Record`; normal ones do not count.

    Returns:
        One row per rule and defect type, in order of appearance.
    """
    counts: dict[tuple[str, str], int] = {}
    for item in items:
        if item.defect is not None:
            counts[item.category, item.defect] = counts.get((item.category, item.defect), 0) + 1
    return tuple(
        RuleLeak(name, category, defect, count, *rule(count))
        for name, rule in PUBLISHED_RULES.items()
        for (category, defect), count in counts.items()
    )


def summarize_rules(leaks: Iterable[RuleLeak]) -> str:
    """Return a Markdown table: per rule the defect types that leak, and the test images leaked."""
    rows: dict[str, list[RuleLeak]] = {}
    for leak in leaks:
        rows.setdefault(leak.rule, []).append(leak)
    lines = ["| rule | leaking defect types | test images trained on (expected) | worst case |", "|---|---|---|---|"]
    for rule, found in rows.items():
        types = sum(leak.expected > 0 for leak in found)
        expected, worst = sum(leak.expected for leak in found), sum(leak.worst for leak in found)
        lines.append(f"| {rule} | {types} of {len(found)} | {expected:.4g} | {worst} |")
    return "\n".join(lines)
