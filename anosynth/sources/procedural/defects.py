"""Defects written into a surface, so that the mask is where the surface changed visibly and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import numpy as np

from anosynth.sources.procedural.blemishes import Chip, Dent, Hole, Stain, chip, dent, hole, stain
from anosynth.sources.procedural.fissures import Crack, Scratch, crack, scratch
from anosynth.sources.procedural.strokes import Place
from anosynth.sources.procedural.surface import Surface, lay

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anosynth.sources.procedural.canvas import Canvas

# A point counts as changed from these differences on: height in picture sides (a fifth of a pixel at 128 px), square
# root of the albedo (about 9 of 255 grey levels), roughness and metalness in their own units.
VISIBLE_HEIGHT = 0.0015
VISIBLE_TONE = 0.035
VISIBLE_FINISH = 0.2
# A finished pixel belongs to the mask if at least this share of its points changed: thin scratches stay connected.
PIXEL_SHARE = 0.25


Defect = Scratch | Crack | Dent | Stain | Hole | Chip


def inflict(
    defect: Defect,
    surface: Surface,
    canvas: Canvas,
    *,
    place: Place,
    cover: NDArray[np.float64],
    ground: Surface | None,
    rng: np.random.Generator,
) -> Surface:
    """Return the surface with a defect.

    Args:
        defect: every value of the defect.
        surface: the sound surface.
        canvas: gives the N x N points.
        place: where and in which direction.
        cover: the defect exists only where this [N, N] in [0, 1] is 1 (the part, not its ground); a chip takes the
            part's half-covered outline with it.
        ground: what is seen where a chip leaves nothing; None if there is nothing below.
        rng: of the defect's own irregularity.
    """
    match defect:
        case Scratch():
            changed = scratch(defect, surface, canvas, place, rng)
        case Crack():
            changed = crack(defect, surface, canvas, place, rng)
        case Dent():
            changed = dent(defect, surface, canvas, place, rng)
        case Stain():
            changed = stain(defect, surface, canvas, place, rng)
        case Hole():
            changed = hole(defect, surface, canvas, place, rng)
        case Chip():
            changed = chip(defect, surface, canvas, place, ground, rng)
        case _:
            assert_never(defect)
    if isinstance(defect, Chip) and ground is not None:
        cover = np.where(cover > 0.0, 1.0, 0.0)
    return lay(changed, surface, cover=cover)


def changed_mask(before: Surface, after: Surface, canvas: Canvas) -> NDArray[np.uint8]:
    """Where a surface changed visibly, uint8 [size_px, size_px] in {0, 255}; thresholds are this module's constants."""
    tone = np.abs(np.sqrt(after.albedo) - np.sqrt(before.albedo)).max(axis=2)
    points = (
        (np.abs(after.height - before.height) >= VISIBLE_HEIGHT)
        | (tone >= VISIBLE_TONE)
        | (np.abs(after.roughness - before.roughness) >= VISIBLE_FINISH)
        | (np.abs(after.metal - before.metal) >= VISIBLE_FINISH)
    )
    size, factor = canvas.size_px, canvas.oversample
    share = points.reshape(size, factor, size, factor).mean(axis=(1, 3))
    return np.where(share >= PIXEL_SHARE, 255, 0).astype(np.uint8)
