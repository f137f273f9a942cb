"""From the anomaly part that a dual-branch generator drew to a mask that fits (in place of a foreign segmenter).

DualAnoDiff (Jin et al. 2025) leaves masks to a salient-object network of another project. The part is drawn on a known
neutral colour, so its own distance to that colour says where the defect is; what is uncertain, how far from the colour
is far enough after a decoder, is calibrated on the real shots, whose masks are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from anosynth.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

GREY = (127, 127, 127)
"""The paper's neutral colour: what is 0 after normalisation to [-1, 1]."""

CANDIDATE_KEYS = (GREY, *((r, g, b) for r in (32, 224) for g in (32, 224) for b in (32, 224)))
_HIGHS = tuple(range(12, 121, 6))
_LOW_SHARES = (0.4, 0.6, 0.8, 1.0)
_MIN_AREAS = (0.0, 0.0005, 0.002)


@dataclass(frozen=True)
class MaskRule:
    """How a part image becomes a mask.

    Attributes:
        key: the neutral colour, RGB.
        high: distance to `key`, in 8-bit levels, that surely is defect: every component of the mask holds such a pixel.
        low: distance from which a pixel that touches such a component belongs to it (hysteresis), at most `high`.
        min_area: components smaller than this share of the image are dropped.
        fit: mean IoU on the shots it was calibrated on, [0, 1].
    """

    key: tuple[int, int, int]
    high: float
    low: float
    min_area: float
    fit: float

    def __post_init__(self) -> None:
        if not 0.0 < self.low <= self.high <= 255.0:
            raise ValueError(f"low {self.low} and high {self.high} must satisfy 0 < low <= high <= 255")


def neutral_part(image: NDArray[np.uint8], mask: NDArray[np.uint8], *, key: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The anomaly part of a shot: its pixels inside the mask, the neutral colour outside.

    Args:
        image: uint8 RGB [H, W, 3].
        mask: uint8 [H, W] in {0, 255}.
        key: the neutral colour.
    """
    return np.where(mask[:, :, None] > 0, image, np.array(key, dtype=np.uint8))


def choose_key(images: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]]) -> tuple[int, int, int]:
    """The neutral colour that the shots' defects are farthest from.

    Of `CANDIDATE_KEYS`, the one whose distance to the nearest 5 % of all defect pixels is largest; the paper's grey
    wins ties. Grey defects (worn metal, dents) would vanish on grey.

    Raises:
        DataError: if no mask has foreground.
    """
    inside = [image[mask > 0] for image, mask in zip(images, masks, strict=True)]
    pixels = np.concatenate(inside).astype(np.int16) if inside else np.empty((0, 3), np.int16)
    if not len(pixels):
        raise DataError("no shot has a defect pixel in its mask; give masks with foreground")
    near = [float(np.quantile(np.abs(pixels - np.array(key)).max(axis=1), 0.05)) for key in CANDIDATE_KEYS]
    return CANDIDATE_KEYS[int(np.argmax(near))]


def key_distance(part: NDArray[np.uint8], *, key: tuple[int, int, int]) -> NDArray[np.float32]:
    """Largest channel difference to the neutral colour, [H, W] in [0, 255], median of 3 x 3 against decoder noise."""
    distance = np.abs(part.astype(np.int16) - np.array(key, dtype=np.int16)).max(axis=2).astype(np.float32)
    return ndimage.median_filter(distance, size=3, mode="nearest")


def part_mask(part: NDArray[np.uint8], rule: MaskRule) -> NDArray[np.uint8]:
    """Mask of a drawn part: hysteresis threshold, holes filled, small components dropped.

    Args:
        part: uint8 RGB [H, W, 3], the defect on the neutral colour.
        rule: calibrated thresholds.

    Returns:
        uint8 [H, W] in {0, 255}; all zero if the part holds nothing that differs enough. The caller redraws it then:
        an empty mask is never stored.
    """
    return _threshold(key_distance(part, key=rule.key), high=rule.high, low=rule.low, min_area=rule.min_area)


def calibrate(
    parts: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]], *, key: tuple[int, int, int]
) -> MaskRule:
    """Choose thresholds on the shots: the ones whose masks agree best with the real ones.

    Args:
        parts: the shots' parts after a VAE round trip (`neutral_part`, encoded and decoded), as a generator would
            hand them over; uint8 RGB [H, W, 3] each.
        masks: their real masks, uint8 [H, W].
        key: the neutral colour of the parts.

    Returns:
        The rule with the largest mean IoU; of equals the one with the lowest thresholds.

    Raises:
        DataError: if there are no shots, or no threshold finds any of the defects.
    """
    if not parts:
        raise DataError("no part to calibrate masks on; give at least one shot with a mask")
    distances = [key_distance(part, key=key) for part in parts]
    best = MaskRule(key, 1.0, 1.0, 0.0, 0.0)
    for high in _HIGHS:
        for share in _LOW_SHARES:
            for min_area in _MIN_AREAS:
                found = [_threshold(one, high=high, low=share * high, min_area=min_area) for one in distances]
                fit = float(np.mean([iou(ours, real) for ours, real in zip(found, masks, strict=True)]))
                if fit > best.fit:
                    best = MaskRule(key, float(high), share * high, min_area, fit)
    if best.fit == 0.0:
        raise DataError(
            f"no threshold finds the shots' defects on the neutral colour {key}; the backbone's VAE does not keep them"
        )
    return best


def iou(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Intersection over union of two masks, [0, 1]; 1 if both are empty."""
    a, b = first > 0, second > 0
    union = int(np.count_nonzero(a | b))
    return 1.0 if union == 0 else float(np.count_nonzero(a & b)) / union


def _threshold(distance: NDArray[np.float32], *, high: float, low: float, min_area: float) -> NDArray[np.uint8]:
    labels, count = ndimage.label(distance >= low, structure=np.ones((3, 3)))
    keep = np.zeros(count + 1, dtype=bool)
    keep[np.unique(labels[distance >= high])] = True
    keep[0] = False
    keep &= np.bincount(labels.ravel(), minlength=count + 1) >= min_area * distance.size
    filled = ndimage.binary_fill_holes(keep[labels])
    return np.where(filled, 255, 0).astype(np.uint8)
