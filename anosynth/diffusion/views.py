"""Views of a normal shot that are normal too, for a generator to learn from: turned, shifted, lit otherwise, mirrored.

What leaves a part normal is the category's business (One-to-Normal, section 2, states no augmentation): an orientation
that is part of the specification must not be learned away, so every kind is off until the category allows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from anosynth.params import ObjectParams
from anosynth.seeding import numpy_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class NormalViews:
    """What may be done to a normal part that stays one.

    Attributes:
        mirror: a left-right mirror image.
        max_turn_deg: a turn by up to so much, either way, in [0, 180]; 0: none.
        max_shift_ratio: a shift by up to this share of the sides, in [0, 0.5]; 0: none.
        max_light_ratio: light by up to this share more or less, in [0, 0.5]; 0: as it is.
    """

    mirror: bool = False
    max_turn_deg: float = 0.0
    max_shift_ratio: float = 0.0
    max_light_ratio: float = 0.0


def normal_views(params: ObjectParams) -> NormalViews:
    """What params.yaml says of a category.

    Args:
        params: its entry of `objects`.

    Returns:
        The same ranges, which params.yaml has checked.
    """
    return NormalViews(params.mirror, params.normal_turn_deg, params.normal_shift_ratio, params.normal_light_ratio)


def views_of(image: NDArray[np.uint8], allowed: NormalViews, *, num_views: int, seed: int) -> list[NDArray[np.uint8]]:
    """The shot, its mirror image if that is allowed, and random views of both.

    Args:
        image: uint8 RGB [H, W, 3].
        allowed: what may be done to it.
        num_views: of the shot and, apart from them, of its mirror image, itself included; at least 1.
        seed: of the random ones.

    Returns:
        `num_views` pictures like `image`, or twice as many; the shot first, then its mirror image. What a turn or a
        shift brings in from beyond the border is the picture mirrored there.
    """
    bases = [image, np.ascontiguousarray(image[:, ::-1])] if allowed.mirror else [image]
    more = [
        _moved(base, allowed, numpy_rng(seed, "view", side, number))
        for number in range(1, num_views)
        for side, base in enumerate(bases)
    ]
    return bases + more


def _moved(image: NDArray[np.uint8], allowed: NormalViews, rng: np.random.Generator) -> NDArray[np.uint8]:
    turn, down, right, light = rng.uniform(-1.0, 1.0, 4)
    angle = np.deg2rad(turn * allowed.max_turn_deg)
    sides = np.array(image.shape[:2])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = (sides - 1) / 2
    offset = centre - rotation @ (centre + allowed.max_shift_ratio * sides * (down, right))
    pixels = np.stack(
        [
            ndimage.affine_transform(image[:, :, plane].astype(np.float64), rotation, offset, order=1, mode="reflect")
            for plane in range(image.shape[2])
        ],
        axis=2,
    )
    return np.clip(np.rint(pixels * (1.0 + light * allowed.max_light_ratio)), 0, 255).astype(np.uint8)
