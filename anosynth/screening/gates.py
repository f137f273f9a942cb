"""The gates: each looks at the measures of one sample and refuses it for one reason, its own name.

A measure that does not apply (a mask measure of a normal image, a copy measure without shots) is absent, and a gate
whose measure is absent lets the sample pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from anosynth.params import ScreenParams

if TYPE_CHECKING:
    from numpy.typing import NDArray

Measures = Mapping[str, float]


def mask_measures(mask: NDArray[np.uint8], *, foreground: NDArray[np.uint8]) -> dict[str, float]:
    """Measure a mask.

    Args:
        mask: uint8 [H, W] in {0, 255}.
        foreground: uint8 [H, W] in {0, 255}, where the object is.

    Returns:
        mask_ratio: share of the picture that is mask; border_ratio: share of the picture's border pixels that are
        mask; on_object: share of the mask that lies on the object (0 for an empty mask).
    """
    inside = mask > 0
    border = np.concatenate([inside[0], inside[-1], inside[1:-1, 0], inside[1:-1, -1]])
    area = int(np.count_nonzero(inside))
    on_object = int(np.count_nonzero(inside & (foreground > 0)))
    return {
        "mask_ratio": area / mask.size,
        "border_ratio": float(border.mean()),
        "on_object": on_object / area if area else 0.0,
    }


def empty(measures: Measures, limits: ScreenParams) -> bool:
    """The mask has no foreground or no background."""
    return measures.get("mask_ratio", 0.5) in (0.0, 1.0)


def tiny(measures: Measures, limits: ScreenParams) -> bool:
    """The mask covers too little of the picture to be a defect."""
    return measures.get("mask_ratio", 1.0) < limits.min_mask_ratio


def huge(measures: Measures, limits: ScreenParams) -> bool:
    """The mask covers too much of the picture to be a defect."""
    return measures.get("mask_ratio", 0.0) > limits.max_mask_ratio


def border_hugging(measures: Measures, limits: ScreenParams) -> bool:
    """The mask runs along the picture's border: a frame or a vignette, not a defect."""
    return measures.get("border_ratio", 0.0) > limits.max_border_ratio


def off_object(measures: Measures, limits: ScreenParams) -> bool:
    """The mask lies beside the object."""
    return measures.get("on_object", 1.0) < limits.min_on_object


def unsure_mask(measures: Measures, limits: ScreenParams) -> bool:
    """What drew the pair and a second opinion disagree about where the defect is."""
    return measures.get("mask_confidence", 1.0) < limits.min_mask_confidence


def near_copy_of_shot(measures: Measures, limits: ScreenParams) -> bool:
    """The pair as a whole is one of the anomalous shots again."""
    return measures.get("shot_similarity", -1.0) > limits.max_shot_similarity


def near_copy_of_normal(measures: Measures, limits: ScreenParams) -> bool:
    """The synthetic normal is one of the normal shots again."""
    return measures.get("normal_similarity", -1.0) > limits.max_normal_similarity


def duplicate(measures: Measures, limits: ScreenParams) -> bool:
    """An accepted earlier sample of the pool is the same."""
    return measures.get("duplicate_similarity", -1.0) > limits.max_duplicate_similarity


def unlike_normal(measures: Measures, limits: ScreenParams) -> bool:
    """A normal sample lies too far from the normal shots."""
    if limits.max_normal_distance is None:
        return False
    return measures.get("normal_distance", 0.0) > limits.max_normal_distance


GATES: tuple[Callable[[Measures, ScreenParams], bool], ...] = (
    empty,
    tiny,
    huge,
    border_hugging,
    off_object,
    unsure_mask,
    near_copy_of_shot,
    near_copy_of_normal,
    unlike_normal,
    duplicate,
)


def reason_to_refuse(measures: Measures, limits: ScreenParams) -> str:
    """Name of the first gate that refuses these measures; "" if none does."""
    return next((gate.__name__ for gate in GATES if gate(measures, limits)), "")
