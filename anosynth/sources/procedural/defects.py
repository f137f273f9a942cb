"""Defects written into a surface, so that the mask is where the surface changed visibly and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import numpy as np
from scipy import ndimage

from anosynth.sources.procedural.canvas import smoothstep
from anosynth.sources.procedural.noise import spectral
from anosynth.sources.procedural.strokes import bent_line, jagged_line, ragged_disc, stroke
from anosynth.sources.procedural.surface import Color, Surface, lay, linear

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


@dataclass(frozen=True)
class Place:
    """Where a defect sits: (x, y) in picture sides and its direction."""

    x: float
    y: float
    angle_deg: float


@dataclass(frozen=True)
class Scratch:
    """A groove with a raised burr.

    Attributes:
        length, width: of the groove.
        depth: of the groove; the burr is a third as high.
        plough: share of the surface's own relief that is gone in the groove, [0, 1].
        bend: sagitta over length.
        tone: of the laid-open material, -1 is black, 0 as before, 1 is white.
        finish: change of roughness.
        twins: number of parallel grooves, 1 to 3.
    """

    length: float
    width: float
    depth: float
    plough: float
    bend: float
    tone: float
    finish: float
    twins: int


@dataclass(frozen=True)
class Crack:
    """A thin dark fissure with branches.

    Attributes:
        length, width: of the main fissure.
        depth: of the fissure.
        jag: first sideways step over the length.
        branches: number of side fissures.
        dark: how much light is lost in it, [0, 1].
    """

    length: float
    width: float
    depth: float
    jag: float
    branches: int
    dark: float


@dataclass(frozen=True)
class Dent:
    """A smooth hollow with a raised rim.

    Attributes:
        radius: of the hollow.
        aspect: length over width.
        depth: of the hollow.
        rim: height of the rim over the depth.
        scuff: change of roughness inside.
    """

    radius: float
    aspect: float
    depth: float
    rim: float
    scuff: float


@dataclass(frozen=True)
class Stain:
    """A foreign substance that dried on the surface.

    Attributes:
        radius, aspect, raggedness: shape of the blot.
        color: sRGB of the substance.
        strength: how much it covers in its middle, (0, 1].
        ring: extra cover of the dried rim, [0, 1].
        softness: width of the fading border over the radius, (0, 1].
        patches: how uneven the cover is, [0, 1].
        finish: roughness of the substance.
        soak: share of the surface's own relief and metal it hides, [0, 1].
    """

    radius: float
    aspect: float
    raggedness: float
    color: Color
    strength: float
    ring: float
    softness: float
    patches: float
    finish: float
    soak: float


@dataclass(frozen=True)
class Hole:
    """A deep hole with a raised rim.

    Attributes:
        radius, aspect, raggedness: shape of the mouth.
        depth: of the hole.
        burr: height of the rim.
        color: sRGB of what is seen inside.
    """

    radius: float
    aspect: float
    raggedness: float
    depth: float
    burr: float
    color: Color


@dataclass(frozen=True)
class Chip:
    """A piece broken off at an edge.

    Attributes:
        radius, aspect, raggedness: shape of the scar.
        depth: how much is gone; where nothing is left the ground is seen.
        core: sRGB of the fracture.
        terraces: height of the steps of the fracture over the depth, [0, 0.5].
        roughness: of the fracture.
        metal: metalness of the fracture.
    """

    radius: float
    aspect: float
    raggedness: float
    depth: float
    core: Color
    terraces: float
    roughness: float
    metal: float


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
            changed = _scratch(defect, surface, canvas, place, rng)
        case Crack():
            changed = _crack(defect, surface, canvas, place, rng)
        case Dent():
            changed = _dent(defect, surface, canvas, place, rng)
        case Stain():
            changed = _stain(defect, surface, canvas, place, rng)
        case Hole():
            changed = _hole(defect, surface, canvas, place, rng)
        case Chip():
            changed = _chip(defect, surface, canvas, place, ground, rng)
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


def _toned(albedo: NDArray[np.float64], tone: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move an albedo towards black (tone < 0) or white (tone > 0)."""
    up, down = np.maximum(tone, 0.0)[:, :, None], np.maximum(-tone, 0.0)[:, :, None]
    pale = 0.4 + 0.55 * albedo / np.maximum(albedo.max(axis=2, keepdims=True), 1e-3)
    return np.clip(albedo * (1.0 - down) * (1.0 - up) + pale * up, 0.0, 1.0)


def _scratch(defect: Scratch, surface: Surface, canvas: Canvas, place: Place, rng: np.random.Generator) -> Surface:
    height, albedo, roughness = surface.height, surface.albedo, surface.roughness
    smooth = ndimage.uniform_filter(height, 2 * round(0.02 * canvas.side) + 1, mode="nearest")
    turn = np.deg2rad(place.angle_deg + 90.0)
    for twin in range(defect.twins):
        shift = twin * defect.width * rng.uniform(2.2, 4.0)
        center = (place.x + shift * float(np.cos(turn)), place.y + shift * float(np.sin(turn)))
        length = defect.length * (1.0 if twin == 0 else rng.uniform(0.4, 0.8))
        line = bent_line(rng, center=center, length=length, angle_deg=place.angle_deg, bend=defect.bend)
        path = stroke(canvas, line, reach=2.5 * defect.width)
        t = path.progress
        taper = np.clip(np.minimum(t, 1.0 - t) * 7.0, 0.25, 1.0)
        wobble = 1.0 + 0.18 * np.sin(2.0 * np.pi * (t * rng.uniform(4.0, 9.0) + rng.random()))
        half = 0.5 * defect.width * taper * wobble
        groove = smoothstep(1.0, 0.35, path.distance / half)
        burr = np.where(path.side > 0.0, 1.0, 0.4) * np.exp(-(((path.distance / half - 1.45) / 0.4) ** 2))
        height = height + defect.plough * groove * (smooth - height) - defect.depth * taper * (groove - 0.33 * burr)
        albedo = _toned(albedo, defect.tone * groove)
        roughness = np.clip(roughness + defect.finish * groove, 0.1, 1.0)
    return Surface(height, albedo, roughness, surface.metal)


def _crack(defect: Crack, surface: Surface, canvas: Canvas, place: Place, rng: np.random.Generator) -> Surface:
    turn = np.deg2rad(place.angle_deg)
    start = (
        place.x - 0.5 * defect.length * float(np.cos(turn)),
        place.y - 0.5 * defect.length * float(np.sin(turn)),
    )
    trunk = jagged_line(rng, start=start, length=defect.length, angle_deg=place.angle_deg, jag=defect.jag)
    open_share = np.zeros_like(surface.height)
    for branch in range(defect.branches + 1):
        if branch == 0:
            line, width = trunk, defect.width
        else:
            joint = trunk[int(rng.integers(6, 27))]
            side = rng.choice([-1.0, 1.0]) * rng.uniform(28.0, 65.0)
            line = jagged_line(
                rng,
                start=(float(joint[0]), float(joint[1])),
                length=defect.length * rng.uniform(0.18, 0.42),
                angle_deg=place.angle_deg + float(side),
                jag=defect.jag,
            )
            width = 0.7 * defect.width
        path = stroke(canvas, line, reach=2.0 * width)
        thinning = 1.0 - 0.6 * path.progress if branch else 1.0 - 0.65 * np.abs(2.0 * path.progress - 0.8) ** 2
        open_share = np.maximum(open_share, smoothstep(1.15, 0.5, path.distance / (0.5 * width * thinning)))
    albedo = surface.albedo * (1.0 - defect.dark * open_share)[:, :, None]
    return Surface(
        surface.height - defect.depth * open_share,
        albedo,
        np.clip(surface.roughness + 0.3 * open_share, 0.0, 1.0),
        surface.metal * (1.0 - 0.8 * open_share),
    )


def _dent(defect: Dent, surface: Surface, canvas: Canvas, place: Place, rng: np.random.Generator) -> Surface:
    r = ragged_disc(
        rng,
        canvas,
        center=(place.x, place.y),
        radius=defect.radius,
        aspect=defect.aspect,
        angle_deg=place.angle_deg,
        raggedness=0.25,
    )
    hollow = np.where(r < 1.0, (1.0 - np.minimum(r, 1.0) ** 2) ** 1.5, 0.0)
    rim = defect.rim * np.where(np.abs(r - 1.0) < 0.3, (1.0 - ((r - 1.0) / 0.3) ** 2) ** 2, 0.0)
    inner = smoothstep(1.05, 0.8, r)
    return Surface(
        surface.height - defect.depth * (hollow - rim),
        surface.albedo,
        np.clip(surface.roughness + defect.scuff * inner, 0.1, 1.0),
        surface.metal,
    )


def _stain(defect: Stain, surface: Surface, canvas: Canvas, place: Place, rng: np.random.Generator) -> Surface:
    r = ragged_disc(
        rng,
        canvas,
        center=(place.x, place.y),
        radius=defect.radius,
        aspect=defect.aspect,
        angle_deg=place.angle_deg,
        raggedness=defect.raggedness,
    )
    body = smoothstep(1.0 + 0.4 * defect.softness, 1.0 - 0.6 * defect.softness, r)
    ring = defect.ring * np.exp(-(((r - 0.93) / 0.10) ** 2))
    uneven = spectral(rng, canvas, exponent=1.0, low=4.0, high=48.0)
    uneven = 1.0 + defect.patches * np.clip(0.35 * uneven, -0.7, 0.5)
    amount = np.clip((defect.strength * uneven + ring) * body, 0.0, 0.97)
    color = linear(defect.color)
    # A film darkens by absorption (multiply) and, where it is thick, shows its own color.
    filmed = surface.albedo * (1.0 - amount[:, :, None] * (1.0 - color))
    solid = surface.albedo + amount[:, :, None] * (color - surface.albedo)
    hide = defect.soak * body
    return Surface(
        surface.height,
        0.5 * filmed + 0.5 * solid,
        surface.roughness + amount * (defect.finish - surface.roughness),
        surface.metal * (1.0 - hide),
    )


def _hole(defect: Hole, surface: Surface, canvas: Canvas, place: Place, rng: np.random.Generator) -> Surface:
    r = ragged_disc(
        rng,
        canvas,
        center=(place.x, place.y),
        radius=defect.radius,
        aspect=defect.aspect,
        angle_deg=place.angle_deg,
        raggedness=defect.raggedness,
    )
    opening = smoothstep(1.0, 0.82, r)
    burr = defect.burr * np.exp(-(((r - 1.08) / 0.14) ** 2))
    wall = smoothstep(1.0, 0.35, r)
    inside = linear(defect.color) * (1.0 - 0.6 * wall)[:, :, None]
    return Surface(
        surface.height + burr - defect.depth * wall,
        surface.albedo + opening[:, :, None] * (inside - surface.albedo),
        surface.roughness + opening * (0.95 - surface.roughness),
        surface.metal * (1.0 - opening),
    )


def _chip(
    defect: Chip,
    surface: Surface,
    canvas: Canvas,
    place: Place,
    ground: Surface | None,
    rng: np.random.Generator,
) -> Surface:
    r = ragged_disc(
        rng,
        canvas,
        center=(place.x, place.y),
        radius=defect.radius,
        aspect=defect.aspect,
        angle_deg=place.angle_deg,
        raggedness=defect.raggedness,
    )
    gone = smoothstep(1.0, 0.93, r)
    scoop = gone * (0.35 + 0.65 * np.sqrt(np.maximum(1.0 - np.minimum(r, 1.0), 0.0)))
    step = 4.0 * r - np.floor(4.0 * r) - 0.5
    height = surface.height - defect.depth * scoop * (1.0 + defect.terraces * step)
    core = linear(defect.core) * (1.0 + 0.2 * defect.terraces * step)[:, :, None]
    fracture = Surface(
        height,
        np.clip(surface.albedo + gone[:, :, None] * (core - surface.albedo), 0.0, 1.0),
        surface.roughness + gone * (defect.roughness - surface.roughness),
        surface.metal + gone * (defect.metal - surface.metal),
    )
    if ground is None:
        return fracture
    through = smoothstep(0.004, 0.0, height - ground.height) * gone
    return lay(ground, fracture, cover=through)
