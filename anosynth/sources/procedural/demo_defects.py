"""Which defects the demo categories have, each value with its range."""

from __future__ import annotations

from collections.abc import Mapping

from anosynth.sources.procedural.blemishes import Chip, Dent, Hole, Stain
from anosynth.sources.procedural.defects import Defect
from anosynth.sources.procedural.fissures import Crack, Scratch
from anosynth.sources.procedural.ranges import Between, Near, Ranges, Recipe, Whole
from anosynth.sources.procedural.woven import LostYarn

_SCRATCH: Ranges = {
    "length": Between(0.35, 0.65),
    "width": Between(0.009, 0.014),
    "depth": Between(0.003, 0.006),
    "plough": Between(0.3, 0.8),
    "bend": Between(-0.07, 0.07),
    "tone": Between(0.35, 0.6),
    "finish": Between(-0.1, 0.1),
    "twins": Whole(1, 2),
}
_CRACK: Ranges = {
    "length": Between(0.4, 0.7),
    "width": Between(0.011, 0.016),
    "depth": Between(0.012, 0.02),
    "jag": Between(0.10, 0.2),
    "branches": Whole(1, 3),
    "dark": Between(0.8, 0.92),
}
_DENT: Ranges = {
    "radius": Between(0.05, 0.10),
    "aspect": Between(1.0, 1.5),
    "depth": Between(0.018, 0.03),
    "rim": Between(0.05, 0.15),
    "scuff": Between(-0.08, 0.02),
}
_STAIN: Ranges = {
    "radius": Between(0.06, 0.12),
    "aspect": Between(1.0, 1.7),
    "raggedness": Between(0.4, 0.9),
    "color": Near((0.32, 0.22, 0.13), 0.04),
    "strength": Between(0.55, 0.8),
    "ring": Between(0.05, 0.2),
    "softness": Between(0.2, 0.5),
    "patches": Between(0.4, 0.8),
    "finish": Between(0.4, 0.7),
    "soak": Between(0.4, 0.8),
}
_HOLE: Ranges = {
    "radius": Between(0.035, 0.06),
    "aspect": Between(1.0, 1.3),
    "raggedness": Between(0.3, 0.6),
    "depth": Between(0.05, 0.08),
    "burr": Between(0.002, 0.005),
    "color": Near((0.10, 0.09, 0.09), 0.02),
}
_CHIP: Ranges = {
    "radius": Between(0.07, 0.12),
    "aspect": Between(1.0, 1.6),
    "raggedness": Between(0.5, 0.9),
    "depth": Between(0.03, 0.05),
    "core": Near((0.62, 0.45, 0.34), 0.03),
    "terraces": Between(0.15, 0.3),
    "roughness": Between(0.9, 1.0),
    "metal": Between(0.0, 0.0),
}

DEFECTS: Mapping[str, Mapping[str, Recipe[Defect | LostYarn]]] = {
    "cast_metal": {
        "scratch": Recipe(
            Scratch,
            {
                **_SCRATCH,
                "tone": Between(0.75, 0.95),
                "finish": Between(0.1, 0.25),
                "plough": Between(0.8, 1.0),
                "width": Between(0.014, 0.019),
                "depth": Between(0.006, 0.009),
            },
        ),
        "crack": Recipe(Crack, _CRACK),
        "dent": Recipe(Dent, {**_DENT, "scuff": Between(-0.2, -0.1)}),
        "stain": Recipe(
            Stain,
            {
                **_STAIN,
                "color": Near((0.46, 0.27, 0.10), 0.04),
                "strength": Between(0.65, 0.85),
                "soak": Between(0.8, 1.0),
            },
        ),
        "hole": Recipe(Hole, {**_HOLE, "raggedness": Between(0.4, 0.8)}),
    },
    "brushed_metal": {
        "scratch": Recipe(Scratch, {**_SCRATCH, "tone": Between(-0.6, -0.35), "width": Between(0.008, 0.012)}),
        "dent": Recipe(Dent, {**_DENT, "depth": Between(0.008, 0.016)}),
        "stain": Recipe(
            Stain,
            {
                **_STAIN,
                "color": Near((0.50, 0.36, 0.16), 0.04),
                "strength": Between(0.5, 0.75),
                "raggedness": Between(0.4, 0.8),
            },
        ),
        "hole": Recipe(Hole, {**_HOLE, "raggedness": Between(0.05, 0.2), "burr": Between(0.003, 0.006)}),
    },
    "wood": {
        "scratch": Recipe(
            Scratch,
            {**_SCRATCH, "tone": Between(0.45, 0.65), "finish": Between(0.1, 0.3), "width": Between(0.011, 0.016)},
        ),
        "crack": Recipe(Crack, {**_CRACK, "jag": Between(0.03, 0.07), "branches": Whole(0, 0)}),
        "dent": Recipe(Dent, _DENT),
        "stain": Recipe(Stain, {**_STAIN, "color": Near((0.17, 0.12, 0.10), 0.03)}),
        "hole": Recipe(Hole, {**_HOLE, "radius": Between(0.03, 0.05), "raggedness": Between(0.1, 0.4)}),
    },
    "fabric": {
        "stain": Recipe(Stain, {**_STAIN, "raggedness": Between(0.6, 1.0), "soak": Between(0.0, 0.1)}),
        "hole": Recipe(
            Hole,
            {**_HOLE, "radius": Between(0.05, 0.08), "raggedness": Between(0.7, 1.0), "burr": Between(0.003, 0.008)},
        ),
        "missing": Recipe(
            LostYarn,
            {
                "x": Between(-0.38, 0.38),
                "y": Between(-0.25, 0.25),
                "length": Between(0.3, 0.7),
                "count": Whole(2, 3),
            },
        ),
    },
    "leather": {
        "scratch": Recipe(Scratch, {**_SCRATCH, "tone": Between(0.25, 0.45), "finish": Between(0.1, 0.3)}),
        "crack": Recipe(Crack, _CRACK),
        "dent": Recipe(Dent, {**_DENT, "depth": Between(0.02, 0.035)}),
        "stain": Recipe(Stain, {**_STAIN, "color": Near((0.12, 0.14, 0.22), 0.03)}),
        "hole": Recipe(Hole, {**_HOLE, "raggedness": Between(0.2, 0.6)}),
    },
    "tile": {
        "scratch": Recipe(Scratch, {**_SCRATCH, "tone": Between(-0.6, -0.4), "finish": Between(0.4, 0.6)}),
        "crack": Recipe(Crack, {**_CRACK, "depth": Between(0.004, 0.008), "branches": Whole(0, 2)}),
        "stain": Recipe(Stain, {**_STAIN, "color": Near((0.40, 0.26, 0.10), 0.04)}),
        "missing": Recipe(Chip, _CHIP),
    },
    "washer": {
        "scratch": Recipe(Scratch, {**_SCRATCH, "tone": Between(-0.65, -0.4), "length": Between(0.22, 0.4)}),
        "crack": Recipe(Crack, {**_CRACK, "length": Between(0.2, 0.32), "branches": Whole(0, 1)}),
        "dent": Recipe(Dent, {**_DENT, "radius": Between(0.04, 0.07), "depth": Between(0.010, 0.018)}),
        "stain": Recipe(
            Stain,
            {
                **_STAIN,
                "color": Near((0.46, 0.26, 0.09), 0.04),
                "strength": Between(0.7, 0.9),
                "soak": Between(0.8, 1.0),
            },
        ),
        "missing": Recipe(
            Chip,
            {
                **_CHIP,
                "depth": Between(0.12, 0.2),
                "core": Near((0.45, 0.45, 0.45), 0.03),
                "metal": Between(0.8, 1.0),
                "raggedness": Between(0.15, 0.4),
            },
        ),
    },
    "pill": {
        "scratch": Recipe(
            Scratch,
            {**_SCRATCH, "tone": Between(-0.7, -0.5), "length": Between(0.25, 0.45), "width": Between(0.012, 0.017)},
        ),
        "crack": Recipe(Crack, {**_CRACK, "length": Between(0.25, 0.42)}),
        "stain": Recipe(Stain, {**_STAIN, "color": Near((0.72, 0.55, 0.20), 0.04), "radius": Between(0.05, 0.09)}),
        "hole": Recipe(Hole, {**_HOLE, "color": Near((0.35, 0.33, 0.30), 0.03), "depth": Between(0.03, 0.05)}),
        "missing": Recipe(
            Chip,
            {
                **_CHIP,
                "terraces": Between(0.0, 0.05),
                "depth": Between(0.09, 0.13),
                "core": Near((0.86, 0.84, 0.80), 0.02),
            },
        ),
    },
}

# Directions of defects [degrees]; any direction where none is given, radial means away from the object's middle.
HEADINGS: Mapping[tuple[str, str], Between] = {("wood", "crack"): Between(84.0, 96.0)}
RADIAL: frozenset[tuple[str, str]] = frozenset({("washer", "crack")})

# How a caption says a defect, where "a <defect>" would not do.
PHRASES: Mapping[tuple[str, str], str] = {
    ("fabric", "missing"): "missing yarns",
    ("tile", "missing"): "a chipped edge",
    ("washer", "missing"): "a missing piece",
    ("pill", "missing"): "a missing piece",
}
