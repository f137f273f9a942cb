"""Which checkpoint of a training on few shots to keep: by its memorization curve instead of by eye."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_SHARE = 0.2
"""Of a pool that may lie above the ceiling: a few do by chance, since a shot in twenty does."""


@dataclass(frozen=True)
class CurvePoint:
    """One checkpoint.

    Attributes:
        step: training steps so far.
        share_above: share of a small pool drawn with it that lies above the similarity ceiling of the shots
            (`ceiling.Ceiling.value`), [0, 1].
    """

    step: int
    share_above: float

    def __post_init__(self) -> None:
        if self.step < 1 or not 0.0 <= self.share_above <= 1.0:
            raise ValueError(
                f"a checkpoint has a step from 1 on and a share in [0, 1]; got step {self.step}, share "
                f"{self.share_above}"
            )


@dataclass(frozen=True)
class Choice:
    """The checkpoint to keep.

    Attributes:
        point: the checkpoint.
        why: a sentence for the adapter's facts.
    """

    point: CurvePoint
    why: str


def choose_checkpoint(curve: Sequence[CurvePoint], *, max_share: float = MAX_SHARE) -> Choice:
    """Choose the checkpoint that learned as much as the ceiling allows.

    1. The last checkpoint of those at or below `max_share` is kept: nothing else here says that it learned too much.
    2. If all exceed `max_share`, the one that exceeds it least is kept, the earliest of equals; its pool will lose
       samples at the gates, and `why` says so.

    Args:
        curve: checkpoints in the order of their steps.
        max_share: largest share of a pool above the ceiling.

    Raises:
        ValueError: if the curve is empty or out of order.
    """
    steps = [point.step for point in curve]
    if not curve or steps != sorted(set(steps)):
        raise ValueError(f"a memorization curve has at least one checkpoint, in ascending steps; got {steps}")
    below = [point for point in curve if point.share_above <= max_share]
    if below:
        last = below[-1]
        return Choice(last, f"step {last.step} is the last with at most {max_share:.0%} of its draws above the ceiling")
    least = min(curve, key=lambda point: point.share_above)
    return Choice(
        least,
        f"every checkpoint has more than {max_share:.0%} of its draws above the ceiling; step {least.step} the fewest "
        f"({least.share_above:.0%})",
    )
