"""The closed list of materials and the one function that builds any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from anosynth.sources.procedural.leather import Leather, leather
from anosynth.sources.procedural.metals import (
    BrushedMetal,
    CastMetal,
    TurnedMetal,
    brushed_metal,
    cast_metal,
    turned_metal,
)
from anosynth.sources.procedural.mineral import Coating, Tile, coating, tile
from anosynth.sources.procedural.wood import Wood, wood
from anosynth.sources.procedural.woven import Weave, weave

if TYPE_CHECKING:
    from anosynth.sources.procedural.canvas import Canvas
    from anosynth.sources.procedural.surface import Surface

Material = CastMetal | BrushedMetal | TurnedMetal | Wood | Weave | Leather | Coating | Tile


def build_surface(material: Material, canvas: Canvas, *, name: str) -> Surface:
    """Build a surface that fills the canvas.

    Args:
        material: every value of the material; equal values, canvas and name give equal surfaces.
        canvas: size and seed.
        name: separates the randomness of several surfaces on one canvas ("part", "ground").
    """
    match material:
        case CastMetal():
            return cast_metal(material, canvas, name=name)
        case BrushedMetal():
            return brushed_metal(material, canvas, name=name)
        case TurnedMetal():
            return turned_metal(material, canvas, name=name)
        case Wood():
            return wood(material, canvas, name=name)
        case Weave():
            return weave(material, canvas, name=name)
        case Leather():
            return leather(material, canvas, name=name)
        case Coating():
            return coating(material, canvas, name=name)
        case Tile():
            return tile(material, canvas, name=name)
        case _:
            assert_never(material)
