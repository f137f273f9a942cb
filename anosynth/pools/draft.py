"""What one draw of a pair yields, before it is accepted as a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.samples import ShardJob
from anosynth.seeding import numpy_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A defect that changes its pixels by less than this on average (grey levels) cannot be seen: the draw is discarded.
MIN_CHANGE = 4.0


@dataclass(frozen=True, eq=False)
class Draft:
    """An image with a planted defect.

    Attributes:
        image: uint8 RGB [H, W, 3].
        mask: uint8 [H, W] in {0, 255}; may be empty, then the draw is discarded.
        shot_ids: sha256 of the real shots that pixels were taken from, beside the parent.
        licences: of those shots.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    shot_ids: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()


def turn(num: int, *, job: ShardJob, index: int, what: str) -> int:
    """Which of `num` real images sample `index` uses: every one once in each round, in a random order per round.

    Depends on the root seed, category, defect and index alone, not on the method, the shard or the pool's size.
    """
    cycle, place = divmod(index, num)
    order = numpy_rng(job.seed, "generate_pairs", what, job.category, job.defect or "-", cycle).permutation(num)
    return int(order[place])


def blend(parent: NDArray[np.uint8], pixels: NDArray[np.float64], *, alpha: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Lay pixels over an image: round((1 - alpha) parent + alpha pixels).

    Args:
        parent: uint8 [H, W, 3].
        pixels: [H, W, 3] on the scale of uint8; values beyond [0, 255] are clipped.
        alpha: [H, W] in [0, 1]. Where it is 0 the parent is left exactly as it was.
    """
    weight = alpha[:, :, None]
    mixed = (1.0 - weight) * parent + weight * np.clip(pixels, 0.0, 255.0)
    return np.rint(mixed).astype(np.uint8)


def change(parent: NDArray[np.uint8], image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Largest change of a colour plane at every pixel, [H, W], grey levels."""
    return np.asarray(np.abs(image.astype(np.int64) - parent.astype(np.int64)).max(axis=2))
