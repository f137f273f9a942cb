"""From a surface to a photograph: light, objects on backgrounds, damage, lens; and the words that are true of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from anosynth.pretraining.fields import Field, View, blur, random_view, smoothstep, spectrum_noise, strokes
from anosynth.pretraining.materials import MATERIALS, Surface, paint

Picture = NDArray[np.float32]


def shade(rng: np.random.Generator, surface: Surface) -> Picture:
    """Photograph a surface under a random key light and a random soft environment.

    Lambert's diffuse term, a Blinn-Phong lobe whose exponent grows with gloss, and a smooth environment looked up by
    the reflected direction for metals and gloss; cavities are darkened by the height's local depth.

    Returns:
        Display values [0, 1], [n, n, 3].
    """
    height = surface.height
    gy, gx = np.gradient(height)
    nz = 1.0 / np.sqrt(gx**2 + gy**2 + 1.0)
    nx, ny = -gx * nz, -gy * nz
    turn, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 1.25)
    light = np.array([np.cos(turn) * np.cos(elevation), np.sin(turn) * np.cos(elevation), np.sin(elevation)])
    diffuse = np.clip(nx * light[0] + ny * light[1] + nz * light[2], 0, None) / light[2] ** 0.7
    half = light + np.array([0.0, 0.0, 1.0])
    half /= np.linalg.norm(half)
    facing = np.clip(nx * half[0] + ny * half[1] + nz * half[2], 0, 1)
    gloss = np.asarray(surface.gloss, np.float32)
    metal = np.asarray(surface.metal, np.float32)
    exponent = 4.0 + 90.0 * gloss**2
    lobe = facing**exponent * (0.15 + 1.5 * gloss**2)
    frequency = rng.uniform(1.0, 3.5, 3)
    phase = rng.uniform(0, 2 * np.pi, 3)
    lean = rng.normal(0, 0.35, 2)
    n = height.shape[0]
    drift = np.linspace(-0.5, 0.5, n, dtype=np.float32)
    sky = (
        0.55
        + 0.25 * np.sin(frequency[0] * 2 * nx + phase[0] + lean[0] * drift[None, :] * 3)
        + 0.25 * np.sin(frequency[1] * 2 * ny + phase[1] + lean[1] * drift[:, None] * 3)
        + 0.12 * np.sin(frequency[2] * 3 * (nx + ny) + phase[2])
    )
    cavity = np.clip(1.0 + (height - blur(height, 4.0)) * 0.06, 0.45, 1.25)
    ambient = rng.uniform(0.2, 0.5)
    base = surface.albedo.astype(np.float32) ** np.float32(2.2)
    matte = (ambient + (1.05 - ambient) * diffuse) * cavity
    mirror = sky * (0.75 + 0.25 * diffuse) + lobe
    body = base * (matte * (1 - metal) + metal * (0.25 * matte + 1.1 * mirror * cavity))[..., None]
    body = body + ((1 - metal) * (0.5 * lobe + 0.12 * gloss * np.clip(sky, 0, 1) * gloss))[..., None]
    return np.clip(body, 0, 4).astype(np.float32) ** np.float32(1 / 2.2)


def photograph(rng: np.random.Generator, picture: Picture) -> NDArray[np.uint8]:
    """Exposure, colour cast, contrast, uneven light, focus and sensor noise."""
    n = picture.shape[0]
    level = float(np.mean(picture))
    gain = np.exp(rng.normal(0, 0.12)) * (1.0 + 0.35 * (0.45 - level))
    cast = 1.0 + rng.normal(0, 0.02, 3)
    out = picture * (gain * cast).astype(np.float32)
    grid = np.linspace(-0.5, 0.5, n, dtype=np.float32)
    fall = 1.0 + rng.normal(0, 0.12) * grid[:, None] + rng.normal(0, 0.12) * grid[None, :]
    fall = fall - rng.uniform(0, 0.25) * (grid[:, None] ** 2 + grid[None, :] ** 2)
    out = out * fall[..., None].astype(np.float32)
    sigma = rng.choice([0.0, 0.5, 0.8, 1.3], p=[0.35, 0.35, 0.22, 0.08])
    if sigma:
        out = gaussian_filter(out, (sigma, sigma, 0), mode="nearest", truncate=3.0)
    noise = rng.choice([0.0, 0.006, 0.015, 0.03], p=[0.4, 0.35, 0.2, 0.05])
    if noise:
        out = out + noise * rng.standard_normal(out.shape, dtype=np.float32)
    return (np.clip(out, 0, 1) * 255.0 + 0.5).astype(np.uint8)


# ---- damage ------------------------------------------------------------------------------------------------------


def _with_scratch(rng: np.random.Generator, surface: Surface) -> Surface:
    n = surface.height.shape[0]
    angle = float(rng.uniform(0, np.pi))
    line, _ = strokes(
        rng,
        n,
        count=int(rng.integers(1, 4)),
        length_px=rng.uniform(25, 60),
        width_px=rng.uniform(0.6, 2.0),
        angle=angle,
        spread=0.4,
        bend=0.2,
    )
    mark = np.minimum(line * 2.0, 1.0)
    bright = rng.random() < 0.6
    scarred = surface.albedo * (1 - 0.6 * mark[..., None]) + (0.85 if bright else 0.12) * 0.6 * mark[..., None]
    return replace(surface, height=surface.height - 1.8 * mark, albedo=scarred.astype(np.float32))


def _with_crack(rng: np.random.Generator, surface: Surface) -> Surface:
    n = surface.height.shape[0]
    field = spectrum_noise(rng, n, slope=1.5, low=2)
    window = smoothstep(0.1, 0.8, spectrum_noise(rng, n, slope=2.0))
    mark = smoothstep(rng.uniform(0.05, 0.1), 0.015, np.abs(field)) * window
    return replace(
        surface,
        height=surface.height - 3.0 * mark,
        albedo=(surface.albedo * (1 - 0.8 * mark)[..., None]).astype(np.float32),
    )


def _blob(rng: np.random.Generator, n: int, low: float, high: float) -> Field:
    radius = rng.uniform(low, high)
    cy, cx = rng.uniform(0.25 * n, 0.75 * n, 2)
    y, x = np.mgrid[0:n, 0:n].astype(np.float32)
    stretch = np.exp(rng.normal(0, 0.25))
    distance = np.sqrt(((x - cx) * stretch) ** 2 + ((y - cy) / stretch) ** 2) / radius
    return (distance + 0.12 * spectrum_noise(rng, n, slope=1.5)).astype(np.float32)


def _with_dent(rng: np.random.Generator, surface: Surface) -> Surface:
    distance = _blob(rng, surface.height.shape[0], 10, 28)
    depth = np.clip(1 - distance**2, 0, 1) ** 2
    return replace(surface, height=(surface.height - rng.uniform(5, 12) * depth).astype(np.float32))


def _with_stain(rng: np.random.Generator, surface: Surface) -> Surface:
    distance = _blob(rng, surface.height.shape[0], 14, 40)
    mark = smoothstep(1.1, 0.8, distance) * rng.uniform(0.45, 0.85)
    tint = paint(rng, ("brown", "black", "brown", "grey"))[1]
    albedo = surface.albedo * (1 - mark[..., None]) + surface.albedo * tint * 1.2 * mark[..., None]
    return replace(surface, albedo=np.clip(albedo, 0, 1).astype(np.float32))


def _with_hole(rng: np.random.Generator, surface: Surface) -> Surface:
    distance = _blob(rng, surface.height.shape[0], 7, 18)
    mark = smoothstep(1.05, 0.92, distance)
    albedo = surface.albedo * (1 - 0.93 * mark)[..., None]
    return replace(surface, height=(surface.height - 8 * mark).astype(np.float32), albedo=albedo.astype(np.float32))


DAMAGE: Mapping[str, Callable[[np.random.Generator, Surface], Surface]] = {
    "scratch": _with_scratch,
    "crack": _with_crack,
    "dent": _with_dent,
    "stain": _with_stain,
    "hole": _with_hole,
}
DAMAGE_WORDS: Mapping[str, tuple[str, ...]] = {
    "scratch": ("with a scratch", "with a deep scratch", "scratched"),
    "crack": ("with a crack", "with a thin crack", "cracked"),
    "dent": ("with a dent", "dented"),
    "stain": ("with a stain", "with a dark stain", "stained"),
    "hole": ("with a hole", "with a broken hole"),
}


SEEN = 0.06
"""Least change of a display value in [0, 1] that counts as seen, before lens and sensor."""
SEEN_SHARE = 0.002
"""Least share of the frame that a damage must be seen in: 51 px of 160 x 160."""
TRIES = 12


def _shaded(
    light: np.random.Generator, surface: Surface, damage: str | None, *, inside: NDArray[np.bool_] | None = None
) -> tuple[Picture, str | None]:
    """A surface under a light, damaged until the damage can be seen, or not at all.

    Args:
        light: source of the light; draws the same with a damage as without.
        surface: sound.
        damage: a key of `DAMAGE`, or None.
        inside: where the surface is in view [n, n]; None is everywhere.

    Returns:
        (display values [n, n, 3], `damage`, or None if none of `TRIES` could be seen).
    """
    lit = copy.deepcopy(light)
    sound = shade(light, surface)
    if damage is None:
        return sound, None
    rng = np.random.Generator(np.random.PCG64(int(copy.deepcopy(lit).integers(2**63))))
    for _ in range(TRIES):
        hurt = shade(copy.deepcopy(lit), DAMAGE[damage](rng, surface))
        seen = np.abs(np.clip(hurt, 0, 1) - np.clip(sound, 0, 1)).max(axis=2) > SEEN
        if np.mean(seen if inside is None else seen & inside) >= SEEN_SHARE:
            return hurt, damage
    return sound, None


# ---- objects -----------------------------------------------------------------------------------------------------


def _polar(view: View) -> tuple[Field, Field, Field, Field]:
    cu, cv = np.float32(view.u.mean()), np.float32(view.v.mean())
    x, y = view.u - cu, view.v - cv
    return x, y, np.sqrt(x**2 + y**2).astype(np.float32), np.arctan2(y, x).astype(np.float32)


def _bevel(distance: Field, height: float, rim: float) -> Field:
    """A plateau of `height` where `distance` (inside positive) exceeds `rim`."""
    return (height * smoothstep(0.0, rim, distance)).astype(np.float32)


def _hex_nut(rng: np.random.Generator, view: View) -> tuple[str, Field, Field]:
    _, _, radius, angle = _polar(view)
    size = rng.uniform(0.3, 0.4) * view.n
    sector = np.abs((angle % (np.pi / 3)) - np.pi / 6)
    edge = size * 0.95 - radius * np.cos(sector)
    bore = radius - size * rng.uniform(0.42, 0.52)
    inside = np.minimum(edge, bore).astype(np.float32)
    return "hex nut", inside, _bevel(inside, 6, 4)


def _gear(rng: np.random.Generator, view: View) -> tuple[str, Field, Field]:
    _, _, radius, angle = _polar(view)
    size = rng.uniform(0.28, 0.4) * view.n
    teeth = int(rng.integers(9, 22))
    rim = size * (1 + 0.09 * np.clip(2.5 * np.sin(teeth * angle), -1, 1))
    bore = radius - size * rng.uniform(0.15, 0.35)
    inside = np.minimum(rim - radius, bore).astype(np.float32)
    step = smoothstep(0, 2, np.abs(radius - 0.62 * size) - 0.12 * size)
    return "gear wheel", inside, (_bevel(inside, 5, 3) + 2 * step).astype(np.float32)


def _ball(rng: np.random.Generator, view: View) -> tuple[str, Field, Field]:
    _, _, radius, _ = _polar(view)
    size = rng.uniform(0.22, 0.4) * view.n
    inside = (size - radius).astype(np.float32)
    return "ball", inside, np.sqrt(np.clip(size**2 - radius**2, 0, None)).astype(np.float32) * 0.9


def _coin(rng: np.random.Generator, view: View) -> tuple[str, Field, Field]:
    _, _, radius, angle = _polar(view)
    size = rng.uniform(0.3, 0.42) * view.n
    inside = (size - radius).astype(np.float32)
    rim = smoothstep(3, 0, np.abs(radius - 0.92 * size) - 2)
    beads = 0.5 + 0.5 * np.sin(angle * int(rng.integers(30, 60)))
    motif = np.tanh(3 * spectrum_noise(rng, view.n, slope=1.7, low=5)) * (radius < 0.6 * size)
    relief = 1.5 * rim + 0.8 * beads * (np.abs(radius - 0.82 * size) < 2.5) + blur(motif.astype(np.float32), 1.0)
    return "coin", inside, (_bevel(inside, 3, 2) + relief).astype(np.float32)


def _button(rng: np.random.Generator, view: View) -> tuple[str, Field, Field]:
    x, y, radius, _ = _polar(view)
    size = rng.uniform(0.26, 0.4) * view.n
    off = 0.22 * size
    holes = np.minimum.reduce([np.hypot(x - a * off, y - b * off) for a in (-1, 1) for b in (-1, 1)]) - 0.12 * size
    inside = np.minimum(size - radius, holes).astype(np.float32)
    dish = 3 * smoothstep(0.6 * size, 0.75 * size, radius)
    return "four-hole button", inside, (_bevel(inside, 4, 3) + dish).astype(np.float32)


def _bolt_head(rng: np.random.Generator, view: View) -> tuple[str, Field, Field]:
    x, y, radius, _ = _polar(view)
    size = rng.uniform(0.22, 0.36) * view.n
    inside = (size - radius).astype(np.float32)
    slot = np.abs(y) < 0.11 * size
    if rng.random() < 0.5:
        slot = (slot & (np.abs(x) < 0.6 * size)) | ((np.abs(x) < 0.11 * size) & (np.abs(y) < 0.6 * size))
    dome = np.sqrt(np.clip(1 - (radius / (1.15 * size)) ** 2, 0, 1)) * 0.45 * size
    return (
        "screw head",
        inside,
        (_bevel(inside, 3, 2) + dome - 5 * blur(slot.astype(np.float32), 0.7)).astype(np.float32),
    )


def _bracket(rng: np.random.Generator, view: View) -> tuple[str, Field, Field]:
    x, y, _, _ = _polar(view)
    long, high = rng.uniform(0.3, 0.42) * view.n, rng.uniform(0.14, 0.28) * view.n
    corner = 0.4 * high
    qx, qy = np.abs(x) - long + corner, np.abs(y) - high + corner
    outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - corner
    holes = np.minimum(np.hypot(x - 0.6 * long, y), np.hypot(x + 0.6 * long, y)) - 0.3 * high
    inside = np.minimum(-outside, holes).astype(np.float32)
    return "plate with two drilled holes", inside, _bevel(inside, 4, 2.5)


def _threaded_rod(rng: np.random.Generator, view: View) -> tuple[str, Field, Field]:
    x, y, _, _ = _polar(view)
    half = rng.uniform(0.12, 0.24) * view.n
    inside = (half - np.abs(y)).astype(np.float32)
    round_ = np.sqrt(np.clip(half**2 - y**2, 0, None))
    pitch = rng.uniform(6, 16)
    thread = np.abs(((x + 0.25 * y) / pitch) % 1 - 0.5) * 2
    return "threaded rod", inside, (0.9 * round_ + 0.35 * pitch * thread * (round_ > 0)).astype(np.float32)


def _chip(rng: np.random.Generator, view: View) -> tuple[str, Field, Field]:
    x, y, _, _ = _polar(view)
    long, high = rng.uniform(0.24, 0.36) * view.n, rng.uniform(0.14, 0.22) * view.n
    body = np.minimum(long - np.abs(x), high - np.abs(y))
    pitch = long / int(rng.integers(3, 6))
    leg = np.minimum(
        0.25 * pitch - np.abs((x % pitch) - pitch / 2), np.minimum(1.45 * high - np.abs(y), long - np.abs(x))
    )
    inside = np.maximum(body, leg).astype(np.float32)
    dot = smoothstep(0.1 * high, 0.05 * high, np.hypot(x + 0.8 * long, y + 0.6 * high).astype(np.float32))
    return (
        "microchip with legs",
        inside,
        (_bevel(inside, 2, 1.5) + _bevel(body.astype(np.float32), 5, 2) - 2 * dot).astype(np.float32),
    )


OBJECTS: Mapping[str, Callable[[np.random.Generator, View], tuple[str, Field, Field]]] = {
    "hex_nut": _hex_nut,
    "gear": _gear,
    "ball": _ball,
    "coin": _coin,
    "button": _button,
    "bolt_head": _bolt_head,
    "bracket": _bracket,
    "threaded_rod": _threaded_rod,
    "chip": _chip,
}
_OBJECT_STUFF = {
    "hex_nut": ("worn_steel", "galvanized", "rusty_iron", "painted_sheet", "hammered_copper"),
    "gear": ("worn_steel", "galvanized", "rusty_iron", "painted_sheet"),
    "ball": ("worn_steel", "painted_sheet", "marble", "rusty_iron", "ceramic_glaze", "foam"),
    "coin": ("hammered_copper", "worn_steel", "galvanized"),
    "button": ("painted_sheet", "ceramic_glaze", "marble"),
    "bolt_head": ("worn_steel", "galvanized", "rusty_iron", "hammered_copper"),
    "bracket": ("worn_steel", "galvanized", "rusty_iron", "painted_sheet", "perforated_sheet"),
    "threaded_rod": ("worn_steel", "galvanized", "rusty_iron", "hammered_copper"),
    "chip": ("studded_rubber", "painted_sheet"),
}
_STUFF_WORDS = {
    "worn_steel": "steel",
    "galvanized": "zinc",
    "rusty_iron": "rusty iron",
    "marble": "marble",
    "ceramic_glaze": "glazed",
    "foam": "foam",
    "perforated_sheet": "perforated metal",
    "studded_rubber": "black",
}


def _stuff_word(stuff: str, name: str) -> str:
    """What an object of a material is called, given the name of the surface that was drawn."""
    if stuff == "painted_sheet":
        return name.split(" ")[0]
    return name.split(" ")[-1] if stuff == "hammered_copper" else _STUFF_WORDS[stuff]


def _object_scene(rng: np.random.Generator, n: int, kind: str, damage: str | None) -> tuple[Picture, str, str | None]:
    """An object of some material lying on a plain or textured ground, with its shadow: (picture, name, damage seen)."""
    stuff = _OBJECT_STUFF[kind][int(rng.integers(len(_OBJECT_STUFF[kind])))]
    view = random_view(rng, n)
    shifted = replace(view, u=view.u + np.float32(rng.normal(0, 3)), v=view.v + np.float32(rng.normal(0, 3)))
    noun, inside, shape = OBJECTS[kind](rng, shifted)
    skin = MATERIALS[stuff](rng, random_view(rng, n))
    top = replace(skin, height=(0.4 * skin.height + shape).astype(np.float32))
    if rng.random() < 0.6:
        tone, color = paint(rng, ("white", "grey", "black", "blue", "green", "beige"))
        flat = spectrum_noise(rng, n, slope=rng.uniform(1.0, 2.0))
        ground = Surface(f"{tone} background", 0.15 * flat, np.clip(color * (1 + 0.02 * flat)[..., None], 0, 1), 0.1)
    else:
        names = ("concrete", "felt", "cardboard", "painted_sheet", "sand", "cork", "granite")
        ground = MATERIALS[names[int(rng.integers(len(names)))]](rng, random_view(rng, n))
    alpha = smoothstep(-0.6, 0.6, inside)
    shadow = gaussian_filter(np.roll(alpha, tuple(rng.integers(-6, 7, 2)), (0, 1)), rng.uniform(1.5, 5))
    light = np.random.Generator(np.random.PCG64(int(rng.integers(2**63))))
    same_light = copy.deepcopy(light)
    back = shade(light, ground) * (1 - rng.uniform(0.3, 0.7) * shadow)[..., None]
    front, damage = _shaded(same_light, top, damage, inside=alpha > 0.5)
    picture = back * (1 - alpha[..., None]) + front * alpha[..., None]
    return picture, f"{_stuff_word(stuff, skin.name)} {noun} on {ground.name}", damage


# ---- one picture -------------------------------------------------------------------------------------------------

_VIEWS = ("a photo of", "a close-up photo of", "a macro photo of", "a picture of", "a detailed photo of", "")


def caption(rng: np.random.Generator, subject: str, damage: str | None) -> str:
    """A true sentence in one of several forms; undamaged subjects are sometimes called normal."""
    view = _VIEWS[int(rng.integers(len(_VIEWS)))]
    if damage:
        words = DAMAGE_WORDS[damage]
        word = words[int(rng.integers(len(words)))]
        subject = f"{subject} {word}" if word.startswith("with") else f"{word} {subject}"
    elif rng.random() < 0.2:
        subject = f"normal {subject}"
    return f"{view} {subject}".strip()


def render(rng: np.random.Generator, n: int, *, subject: str, damage: str | None) -> tuple[NDArray[np.uint8], str]:
    """One captioned training picture.

    Args:
        rng: source of everything random in it.
        n: side [px].
        subject: a key of `MATERIALS` or `OBJECTS`.
        damage: a key of `DAMAGE`, or None for an undamaged subject; one that would not be seen is left out of picture
            and caption. But for the damage both pictures are the same.

    Returns:
        (picture uint8 [n, n, 3], caption).
    """
    if subject in OBJECTS:
        picture, name, damage = _object_scene(rng, n, subject, damage)
    else:
        surface = MATERIALS[subject](rng, random_view(rng, n))
        picture, damage = _shaded(rng, surface, damage)
        name = surface.name
    return photograph(rng, picture), caption(rng, name, damage)
