"""The demo categories: which materials, poses, lights and defects they are made of, each value with its range.

Everything a demo picture can be is in the tables of this module, so that a training corpus can stay away from it:
`category_of(material)` says whether a material could be a demo category's.
"""

from __future__ import annotations

from collections.abc import Mapping

from anosynth.sources.procedural.dust import Dust
from anosynth.sources.procedural.leather import Leather
from anosynth.sources.procedural.materials import Material
from anosynth.sources.procedural.metals import BrushedMetal, CastMetal, TurnedMetal
from anosynth.sources.procedural.mineral import Coating, Tile
from anosynth.sources.procedural.parts import Pose, Tablet, Washer
from anosynth.sources.procedural.ranges import Always, Between, Near, Ranges, Recipe, Whole
from anosynth.sources.procedural.shading import Camera, Light
from anosynth.sources.procedural.wood import Wood
from anosynth.sources.procedural.woven import Weave

# What a caption calls the category.
NAMES: Mapping[str, str] = {
    "cast_metal": "cast metal surface",
    "brushed_metal": "brushed steel sheet",
    "wood": "wooden board",
    "fabric": "woven fabric",
    "leather": "brown leather",
    "tile": "ceramic tile",
    "washer": "steel washer",
    "pill": "white pill",
}

# How far an object lies from the middle, in picture sides.
SHIFT = 0.035

MATERIALS: Mapping[str, Recipe[Material]] = {
    "cast_metal": Recipe(
        CastMetal,
        {
            "color": Near((0.53, 0.53, 0.52), 0.03),
            "grain": Between(38.0, 46.0),
            "relief": Between(0.0020, 0.0028),
            "rolling": Between(0.0008, 0.0025),
            "pitting": Between(0.004, 0.02),
            "mottle": Between(0.5, 0.8),
            "roughness": Between(0.42, 0.48),
            "bare": Between(0.7, 0.85),
        },
    ),
    "brushed_metal": Recipe(
        BrushedMetal,
        {
            "color": Near((0.60, 0.60, 0.59), 0.02),
            "grooves": Between(85.0, 110.0),
            "stretch": Between(45.0, 80.0),
            "relief": Between(0.00025, 0.00045),
            "streaks": Between(0.6, 1.0),
            "bow": Between(0.0004, 0.0015),
            "roughness": Between(0.32, 0.38),
            "angle_deg": Between(-3.0, 3.0),
        },
    ),
    "wood": Recipe(
        Wood,
        {
            "early": Near((0.70, 0.51, 0.33), 0.02),
            "late": Near((0.42, 0.25, 0.13), 0.02),
            "rings": Between(11.0, 17.0),
            "pith_x": Between(-0.5, 0.5),
            "pith_depth": Between(0.2, 0.9),
            "tilt": Between(-0.35, 0.35),
            "waviness": Between(0.2, 0.45),
            "pores": Between(0.5, 0.8),
            "relief": Between(0.0004, 0.0008),
            "gloss": Between(0.3, 0.5),
            "angle_deg": Between(86.0, 94.0),
        },
    ),
    "fabric": Recipe(
        Weave,
        {
            "warp": Near((0.40, 0.43, 0.47), 0.015),
            "weft": Near((0.60, 0.60, 0.57), 0.015),
            "yarns": Between(20.0, 23.0),
            "float_yarns": Whole(2, 2),
            "thickness": Between(0.92, 1.0),
            "relief": Between(0.38, 0.48),
            "unevenness": Between(0.5, 0.8),
            "wander": Between(0.15, 0.35),
            "twist": Between(0.4, 0.7),
            "fuzz": Between(0.4, 0.8),
            "angle_deg": Between(-5.0, 5.0),
        },
    ),
    "leather": Recipe(
        Leather,
        {
            "color": Near((0.43, 0.26, 0.15), 0.02),
            "pebbles": Between(19.0, 23.0),
            "stretch": Between(1.05, 1.3),
            "relief": Between(0.009, 0.012),
            "crease": Between(0.55, 0.75),
            "folds": Between(0.004, 0.01),
            "mottle": Between(0.5, 0.8),
            "gloss": Between(0.7, 0.85),
            "angle_deg": Between(0.0, 180.0),
        },
    ),
    "tile": Recipe(
        Tile,
        {
            "color": Near((0.74, 0.71, 0.66), 0.015),
            "vein": Near((0.45, 0.41, 0.37), 0.02),
            "clouds": Between(0.5, 0.8),
            "specks": Between(0.06, 0.12),
            "pitch": Between(1.45, 1.6),
            "gap": Between(0.022, 0.028),
            "grout": Near((0.50, 0.49, 0.47), 0.02),
            "bevel": Between(0.014, 0.020),
            "tilt": Between(0.0, 0.004),
            "waviness": Between(0.0004, 0.0012),
            "gloss": Between(0.75, 0.9),
            "phase_x": Between(0.0, 1.0),
            "phase_y": Between(0.0, 1.0),
            "angle_deg": Between(-2.5, 2.5),
        },
    ),
    "washer": Recipe(
        TurnedMetal,
        {
            "color": Near((0.68, 0.68, 0.68), 0.02),
            "marks": Between(80.0, 100.0),
            "relief": Between(0.0005, 0.0008),
            "wear": Between(0.6, 1.0),
            "roughness": Between(0.33, 0.40),
            "center_x": Between(-SHIFT, SHIFT),
            "center_y": Between(-SHIFT, SHIFT),
        },
    ),
    "pill": Recipe(
        Coating,
        {
            "color": Near((0.86, 0.85, 0.82), 0.012),
            "fleck": Near((0.68, 0.36, 0.28), 0.03),
            "flecks": Between(0.05, 0.09),
            "fleck_scale": Between(52.0, 62.0),
            "peel": Between(0.0006, 0.0012),
            "peel_scale": Between(50.0, 70.0),
            "mottle": Between(0.3, 0.6),
            "roughness": Between(0.55, 0.65),
        },
    ),
}

# Objects lie on a ground; the other categories fill the picture.
GROUNDS: Mapping[str, Recipe[Material]] = {
    "washer": Recipe(
        Coating,
        {
            "color": Near((0.21, 0.22, 0.24), 0.015),
            "fleck": Near((0.30, 0.30, 0.31), 0.02),
            "flecks": Between(0.0, 0.0),
            "fleck_scale": Between(58.0, 63.0),
            "peel": Between(0.0010, 0.0016),
            "peel_scale": Between(50.0, 80.0),
            "mottle": Between(0.8, 1.2),
            "roughness": Between(0.75, 0.85),
        },
    ),
    "pill": Recipe(
        Coating,
        {
            "color": Near((0.13, 0.16, 0.20), 0.012),
            "fleck": Near((0.20, 0.22, 0.25), 0.02),
            "flecks": Between(0.0, 0.0),
            "fleck_scale": Between(55.0, 63.0),
            "peel": Between(0.0006, 0.0010),
            "peel_scale": Between(60.0, 90.0),
            "mottle": Between(0.8, 1.2),
            "roughness": Between(0.8, 0.9),
        },
    ),
}

SHAPES: Mapping[str, Recipe[Washer | Tablet]] = {
    "washer": Recipe(
        Washer,
        {
            "outer": Between(0.375, 0.395),
            "inner": Between(0.185, 0.195),
            "edge": Between(0.016, 0.020),
            "thickness": Between(0.05, 0.06),
            "stamp": Always("12"),
            "stamp_height": Between(0.10, 0.11),
            "stamp_depth": Between(0.006, 0.008),
        },
    ),
    "pill": Recipe(
        Tablet,
        {
            "length": Between(0.76, 0.80),
            "width": Between(0.43, 0.46),
            "thickness": Between(0.06, 0.07),
            "dome": Between(0.085, 0.10),
            "squareness": Between(2.3, 2.4),
            "stamp": Always("25"),
            "stamp_height": Between(0.15, 0.16),
            "stamp_depth": Between(0.010, 0.013),
            "groove": Between(0.009, 0.012),
        },
    ),
}

DUST: Recipe[Dust] = Recipe(
    Dust, {"specks": Whole(0, 6), "lint": Whole(0, 1), "cover": Between(0.25, 0.5), "grey": Between(0.25, 0.5)}
)

POSE: Recipe[Pose] = Recipe(
    Pose, {"x": Between(-SHIFT, SHIFT), "y": Between(-SHIFT, SHIFT), "angle_deg": Between(0.0, 360.0)}
)

_LIGHT: Ranges = {
    "azimuth_deg": Between(-150.0, -30.0),
    "elevation_deg": Between(38.0, 52.0),
    "distance": Between(2.4, 3.6),
    "softness": Between(0.10, 0.2),
    "key": Between(0.92, 1.08),
    "fill": Between(0.30, 0.40),
    "glow": Between(0.4, 0.6),
    "warmth": Between(-0.1, 0.25),
}
_LIGHTS: Mapping[str, Ranges] = {
    "cast_metal": {**_LIGHT, "elevation_deg": Between(30.0, 45.0)},
    "brushed_metal": {
        **_LIGHT,
        "azimuth_deg": Between(-120.0, -60.0),
        "elevation_deg": Between(50.0, 62.0),
        "glow": Between(0.3, 0.5),
    },
    "wood": _LIGHT,
    "fabric": _LIGHT,
    "leather": {**_LIGHT, "elevation_deg": Between(35.0, 48.0), "glow": Between(0.5, 0.8)},
    "tile": {**_LIGHT, "elevation_deg": Between(40.0, 60.0)},
    "washer": {**_LIGHT, "elevation_deg": Between(40.0, 58.0)},
    "pill": {**_LIGHT, "elevation_deg": Between(40.0, 52.0)},
}

LIGHTS: Mapping[str, Recipe[Light]] = {category: Recipe(Light, ranges) for category, ranges in _LIGHTS.items()}

CAMERA: Recipe[Camera] = Recipe(
    Camera,
    {
        "exposure": Between(0.95, 1.08),
        "blur_px": Between(0.35, 0.6),
        "noise": Between(1.0, 2.0),
        "vignetting": Between(0.05, 0.18),
        "contrast": Between(0.4, 0.55),
        "saturation": Between(0.9, 1.0),
    },
)

CATEGORIES: tuple[str, ...] = tuple(NAMES)


def category_of(material: Material) -> str | None:
    """The demo category whose ranges hold every value of a material; None if it is not a demo material."""
    return next((category for category, recipe in MATERIALS.items() if recipe.holds(material)), None)
