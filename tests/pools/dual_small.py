"""A tiny method and shots for the tests of dual pairs."""

import numpy as np

from anosynth.params import DualAnoDiffMethod
from anosynth.pools.dual_fit import PairSubject
from anosynth.pools.real import RealPair
from tests.pools.small import SIZE_PX, disk, spotted

SPEC = {
    "kind": "dualanodiff",
    "rank": 2,
    "alpha": 2.0,
    "inner": 4,
    "steps": 3,
    "lr": 1e-3,
    "batch_size": 2,
    "views": 2,
    "checkpoint_every": 2,
    "key": "grey",
    "masks": "threshold",
    "profile": "fast",
    "strength": 0.5,
    "min_confidence": 0.0,
}


def method(**changes: object) -> DualAnoDiffMethod:
    return DualAnoDiffMethod.model_validate({**SPEC, **changes})


def shots(count: int = 3, *, at: int = 20) -> tuple[RealPair, ...]:
    return tuple(spotted(disk(number), at=(at + number, 24)) for number in range(count))


def subject(backbone: str, *, defects: tuple[str, ...] = ("spot",), count: int = 3) -> PairSubject:
    return PairSubject(
        category="plate",
        name="round plate",
        defects=tuple((defect, f"dark {defect}") for defect in defects),
        mirror=False,
        max_turn_deg=180.0,
        shot_ids={defect: tuple(pair.sha256 for pair in shots(count)) for defect in defects},
        size_px=SIZE_PX,
        backbone=backbone,
        seed=5,
    )


def full_mask(pair: RealPair) -> RealPair:
    return RealPair(pair.image, np.full_like(pair.mask, 255), pair.sha256, pair.licence)
