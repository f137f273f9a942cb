"""Few-shot choice: which k normal and m anomalous images of role train a project starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, assert_never

import numpy as np

from anosynth.errors import DataError
from anosynth.features.k_center import greedy_k_center
from anosynth.samples import Record, Shot
from anosynth.seeding import numpy_rng
from anosynth.sources.files import natural_key
from anosynth.sources.lock import ShotsLock, seal

if TYPE_CHECKING:
    from numpy.typing import NDArray

Method = Literal["first_third", "random", "k_center"]


def select_shots(
    records: Sequence[Record],
    *,
    category: str,
    defects: Sequence[str],
    normal: int,
    anomalous: int,
    method: Method,
    seed: int,
    root_seed: int,
    describe: Callable[[Sequence[Record]], NDArray[np.float32]],
) -> ShotsLock:
    """Choose the shots of one category.

    Args:
        records: the index of the category; only role train is chosen from.
        category: slug.
        defects: defect types to choose shots for.
        normal: k, at least 1.
        anomalous: m per defect type, at least 0.
        method: see `order`.
        seed: of the choice; another seed, another choice (except for first_third).
        root_seed: of the project.
        describe: records -> float32 [N, D], called by k_center only, once for the normals and once per defect type.

    Returns:
        The lock, not yet checked for leaks.

    Raises:
        DataError: if there are fewer images than asked for, naming every kind that lacks some.
    """
    kinds: dict[str | None, int] = {None: normal} | dict.fromkeys(defects, anomalous)
    candidates = {kind: _candidates(records, kind) for kind in kinds}
    short = [
        f"{count} {'normal' if kind is None else kind} asked for, {len(candidates[kind])} there"
        for kind, count in kinds.items()
        if len(candidates[kind]) < count
    ]
    if short:
        known = ", ".join(sorted({record.defect for record in records if record.defect is not None})) or "none"
        raise DataError(
            f"{category}: too few images may train: {'; '.join(short)} (defects in the index: {known}); lower "
            "select_shots.normal or .anomalous, or give training more through source and split"
        )
    chosen = {}
    for kind, count in kinds.items():
        rng = numpy_rng(root_seed, "select_shots", category, kind or "-", seed)
        ranked = order(candidates[kind], count=count, method=method, rng=rng, describe=describe)
        chosen[kind] = tuple(
            Shot(record, rank, "normal" if kind is None else "anomalous") for rank, record in enumerate(ranked)
        )
    return ShotsLock(
        category=category,
        method=method,
        seed=seed,
        normal=chosen[None],
        anomalous={defect: chosen[defect] for defect in defects},
        sealed=seal(records),
    )


def _candidates(records: Sequence[Record], defect: str | None) -> list[Record]:
    """Records that may become shots of one kind, in numeric order, so that the order of the index does not matter."""
    found = [record for record in records if record.role == "train" and record.defect == defect]
    return sorted(found, key=lambda record: natural_key(record.path))


def order(
    candidates: Sequence[Record],
    *,
    count: int,
    method: Method,
    rng: np.random.Generator,
    describe: Callable[[Sequence[Record]], NDArray[np.float32]],
) -> list[Record]:
    """Put the first `count` candidates in order of choice. The choice of k is a prefix of the choice of any more.

    first_third: numeric order, the published few-shot protocol. random: a permutation. k_center: each next image is
    the one farthest from all chosen so far in feature space (Gonzalez 1985), the first is drawn at random, so that
    seeds give different sets and none starts from a choice that looks at all images.

    Args:
        candidates: in numeric order of their paths.
        count: at most len(candidates).
        method: see above.
        rng: of the permutation, or of the first k_center image.
        describe: see `select_shots`.
    """
    if count == 0:
        return []
    match method:
        case "first_third":
            return list(candidates[:count])
        case "random":
            return [candidates[at] for at in rng.permutation(len(candidates))[:count]]
        case "k_center":
            first = int(rng.integers(len(candidates)))
            return [candidates[at] for at in greedy_k_center(describe(candidates), k=count, first=first)]
        case _:
            assert_never(method)
