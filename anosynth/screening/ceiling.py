"""How much likeness to a shot is memorization: the shots' likeness to each other is the yardstick.

Two pictures of different parts share something too. What different real shots have in common sets the ceiling that a
synthetic pair may reach without suspicion; a pool that learned the kind of thing and not the shots stays below it about
as often as the shots themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.fingerprint import digest_pixels
from anosynth.samples import Verdict
from anosynth.screening.memorization import MAX_REFERENCES, NearestShot

if TYPE_CHECKING:
    from numpy.typing import NDArray

PERCENTILE = 95.0
REPEATS = "duplicate_similarity"
# Ordered pairs of shots that are compared; more are thinned out evenly.
MAX_PAIRS = 300


@dataclass(frozen=True)
class Ceiling:
    """Likeness among the real shots of one defect type.

    Attributes:
        value: 95th percentile of the similarity between different shots of different groups, in [-1, 1].
        nearest: the same of each shot's most similar shot of another group: what the nearest-shot similarity of an
            independent real picture would be, with as many shots to resemble. At least `value` in most sets.
        num_pairs: ordered pairs of shots that were compared.
        num_groups: groups that the shots come from.
    """

    value: float
    nearest: float
    num_pairs: int
    num_groups: int


@dataclass(frozen=True)
class Copies:
    """How much of a pool repeats the shots or itself, refused samples included; None where it cannot be said.

    Attributes:
        samples: size of the pool.
        ceiling: the shots' own likeness, None if they come from one group or there are none.
        above_ceiling_ratio: share of the pool whose nearest shot is more like it than `ceiling.value`.
        above_nearest_ratio: share above `ceiling.nearest`.
        above_gate_ratio: share that the gate takes for copies of a shot.
        duplicate_ratio: share that the gate takes for repeats of an accepted earlier sample.
        similarity_p50, similarity_p95, similarity_max: of the pool to its nearest shots.
    """

    samples: int
    ceiling: Ceiling | None
    above_ceiling_ratio: float | None
    above_nearest_ratio: float | None
    above_gate_ratio: float | None
    duplicate_ratio: float | None
    similarity_p50: float | None
    similarity_p95: float | None
    similarity_max: float | None

    def to_json(self) -> dict[str, object]:
        """JSON values, numbers rounded to 6 decimals."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


def similarity_ceiling(
    shots: Sequence[NDArray[np.uint8]], groups: Sequence[str], *, others: Sequence[NDArray[np.uint8]]
) -> Ceiling | None:
    """Measure how like each other real shots of different groups are, as `NearestShot` measures samples.

    Args:
        shots: anomalous shots of one defect type, uint8 RGB [H, W, 3].
        groups: group of each shot (a physical part, a position); pairs within a group do not count.
        others: what `NearestShot` regresses out, best normal images. The shots must not be among them: a shot that is
            regressed out resembles nothing.

    Returns:
        The ceiling, or None if the shots come from fewer than two groups.

    Raises:
        ValueError: if numbers differ, or a shot is among `others`.
    """
    if len(shots) != len(groups):
        raise ValueError(f"{len(shots)} shots and {len(groups)} groups; one each")
    if {digest_pixels(shot) for shot in shots} & {digest_pixels(other) for other in others}:
        raise ValueError("a shot is among the other images that are regressed out; leave it out there")
    pairs = [(one, other) for one in range(len(shots)) for other in range(len(shots)) if groups[one] != groups[other]]
    if not pairs:
        return None
    pairs = [pairs[at] for at in np.linspace(0, len(pairs) - 1, min(len(pairs), MAX_PAIRS)).round().astype(int)]
    nearest = NearestShot(shots, others=others)
    found: dict[int, list[float]] = {}
    for one, other in pairs:
        found.setdefault(one, []).append(nearest.similarity(shots[one], shot=other))
    return Ceiling(
        value=float(np.percentile([value for values in found.values() for value in values], PERCENTILE)),
        nearest=float(np.percentile([max(values) for values in found.values()], PERCENTILE)),
        num_pairs=len(pairs),
        num_groups=len(set(groups)),
    )


def unlike_shots(
    normals: Sequence[NDArray[np.uint8]], shots: Sequence[NDArray[np.uint8]], groups: Sequence[str]
) -> tuple[int, ...]:
    """Which normal images repeat no shot: what pairs are made on, if their surroundings are not to be a shot's again.

    A defect drawn into a picture of the very place and light of a shot is counted as a copy of that shot, however new
    the defect is.

    Args:
        normals: uint8 RGB [H, W, 3].
        shots: anomalous shots of one defect type.
        groups: group of each shot.

    Returns:
        Indices of the normals whose nearest shot is no more like them than `Ceiling.value`, in order; all of them if
        the shots come from one group.
    """
    ceiling = similarity_ceiling(shots, groups, others=normals)
    if ceiling is None:
        return tuple(range(len(normals)))
    half = min(MAX_REFERENCES, len(normals) // 2)
    kept: list[int] = []
    # In two parts, each held against the other: an image that is itself regressed out resembles nothing.
    for asked, others in ((range(half), normals[half:]), (range(half, len(normals)), normals[:half])):
        nearest = NearestShot(shots, others=others)
        kept += [at for at in asked if nearest.match(normals[at]).similarity <= ceiling.value]
    return tuple(kept)


def count_copies(
    verdicts: Sequence[Verdict], *, measure: str, gate: float, duplicate_gate: float, ceiling: Ceiling | None
) -> Copies:
    """Count the copies in one pool from what screening measured.

    Args:
        verdicts: of the whole pool, refused samples included.
        measure: "shot_similarity" (pairs) or "normal_similarity" (normals).
        gate: limit of that measure, section `screen` of params.yaml.
        duplicate_gate: limit of duplicate_similarity.
        ceiling: of the shots that the pool was made from, if there is one.
    """
    near = np.array([one.measures[measure] for one in verdicts if measure in one.measures])
    repeats = np.array([one.measures[REPEATS] for one in verdicts if REPEATS in one.measures])
    return Copies(
        samples=len(verdicts),
        ceiling=ceiling,
        above_ceiling_ratio=None if ceiling is None else _share_above(near, ceiling.value),
        above_nearest_ratio=None if ceiling is None else _share_above(near, ceiling.nearest),
        above_gate_ratio=_share_above(near, gate),
        duplicate_ratio=_share_above(repeats, duplicate_gate),
        similarity_p50=float(np.percentile(near, 50)) if near.size else None,
        similarity_p95=float(np.percentile(near, PERCENTILE)) if near.size else None,
        similarity_max=float(near.max()) if near.size else None,
    )


def _share_above(values: NDArray[np.float64], limit: float) -> float | None:
    return float(np.mean(values > limit)) if values.size else None


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return round(value, 6) if isinstance(value, float) else value
