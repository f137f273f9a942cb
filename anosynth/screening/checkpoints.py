"""Which checkpoint of a training on few shots to keep: by its memorization curve instead of by eye."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MAX_SHARE = 0.2
TOLERANCE = 0.01


@dataclass(frozen=True)
class CurvePoint:
    """One checkpoint.

    Attributes:
        step: training steps so far.
        held_out_loss: denoising loss on shots that were not trained on, with the same draws at every point; None if no
            shot could be held out.
        share_above: share of a small pool drawn with it that lies above the similarity ceiling of the shots, [0, 1].
    """

    step: int
    held_out_loss: float | None
    share_above: float

    def __post_init__(self) -> None:
        loss_fits = self.held_out_loss is None or math.isfinite(self.held_out_loss)
        if self.step < 1 or not loss_fits or not 0.0 <= self.share_above <= 1.0:
            raise ValueError(
                f"a checkpoint has a step from 1 on, a finite loss and a share in [0, 1]; got step {self.step}, loss "
                f"{self.held_out_loss}, share {self.share_above}"
            )


@dataclass(frozen=True)
class Choice:
    """The checkpoint to keep.

    Attributes:
        point: the checkpoint.
        why: a sentence for the manifest.
    """

    point: CurvePoint
    why: str


def choose_checkpoint(
    curve: Sequence[CurvePoint], *, max_share: float = MAX_SHARE, tolerance: float = TOLERANCE
) -> Choice:
    """Choose by memorization first and held-out loss second.

    1. Checkpoints above `max_share` are out.
    2. Of the rest the one with the lowest held-out loss is best; the earliest within `tolerance` of it is kept, because
       a longer training brings the shots closer for nothing.
    3. Without held-out losses it is the last of the rest: as much learned as the ceiling allows.
    4. If all exceed `max_share`, the one that exceeds it least is kept, the earliest of equals; its pool will lose
       samples at the gates, and `why` says so.

    Args:
        curve: checkpoints in the order of their steps; either all or none have a held-out loss.
        max_share: largest share of a pool above the ceiling.
        tolerance: relative; 0.01 takes losses that differ by 1 % for equal.

    Raises:
        ValueError: if the curve is empty, out of order, or has held-out losses for some of its points only.
    """
    steps = [point.step for point in curve]
    if not curve or steps != sorted(set(steps)):
        raise ValueError(f"a memorization curve has at least one checkpoint, in ascending steps; got {steps}")
    losses = [point.held_out_loss for point in curve if point.held_out_loss is not None]
    if len(losses) not in (0, len(curve)):
        raise ValueError(f"{len(losses)} of {len(curve)} checkpoints have a held-out loss; all or none must")
    below = [point for point in curve if point.share_above <= max_share]
    if not below:
        least = min(curve, key=lambda point: point.share_above)
        return Choice(
            least, f"every checkpoint is above {max_share:.0%} memorized; step {least.step} least ({_percent(least)})"
        )
    if not losses:
        last = below[-1]
        return Choice(last, f"no shot was held out: step {last.step} is the last with {_percent(last)} memorized")
    best = min(_loss(point) for point in below)
    kept = next(point for point in below if _loss(point) <= best * (1.0 + tolerance))
    return Choice(
        kept,
        f"step {kept.step}: held-out loss {_loss(kept):.6g} (best {best:.6g}) with {_percent(kept)} memorized",
    )


def _loss(point: CurvePoint) -> float:
    assert point.held_out_loss is not None
    return point.held_out_loss


def _percent(point: CurvePoint) -> str:
    return f"{point.share_above:.0%}"
