"""From a category and a seed to a picture, its mask and its caption."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

import numpy as np
from scipy import ndimage

from anosynth.errors import DataError
from anosynth.sources.procedural.blemishes import Chip, Dent, Hole, Stain
from anosynth.sources.procedural.canvas import Canvas, smoothstep
from anosynth.sources.procedural.defects import Defect, changed_mask, inflict
from anosynth.sources.procedural.demo import CAMERA, CATEGORIES, DUST, GROUNDS, LIGHTS, MATERIALS, NAMES, POSE, SHAPES
from anosynth.sources.procedural.demo_defects import DEFECTS, HEADINGS, PHRASES, RADIAL
from anosynth.sources.procedural.dust import Dust, scatter
from anosynth.sources.procedural.fissures import Crack, Scratch
from anosynth.sources.procedural.materials import Material, build_surface
from anosynth.sources.procedural.metals import TurnedMetal
from anosynth.sources.procedural.mineral import Tile, tile_layout
from anosynth.sources.procedural.parts import Pose, Tablet, Washer, tablet, washer
from anosynth.sources.procedural.ranges import Between
from anosynth.sources.procedural.shading import Camera, Light, photograph, shade
from anosynth.sources.procedural.strokes import Place
from anosynth.sources.procedural.woven import LostYarn, Weave, weave

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anosynth.sources.procedural.surface import Surface

# A defect is drawn again until its mask covers this share of the picture and changes it by this many grey levels.
MIN_MASK_RATIO = 0.002
MAX_MASK_RATIO = 0.08
MIN_CONTRAST = 12.0
# It must also differ from the surface by this many times what the surface's own texture varies there.
MIN_TEXTURE_CONTRAST = 1.0
MAX_ATTEMPTS = 40
_PLACE_DRAWS = 4096
# Middles of defects lie in [-PLACES, PLACES] of both axes where the part fills the picture.
PLACES = 0.40


@dataclass(frozen=True, eq=False)
class Rendered:
    """One picture of a part.

    Attributes:
        image: uint8 RGB [size_px, size_px, 3].
        mask: uint8 [size_px, size_px] in {0, 255}: the defect; all 0 without one.
        object_mask: uint8 [size_px, size_px] in {0, 255}: the sound part's silhouette; all 255 if it fills the picture.
        caption: what the picture shows, for example "a photo of a steel washer with a scratch".
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    object_mask: NDArray[np.uint8]
    caption: str


@dataclass(frozen=True, eq=False)
class Pair:
    """The same part under the same light and camera, sound and defective; outside the mask they (nearly) agree."""

    sound: Rendered
    defective: Rendered


def render(category: str, *, defect: str | None, seed: int, size_px: int) -> Rendered:
    """Render one part.

    Args:
        category: one of CATEGORIES.
        defect: one of DEFECTS[category], or None for a sound part.
        seed: of everything random in the picture; the sound and the defective picture of one seed show the same part.
        size_px: side of the picture, at least 16. Pictures of one seed show the same part at any size.

    Raises:
        DataError: if the category or the defect is not one of ours.
    """
    if defect is not None:
        return render_pair(category, defect=defect, seed=seed, size_px=size_px).defective
    scene = _scene(category, Canvas.for_picture(size_px, seed=seed))
    return _sound(scene)


def render_pair(category: str, *, defect: str, seed: int, size_px: int) -> Pair:
    """Render one part without and with a defect; arguments and errors as in `render`."""
    scene = _scene(category, Canvas.for_picture(size_px, seed=seed))
    if defect not in DEFECTS[category]:
        raise DataError(
            f"source procedural: {category} has no defect {defect!r}; there: {', '.join(DEFECTS[category])}"
        )
    sound = _sound(scene)
    for attempt in range(MAX_ATTEMPTS):
        surface = _damaged(scene, defect, attempt)
        mask = changed_mask(scene.surface, surface, scene.canvas)
        if not MIN_MASK_RATIO <= float(np.count_nonzero(mask)) / mask.size <= MAX_MASK_RATIO:
            continue
        image = _develop(scene, surface)
        if _visible(sound.image, image, mask > 0):
            caption = f"{sound.caption} with {PHRASES.get((category, defect), f'a {defect}')}"
            return Pair(sound, Rendered(image, mask, sound.object_mask, caption))
    raise RuntimeError(f"{category} with {defect}, seed {seed}: no acceptable defect in {MAX_ATTEMPTS} draws")


@dataclass(frozen=True, eq=False)
class _Scene:
    """A sound part, ready to be photographed or damaged."""

    category: str
    canvas: Canvas
    surface: Surface
    ground: Surface | None
    material: Material
    pose: Pose
    cover: NDArray[np.float64]
    inside: NDArray[np.float64]
    dust: Dust
    light: Light
    camera: Camera


def _scene(category: str, canvas: Canvas) -> _Scene:
    if category not in CATEGORIES:
        raise DataError(f"source procedural: no category {category!r}; there: {', '.join(CATEGORIES)}")
    material = MATERIALS[category].draw(canvas.rng(category, "material"))
    light = LIGHTS[category].draw(canvas.rng(category, "light"))
    dust = DUST.draw(canvas.rng(category, "dust"))
    camera = CAMERA.draw(canvas.rng(category, "camera"))
    if category not in SHAPES:
        surface = scatter(dust, build_surface(material, canvas, name=category), canvas, name=category)
        everywhere = np.ones_like(surface.height)
        inside = tile_layout(material, canvas).inside if isinstance(material, Tile) else everywhere
        return _Scene(
            category, canvas, surface, None, material, Pose(0.0, 0.0, 0.0), everywhere, inside, dust, light, camera
        )
    pose = POSE.draw(canvas.rng(category, "pose"))
    if isinstance(material, TurnedMetal):
        material = replace(material, center_x=pose.x, center_y=pose.y)
    face = build_surface(material, canvas, name=category)
    ground = build_surface(GROUNDS[category].draw(canvas.rng(category, "ground")), canvas, name=f"{category} ground")
    shape = SHAPES[category].draw(canvas.rng(category, "shape"))
    match shape:
        case Washer():
            part = washer(shape, pose, face=face, ground=ground, canvas=canvas)
        case Tablet():
            part = tablet(shape, pose, face=face, ground=ground, canvas=canvas)
        case _:
            assert_never(shape)
    surface = scatter(dust, part.surface, canvas, name=category)
    return _Scene(category, canvas, surface, ground, material, pose, part.cover, part.inside, dust, light, camera)


def _develop(scene: _Scene, surface: Surface) -> NDArray[np.uint8]:
    radiance = shade(surface, scene.light, scene.canvas)
    return photograph(radiance, scene.camera, scene.canvas, rng=scene.canvas.rng(scene.category, "sensor"))


def _sound(scene: _Scene) -> Rendered:
    size, factor = scene.canvas.size_px, scene.canvas.oversample
    share = scene.cover.reshape(size, factor, size, factor).mean(axis=(1, 3))
    return Rendered(
        _develop(scene, scene.surface),
        np.zeros((size, size), dtype=np.uint8),
        np.where(share >= 0.5, 255, 0).astype(np.uint8),
        f"a photo of a {NAMES[scene.category]}",
    )


def _visible(sound: NDArray[np.uint8], image: NDArray[np.uint8], changed: NDArray[np.bool_]) -> bool:
    """True if the mean difference inside the mask is above both thresholds."""
    grey = sound.mean(axis=2)
    texture = grey - ndimage.gaussian_filter(grey, 0.03 * grey.shape[0])
    difference = np.abs(image.astype(np.int64) - sound).max(axis=2)
    wanted = max(MIN_CONTRAST, MIN_TEXTURE_CONTRAST * float(texture[changed].std()))
    return float(difference[changed].mean()) >= wanted


def _damaged(scene: _Scene, name: str, attempt: int) -> Surface:
    canvas = scene.canvas
    defect = DEFECTS[scene.category][name].draw(canvas.rng(scene.category, name, attempt, "values"))
    if isinstance(defect, LostYarn):
        if not isinstance(scene.material, Weave):
            raise TypeError(f"{scene.category} has no yarns to lose")
        cloth = weave(scene.material, canvas, name=scene.category, lost=defect)
        return scatter(scene.dust, cloth, canvas, name=scene.category)
    place = _place(scene, name, defect, attempt)
    return inflict(
        defect,
        scene.surface,
        canvas,
        place=place,
        cover=_one_tile(scene, place) if isinstance(defect, Chip) else scene.cover,
        ground=scene.ground,
        rng=canvas.rng(scene.category, name, attempt, "shape"),
    )


def _one_tile(scene: _Scene, place: Place) -> NDArray[np.float64]:
    """Cover of the tile at a place: it chips alone. Of the whole part where there are no tiles."""
    if not isinstance(scene.material, Tile):
        return scene.cover
    layout = tile_layout(scene.material, scene.canvas)
    side = scene.canvas.side
    column, row = (min(int((value + 0.5) * side), side - 1) for value in (place.x, place.y))
    soft = 0.75 / side
    return np.where(layout.key == layout.key[row, column], smoothstep(-soft, soft, layout.inside), 0.0)


def _place(scene: _Scene, name: str, defect: Defect, attempt: int) -> Place:
    """Draw a place: on an edge for a chip, else on the part, away from its edge by about half the defect's radius.

    The first of many random points that fits is taken, so that pictures of other sizes have it at the same place.
    """
    rng = scene.canvas.rng(scene.category, name, attempt, "place")
    x, y = scene.canvas.grid()
    match defect:
        case Chip():
            fits = (scene.inside > 0.0) & (scene.inside < 0.016)
        case Dent() | Stain() | Hole():
            fits = scene.inside > 0.6 * defect.radius
        case Scratch() | Crack():
            fits = scene.inside > 0.02
        case _:
            assert_never(defect)
    if scene.ground is None:
        fits = fits & (np.abs(x) < PLACES) & (np.abs(y) < PLACES)
    side = scene.canvas.side
    tried = rng.random((_PLACE_DRAWS, 2))
    columns, rows = np.minimum((tried * side).astype(np.int64), side - 1).T
    first = int(np.argmax(fits[rows, columns]))
    place_x, place_y = float(tried[first, 0]) - 0.5, float(tried[first, 1]) - 0.5
    heading = HEADINGS.get((scene.category, name), Between(0.0, 180.0))
    angle = float(rng.uniform(heading.low, heading.high))
    if (scene.category, name) in RADIAL:
        away = np.arctan2(place_y - scene.pose.y, place_x - scene.pose.x)
        angle = float(np.rad2deg(away)) + 0.2 * (angle - 90.0)
    return Place(place_x, place_y, angle)
