"""From a coarse grid of scores to an anomaly map of the image's size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray


def resize_map(scores: NDArray[np.float32], *, size_px: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a score map bilinearly, averaging when it shrinks.

    Args:
        scores: float32 [h, w].
        size_px: (height, width) wanted.

    Returns:
        float32 [height, width], new memory.
    """
    given = torch.from_numpy(scores)[None, None]
    resized = functional.interpolate(given, size=size_px, mode="bilinear", align_corners=False, antialias=True)
    return resized[0, 0].numpy().copy()
