"""Surfaces the backbone learns to draw, each a function (rng, view) -> Surface with a true name.

The demo categories of `anosynth.sources.procedural` (cast metal, brushed metal, wood, woven fabric, leather, ceramic
tile, washer, pill) are held out: no surface here is one of them.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anosynth.pretraining.fields import Field, View, band_noise, blur, cells, smoothstep, spectrum_noise, strokes


@dataclass(frozen=True)
class Surface:
    """What the renderer needs to know of a piece of surface.

    Attributes:
        name: its true name with adjectives, as said after "a photo of".
        height: relief [px], [n, n].
        albedo: reflectance in display values [0, 1], [n, n, 3].
        gloss: 0 is chalk, 1 a mirror; [n, n] or one number.
        metal: share of the reflection tinted by the albedo; [n, n] or one number.
    """

    name: str
    height: Field
    albedo: NDArray[np.float32]
    gloss: Field | float = 0.1
    metal: Field | float = 0.0


Material = Callable[[np.random.Generator, View], Surface]

# name -> ranges of hue [turns], saturation, value
PALETTE: Mapping[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-0.02, 0.02), (0.65, 0.9), (0.5, 0.85)),
    "orange": ((0.05, 0.08), (0.7, 0.95), (0.75, 0.95)),
    "yellow": ((0.12, 0.155), (0.65, 0.95), (0.8, 0.97)),
    "green": ((0.28, 0.4), (0.45, 0.8), (0.3, 0.7)),
    "blue": ((0.56, 0.65), (0.55, 0.9), (0.35, 0.8)),
    "purple": ((0.74, 0.82), (0.4, 0.75), (0.35, 0.7)),
    "pink": ((0.9, 0.96), (0.3, 0.55), (0.75, 0.95)),
    "brown": ((0.04, 0.08), (0.45, 0.7), (0.25, 0.5)),
    "beige": ((0.08, 0.13), (0.15, 0.35), (0.7, 0.9)),
    "white": ((0.0, 1.0), (0.0, 0.05), (0.85, 0.97)),
    "grey": ((0.0, 1.0), (0.0, 0.06), (0.35, 0.65)),
    "black": ((0.0, 1.0), (0.0, 0.15), (0.06, 0.16)),
}
BRIGHT = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "grey", "black")


def paint(rng: np.random.Generator, names: tuple[str, ...] = tuple(PALETTE)) -> tuple[str, NDArray[np.float32]]:
    """One of the named colours: (name, display RGB [3])."""
    name = names[int(rng.integers(len(names)))]
    hue, saturation, value = (rng.uniform(*span) for span in PALETTE[name])
    return name, np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), np.float32)


def _rgb(rng: np.random.Generator, hue: float, saturation: float, value: float, spread: float = 0.05) -> Field:
    hue += rng.normal(0, spread * 0.2)
    saturation = float(np.clip(saturation + rng.normal(0, spread), 0, 1))
    value = float(np.clip(value + rng.normal(0, spread), 0.03, 1))
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), np.float32)


def _tone(color: Field, factor: Field) -> NDArray[np.float32]:
    """A colour times a field of brightness."""
    return np.clip(color * factor[..., None], 0.0, 1.0).astype(np.float32)


def _mix(a: NDArray[np.float32], b: NDArray[np.float32], share: Field) -> NDArray[np.float32]:
    return (a * (1 - share[..., None]) + b * share[..., None]).astype(np.float32)


def _pick(rng: np.random.Generator, *words: str) -> str:
    return words[int(rng.integers(len(words)))]


def _steel(rng: np.random.Generator) -> Field:
    return _rgb(rng, rng.choice([0.08, 0.6]), rng.uniform(0.0, 0.07), rng.uniform(0.42, 0.75), 0.02)


# ---- masonry and ground ------------------------------------------------------------------------------------------


def _courses(
    rng: np.random.Generator, view: View, *, long: float, high: float, offset: float, gap: float, wobble: float
) -> tuple[Field, Field]:
    """Running bond: (distance to the joint [px], random number per brick)."""
    n = view.n
    u = view.u + wobble * band_noise(rng, n, period_px=25)
    v = view.v + wobble * band_noise(rng, n, period_px=25)
    row = np.floor(v / high)
    shift = u / long + row * offset
    column = np.floor(shift)
    inside = np.minimum(
        np.minimum(shift - column, 1 - (shift - column)) * long, np.minimum(v / high - row, 1 - (v / high - row)) * high
    )
    table = rng.random((64, 64), dtype=np.float32)
    value = table[row.astype(int) % 64, column.astype(int) % 64]
    return (inside - gap / 2).astype(np.float32), value


def brick_wall(rng: np.random.Generator, view: View) -> Surface:
    """Bricks in running bond with mortar."""
    long = rng.uniform(28, 70)
    edge, value = _courses(
        rng, view, long=long, high=long * rng.uniform(0.3, 0.45), offset=0.5, gap=long * 0.06, wobble=rng.uniform(0, 1)
    )
    brick = smoothstep(0, rng.uniform(1.5, 4), edge)
    name, color = _pick(rng, "red", "red", "brown", "grey", "yellow", "white"), None
    color = {
        "red": _rgb(rng, 0.02, 0.6, 0.58),
        "brown": _rgb(rng, 0.05, 0.5, 0.4),
        "grey": _rgb(rng, 0.08, 0.06, 0.5),
        "yellow": _rgb(rng, 0.11, 0.45, 0.75),
        "white": _rgb(rng, 0.1, 0.05, 0.88),
    }[name]
    rough = spectrum_noise(rng, view.n, slope=rng.uniform(0.6, 1.2))
    tone = 1 + (value - 0.5) * rng.uniform(0.2, 0.7) + 0.07 * rough
    mortar = _tone(_rgb(rng, 0.1, 0.08, rng.uniform(0.45, 0.8)), 1 + 0.08 * spectrum_noise(rng, view.n, slope=0.5))
    return Surface(
        f"{name} brick wall",
        brick * rng.uniform(2, 5) + 0.35 * rough,
        _mix(mortar, _tone(color, tone), brick),
        rng.uniform(0.02, 0.12),
    )


def stone_wall(rng: np.random.Generator, view: View) -> Surface:
    """Irregular stones with joints."""
    size = rng.uniform(22, 50)
    c = cells(rng, view.u / size, view.v / (size * rng.uniform(0.5, 0.9)), jitter=rng.uniform(0.6, 0.95))
    stone = smoothstep(0.03, 0.22, c.border + 0.03 * band_noise(rng, view.n, period_px=7))
    rough = spectrum_noise(rng, view.n, slope=1.0)
    tone = 0.8 + 0.5 * (c.values[0] - 0.5) + 0.12 * rough
    warm = _mix(
        np.broadcast_to(_rgb(rng, 0.09, 0.25, 0.6), (view.n, view.n, 3)),
        np.broadcast_to(_rgb(rng, 0.6, 0.08, 0.5), (view.n, view.n, 3)),
        c.values[1],
    )
    albedo = _mix(_tone(_rgb(rng, 0.1, 0.1, rng.uniform(0.2, 0.6)), 1 + 0.1 * rough), warm * tone[..., None], stone)
    return Surface("rough stone wall", 6 * stone + 1.2 * rough * stone, np.clip(albedo, 0, 1), 0.05)


def cobblestone(rng: np.random.Generator, view: View) -> Surface:
    """Rounded setts in a regular lattice."""
    size = rng.uniform(18, 36)
    c = cells(rng, view.u / size + 0.5 * np.floor(view.v / size), view.v / size, jitter=rng.uniform(0.1, 0.35))
    dome = smoothstep(0.02, 0.55, c.border)
    rough = spectrum_noise(rng, view.n, slope=0.9)
    color = _rgb(rng, _HUES[int(rng.integers(3))], 0.1, 0.5)
    tone = (0.55 + 0.45 * dome) * (1 + 0.5 * (c.values[0] - 0.5)) + 0.07 * rough
    return Surface("grey cobblestone pavement", size * 0.28 * dome + 0.5 * rough, _tone(color, tone), 0.12)


_HUES = (0.07, 0.1, 0.6)


def gravel(rng: np.random.Generator, view: View) -> Surface:
    """Loose sharp stones of mixed grey."""
    size = rng.uniform(5, 16)
    warp = 0.18 * band_noise(rng, view.n, period_px=size * 0.7)
    c = cells(rng, view.u / size + warp, view.v / size - warp)
    dome = smoothstep(0.0, 0.4, c.border)
    fine = spectrum_noise(rng, view.n, slope=0.6)
    tone = (0.25 + 0.75 * dome) * (0.55 + 0.9 * c.values[0]) + 0.08 * fine
    facet = (c.values[1] - 0.5) * np.sin(view.u / size * 4) + (c.values[2] - 0.5) * np.sin(view.v / size * 4)
    color = _rgb(rng, _HUES[int(rng.integers(3))], rng.uniform(0.0, 0.15), 0.6)
    height = size * (0.45 * dome + 0.35 * c.values[0] * dome + 0.15 * facet * dome) + 0.3 * fine
    return Surface("grey gravel", height, _tone(color, tone), 0.06)


def pebbles(rng: np.random.Generator, view: View) -> Surface:
    """Smooth round stones of several colours."""
    size = rng.uniform(12, 28)
    c = cells(rng, view.u / size, view.v / size, jitter=0.8)
    dome = np.sqrt(np.clip(c.border * 1.6, 0, 1))
    n = view.n
    light = np.broadcast_to(_rgb(rng, 0.09, 0.2, 0.75), (n, n, 3))
    dark = np.broadcast_to(_rgb(rng, 0.6, 0.1, 0.35), (n, n, 3))
    warm = np.broadcast_to(_rgb(rng, 0.05, 0.45, 0.55), (n, n, 3))
    albedo = _mix(_mix(light, dark, smoothstep(0.3, 0.7, c.values[0])), warm, smoothstep(0.7, 0.8, c.values[1]))
    speck = 1 + 0.1 * band_noise(rng, n, period_px=3)
    wet = rng.random() < 0.4
    albedo = np.clip(albedo * ((0.2 + 0.8 * np.minimum(1, dome * 1.3)) * speck)[..., None], 0, 1)
    return Surface(
        f"{'wet' if wet else 'smooth'} river pebbles",
        size * 0.45 * dome,
        albedo.astype(np.float32),
        0.75 if wet else 0.25,
    )


def sand(rng: np.random.Generator, view: View) -> Surface:
    """Fine grains with wind ripples."""
    grain = spectrum_noise(rng, view.n, slope=0.1)
    warp = 10 * spectrum_noise(rng, view.n, slope=2.0)
    period = rng.uniform(14, 40)
    ripple = np.sin(2 * np.pi * (view.u + warp) / period) * rng.uniform(0.2, 1.0)
    color = _rgb(rng, 0.1, 0.38, 0.78)
    return Surface(
        "rippled yellow sand", period * 0.09 * ripple + 0.3 * grain, _tone(color, 1 + 0.1 * grain + 0.05 * ripple), 0.03
    )


def asphalt(rng: np.random.Generator, view: View) -> Surface:
    """Dark bitumen with light chippings."""
    size = rng.uniform(3, 7)
    c = cells(rng, view.u / size, view.v / size)
    chip = smoothstep(0.55, 0.35, c.nearest) * smoothstep(0.35, 0.6, c.values[0])
    fine = spectrum_noise(rng, view.n, slope=0.4)
    tone = 0.5 + chip * (0.5 + 1.3 * c.values[1]) + 0.14 * fine
    return Surface("dark asphalt road", size * 0.4 * chip + 0.5 * fine, _tone(_rgb(rng, 0.6, 0.03, 0.26), tone), 0.15)


def concrete(rng: np.random.Generator, view: View) -> Surface:
    """Cement with clouds, pores and fine grit."""
    n = view.n
    cloud, grit = spectrum_noise(rng, n, slope=1.6), spectrum_noise(rng, n, slope=0.3)
    size = rng.uniform(9, 25)
    c = cells(rng, view.u / size, view.v / size)
    pore = smoothstep(0.16, 0.06, c.nearest + 0.0 * grit) * smoothstep(0.5, 0.6, c.values[0])
    tone = 1 + 0.09 * cloud + 0.035 * grit - 0.5 * pore
    color = _rgb(rng, 0.1, 0.04, rng.uniform(0.5, 0.75))
    return Surface("bare grey concrete", 0.25 * cloud + 0.2 * grit - 2.5 * pore, _tone(color, tone), 0.06)


def stucco(rng: np.random.Generator, view: View) -> Surface:
    """Thrown plaster with blobs."""
    word, color = paint(rng, ("white", "beige", "yellow", "pink", "grey"))
    period = rng.uniform(5, 12)
    blob = np.maximum(band_noise(rng, view.n, period_px=period), -0.6)
    fine = spectrum_noise(rng, view.n, slope=0.7)
    return Surface(f"{word} stucco plaster", period * 0.25 * blob + 0.25 * fine, _tone(color, 0.9 + 0.04 * fine), 0.04)


def dry_mud(rng: np.random.Generator, view: View) -> Surface:
    """Cracked earth."""
    size = rng.uniform(18, 48)
    warp = 0.08 * band_noise(rng, view.n, period_px=14)
    c = cells(rng, view.u / size + warp, view.v / size + warp)
    plate = smoothstep(0.02, 0.09, c.border)
    rough = spectrum_noise(rng, view.n, slope=1.0)
    dome = smoothstep(0.0, 0.6, c.border)
    tone = (0.25 + 0.75 * plate) * (0.95 + 0.15 * (c.values[0] - 0.5)) + 0.05 * rough
    return Surface("cracked dry mud", 5 * plate + 2 * dome + 0.5 * rough, _tone(_rgb(rng, 0.08, 0.33, 0.6), tone), 0.04)


def marble(rng: np.random.Generator, view: View) -> Surface:
    """Polished stone with veins."""
    n = view.n
    word = _pick(rng, "white", "white", "black", "green", "pink")
    base = {
        "white": _rgb(rng, 0.1, 0.03, 0.9),
        "black": _rgb(rng, 0.6, 0.08, 0.13),
        "green": _rgb(rng, 0.38, 0.45, 0.32),
        "pink": _rgb(rng, 0.02, 0.22, 0.8),
    }[word]
    vein_color = _rgb(rng, 0.6, 0.06, 0.85 if word in ("black", "green") else 0.42)
    warp = spectrum_noise(rng, n, slope=1.7)
    vein = np.zeros((n, n), np.float32)
    for _ in range(int(rng.integers(2, 5))):
        turn, period = rng.uniform(0, np.pi), rng.uniform(50, 130)
        phase = (np.cos(turn) * view.u + np.sin(turn) * view.v) / period + 0.35 * warp
        ridge = np.abs((phase % 1.0) - 0.5) + 0.04 * spectrum_noise(rng, n, slope=1.4)
        vein = np.maximum(vein, smoothstep(rng.uniform(0.03, 0.12), 0.0, ridge) * rng.uniform(0.3, 0.9))
    cloud = smoothstep(-1.0, 2.5, spectrum_noise(rng, n, slope=1.8)) * 0.35
    full = np.broadcast_to(base, (n, n, 3))
    albedo = _mix(
        _mix(full, np.broadcast_to(vein_color, (n, n, 3)), cloud), np.broadcast_to(vein_color, (n, n, 3)), vein
    )
    return Surface(f"polished {word} marble", 0.05 * warp, albedo, rng.uniform(0.6, 0.9))


def granite(rng: np.random.Generator, view: View) -> Surface:
    """Speckled igneous stone."""
    n = view.n
    size = rng.uniform(2.5, 5.5)
    warp = 0.3 * band_noise(rng, n, period_px=size)
    c = cells(rng, view.u / size + warp, view.v / size + warp)
    word = _pick(rng, "grey", "pink", "black")
    main = {"grey": _rgb(rng, 0.1, 0.03, 0.68), "pink": _rgb(rng, 0.03, 0.3, 0.7), "black": _rgb(rng, 0.6, 0.05, 0.2)}
    full = np.broadcast_to(main[word], (n, n, 3)) * (0.85 + 0.3 * c.values[2])[..., None]
    dark = np.broadcast_to(_rgb(rng, 0.6, 0.05, 0.12), (n, n, 3))
    light = np.broadcast_to(_rgb(rng, 0.1, 0.05, 0.88), (n, n, 3))
    albedo = _mix(_mix(full, dark, smoothstep(0.68, 0.72, c.values[0])), light, smoothstep(0.7, 0.74, c.values[1]))
    return Surface(f"speckled {word} granite", 0.1 * warp, np.clip(albedo, 0, 1), rng.uniform(0.3, 0.8))


def terrazzo(rng: np.random.Generator, view: View) -> Surface:
    """Coloured stone chips in polished cement."""
    n = view.n
    size = rng.uniform(11, 22)
    warp = 0.12 * band_noise(rng, n, period_px=size * 0.6)
    c = cells(rng, view.u / size + warp, view.v / size - warp)
    chip = smoothstep(0.12, 0.15, c.border) * (c.values[0] > 0.25)
    ground = np.broadcast_to(_rgb(rng, 0.1, 0.05, rng.uniform(0.7, 0.92)), (n, n, 3))
    chips = [paint(rng, ("brown", "orange", "green", "black", "white", "grey", "pink"))[1] for _ in range(4)]
    albedo = np.asarray(chips, np.float32)[np.minimum((c.values[1] * 4).astype(int), 3)]
    flat = 0.03 * spectrum_noise(rng, n, slope=1.0)
    return Surface(
        "colourful terrazzo floor", flat, _mix(ground, albedo, chip.astype(np.float32)), rng.uniform(0.4, 0.8)
    )


# ---- plants, fibres, cloth other than plain weave ----------------------------------------------------------------


def grass_lawn(rng: np.random.Generator, view: View) -> Surface:
    """Blades of grass from above."""
    n = view.n
    depth, tone = strokes(
        rng,
        n,
        count=int(rng.integers(1400, 2200)),
        length_px=rng.uniform(8, 16),
        width_px=rng.uniform(1.0, 2.0),
        angle=rng.uniform(0, 6.3),
        spread=rng.uniform(0.5, 2.0),
        bend=0.6,
    )
    green, dry = _rgb(rng, 0.27, 0.6, 0.55), _rgb(rng, 0.17, 0.5, 0.68)
    albedo = _mix(np.broadcast_to(green, (n, n, 3)), np.broadcast_to(dry, (n, n, 3)), smoothstep(0.5, 1.1, tone))
    lit = (0.22 + 0.85 * depth * (0.6 + 0.5 * tone)).astype(np.float32)
    return Surface("green grass lawn", 5 * depth + 2 * tone, np.clip(albedo * lit[..., None], 0, 1), 0.15)


def straw(rng: np.random.Generator, view: View) -> Surface:
    """Dry stalks lying across each other."""
    depth, tone = strokes(
        rng,
        view.n,
        count=int(rng.integers(250, 500)),
        length_px=rng.uniform(35, 60),
        width_px=rng.uniform(1.5, 3.5),
        angle=rng.uniform(0, 6.3),
        spread=rng.uniform(0.3, 1.6),
    )
    color = _rgb(rng, 0.125, 0.5, 0.82)
    lit = (0.15 + 0.85 * depth * (0.65 + 0.5 * tone)).astype(np.float32)
    return Surface("dry yellow straw", 6 * depth + tone, _tone(color, lit), 0.2)


def tree_bark(rng: np.random.Generator, view: View) -> Surface:
    """Furrowed bark."""
    n = view.n
    angle = float(rng.uniform(0, np.pi))
    ridge = np.abs(spectrum_noise(rng, n, slope=1.3, low=4, stretch=rng.uniform(4, 9), angle=angle))
    fine = spectrum_noise(rng, n, slope=0.8, stretch=2.5, angle=angle)
    top = smoothstep(0.0, 0.9, ridge)
    tone = 0.3 + 0.6 * top + 0.13 * fine
    color = _rgb(rng, 0.07, rng.uniform(0.2, 0.45), 0.52)
    return Surface("furrowed tree bark", 7 * top + 0.8 * fine, _tone(color, tone), 0.04)


def wicker(rng: np.random.Generator, view: View) -> Surface:
    """Basket weave of flat strands."""
    size = rng.uniform(8, 18)
    u, v = view.u / size, view.v / (size * rng.uniform(0.45, 0.8))
    over = (np.floor(u) + np.floor(v)) % 2
    fu, fv = u % 1 - 0.5, v % 1 - 0.5
    strand = np.sqrt(np.clip(1 - (2 * fv) ** 2, 0, 1)) * (0.55 + 0.45 * np.cos(2 * np.pi * fu))
    stake = np.sqrt(np.clip(1 - (2.2 * fu) ** 2, 0, 1)) * (0.55 + 0.45 * np.cos(2 * np.pi * fv))
    height = np.where(over > 0.5, strand, stake).astype(np.float32)
    fibre = spectrum_noise(rng, view.n, slope=0.5)
    color = _rgb(rng, 0.085, 0.5, rng.uniform(0.5, 0.75))
    return Surface(
        "woven wicker basket",
        size * 0.35 * height + 0.15 * fibre,
        _tone(color, 0.25 + 0.75 * height + 0.07 * fibre),
        0.25,
    )


def knitted_wool(rng: np.random.Generator, view: View) -> Surface:
    """Stockinette stitches: columns of small v shapes."""
    n = view.n
    size = rng.uniform(7, 15)
    word, color = paint(rng)
    u, v = view.u / size, view.v / (size * 0.75)
    fu = u % 1 - 0.5
    leg = v + 1.1 * np.abs(fu)
    fl = leg % 1 - 0.5
    stitch = np.sqrt(np.clip(1 - (1.9 * fl) ** 2, 0, 1)) * np.clip(
        1.25 * (1 - 2 * np.abs(np.abs(fu) - 0.25) * 1.6), 0, 1
    )
    fuzz = spectrum_noise(rng, n, slope=0.4)
    tone = 0.35 + 0.7 * stitch + 0.08 * fuzz
    return Surface(
        f"{word} knitted wool", (size * 0.4 * stitch + 0.5 * fuzz).astype(np.float32), _tone(color, tone), 0.02
    )


def carpet(rng: np.random.Generator, view: View) -> Surface:
    """Loop pile."""
    word, color = paint(rng)
    size = rng.uniform(4, 8)
    c = cells(rng, view.u / size, view.v / size, jitter=0.6)
    loop = np.clip(1 - c.nearest * 1.2, 0, 1)
    fuzz = spectrum_noise(rng, view.n, slope=0.2)
    tone = 0.3 + 0.8 * loop + 0.25 * (c.values[0] - 0.5) + 0.08 * fuzz
    return Surface(f"{word} carpet pile", size * 0.7 * loop + 0.5 * fuzz, _tone(color, tone), 0.01)


def felt(rng: np.random.Generator, view: View) -> Surface:
    """Matted fibres."""
    word, color = paint(rng)
    depth, tone = strokes(rng, view.n, count=700, length_px=18, width_px=0.6, angle=0.0, spread=3.0, bend=0.8)
    cloud = spectrum_noise(rng, view.n, slope=1.2)
    return Surface(
        f"{word} felt", 0.8 * depth + 0.3 * cloud, _tone(color, 0.8 + 0.14 * tone + 0.08 * depth + 0.04 * cloud), 0.01
    )


def rope(rng: np.random.Generator, view: View) -> Surface:
    """Parallel twisted ropes."""
    size = rng.uniform(14, 30)
    u = view.u / size
    f = u % 1 - 0.5
    body = np.sqrt(np.clip(1 - (2 * f) ** 2, 0, 1))
    lay = np.abs(np.sin(np.pi * (view.v / (size * 0.45) + f * rng.choice([-1.2, 1.2]) + 0.5 * np.floor(u))))
    fine = spectrum_noise(rng, view.n, slope=0.4)
    word = _pick(rng, "beige", "white", "blue")
    _, color = paint(rng, (word,))
    tone = 0.2 + 0.8 * body * (0.45 + 0.55 * lay) + 0.05 * fine
    height = size * (0.4 * body + 0.12 * lay * body)
    return Surface(f"{word} twisted rope", height.astype(np.float32), _tone(color, tone), 0.08)


def carbon_fibre(rng: np.random.Generator, view: View) -> Surface:
    """Glossy black twill of carbon tows."""
    size = rng.uniform(6, 14)
    iu, iv = np.floor(view.u / size), np.floor(view.v / size)
    over = ((iu + iv) % 4) < 2
    fu, fv = view.u / size % 1 - 0.5, view.v / size % 1 - 0.5
    height = np.where(over, np.cos(np.pi * fv), np.cos(np.pi * fu)).astype(np.float32)
    thread = np.where(over, np.sin(view.v * 2.4), np.sin(view.u * 2.4)).astype(np.float32)
    tone = np.where(over, 0.55, 1.25) + 0.12 * thread
    return Surface(
        "black carbon fibre", size * 0.12 * height + 0.1 * thread, _tone(_rgb(rng, 0.6, 0.08, 0.2), tone), 0.8, 0.3
    )


# ---- paper, plastic, rubber, glass -------------------------------------------------------------------------------


def cork(rng: np.random.Generator, view: View) -> Surface:
    """Pressed cork granules."""
    size = rng.uniform(6, 13)
    warp = 0.2 * band_noise(rng, view.n, period_px=size)
    c = cells(rng, view.u / size + warp, view.v / size + warp)
    dark = smoothstep(0.12, 0.02, c.border) * 0.35 + 0.5 * (c.values[0] > 0.93)
    fine = spectrum_noise(rng, view.n, slope=0.6)
    tone = 0.95 + 0.35 * (c.values[1] - 0.5) - dark + 0.06 * fine
    return Surface(
        "brown cork board", 0.6 * c.values[1] - 1.2 * dark + 0.3 * fine, _tone(_rgb(rng, 0.08, 0.48, 0.68), tone), 0.03
    )


def cardboard(rng: np.random.Generator, view: View) -> Surface:
    """Brown corrugated board with faint flutes."""
    flute = np.sin(2 * np.pi * view.u / rng.uniform(6, 14)).astype(np.float32)
    fibre = spectrum_noise(rng, view.n, slope=0.7, stretch=3.0, angle=float(rng.uniform(0, 3.1)))
    tone = 1 + 0.02 * flute + 0.045 * fibre
    return Surface("brown cardboard", 0.35 * flute + 0.15 * fibre, _tone(_rgb(rng, 0.085, 0.38, 0.68), tone), 0.03)


def crumpled_paper(rng: np.random.Generator, view: View) -> Surface:
    """Creased sheet: planes that meet in sharp folds."""
    n = view.n
    word, color = paint(rng, ("white", "white", "beige", "yellow", "pink", "blue"))
    height = np.zeros((n, n), np.float32)
    for scale in (45.0, 24.0, 13.0):
        c = cells(rng, view.u / scale, view.v / scale)
        slope = (c.values[0] - 0.5) * (view.u % scale) + (c.values[1] - 0.5) * (view.v % scale)
        height += 0.25 * blur(slope.astype(np.float32), 0.8) + 0.3 * scale * c.nearest
    return Surface(f"crumpled {word} paper", 0.5 * height, _tone(color, np.ones((n, n), np.float32)), 0.04)


def sandpaper(rng: np.random.Generator, view: View) -> Surface:
    """Dense sharp grit glued to paper."""
    grit = spectrum_noise(rng, view.n, slope=-0.1 + 0.5 * rng.random())
    spark = smoothstep(1.6, 2.6, grit)
    word = _pick(rng, "brown", "orange", "black")
    color = {
        "brown": _rgb(rng, 0.06, 0.5, 0.42),
        "orange": _rgb(rng, 0.07, 0.7, 0.62),
        "black": _rgb(rng, 0.6, 0.05, 0.18),
    }
    tone = 0.8 + 0.25 * grit + 0.9 * spark
    return Surface(f"coarse {word} sandpaper", 0.9 * grit, _tone(color[word], tone), 0.3)


def foam(rng: np.random.Generator, view: View) -> Surface:
    """Open-pored sponge."""
    n = view.n
    word, color = paint(rng, ("yellow", "blue", "grey", "pink", "green", "black"))
    size = rng.uniform(6, 16)
    c = cells(rng, view.u / size, view.v / size)
    small = cells(rng, view.u / (size * 0.4), view.v / (size * 0.4))
    pore = smoothstep(0.55, 0.25, c.nearest) * (c.values[0] > 0.2)
    tiny = smoothstep(0.5, 0.3, small.nearest) * (small.values[0] > 0.4)
    depth = np.maximum(pore, 0.6 * tiny).astype(np.float32)
    tone = 1 - 0.65 * depth + 0.04 * spectrum_noise(rng, n, slope=0.5)
    return Surface(f"{word} foam sponge", -size * 0.55 * depth, _tone(color, tone), 0.02)


def striped_plastic(rng: np.random.Generator, view: View) -> Surface:
    """Glossy sheet with printed stripes of two colours."""
    n = view.n
    first, a = paint(rng, BRIGHT)
    second, b = paint(rng, tuple(name for name in BRIGHT if name != first))
    period = rng.uniform(10, 45)
    stripe = smoothstep(-0.12, 0.12, np.sin(2 * np.pi * view.u / period).astype(np.float32))
    albedo = _mix(np.broadcast_to(a, (n, n, 3)), np.broadcast_to(b, (n, n, 3)), stripe)
    return Surface(f"{first} and {second} striped plastic", 0.4 * spectrum_noise(rng, n, slope=2.0), albedo, 0.7)


def checkered(rng: np.random.Generator, view: View) -> Surface:
    """Printed checkerboard of two colours."""
    n = view.n
    first, a = paint(rng, BRIGHT)
    second, b = paint(rng, tuple(name for name in BRIGHT if name != first))
    size = rng.uniform(9, 30)
    wave = np.sin(np.pi * view.u / size) * np.sin(np.pi * view.v / size)
    albedo = _mix(np.broadcast_to(a, (n, n, 3)), np.broadcast_to(b, (n, n, 3)), smoothstep(-0.04, 0.04, wave))
    return Surface(
        f"{first} and {second} checkered print", 0.2 * spectrum_noise(rng, n, slope=1.6), albedo, rng.uniform(0.1, 0.7)
    )


def polka_dots(rng: np.random.Generator, view: View) -> Surface:
    """Printed dots on a plain ground."""
    n = view.n
    first, a = paint(rng, BRIGHT)
    second, b = paint(rng, tuple(name for name in BRIGHT if name != first))
    size = rng.uniform(12, 32)
    c = cells(rng, view.u / size + 0.5 * (np.floor(view.v / size) % 2), view.v / size, jitter=0.0)
    dot = smoothstep(0.36, 0.32, c.nearest)
    albedo = _mix(np.broadcast_to(b, (n, n, 3)), np.broadcast_to(a, (n, n, 3)), dot)
    return Surface(
        f"{first} dots printed on {second}", 0.2 * spectrum_noise(rng, n, slope=1.6), albedo, rng.uniform(0.05, 0.6)
    )


def studded_rubber(rng: np.random.Generator, view: View) -> Surface:
    """Black mat with round studs."""
    n = view.n
    size = rng.uniform(14, 30)
    c = cells(rng, view.u / size + 0.5 * (np.floor(view.v / size) % 2), view.v / size, jitter=0.0)
    stud = smoothstep(rng.uniform(0.38, 0.44), 0.28, c.nearest)
    fine = spectrum_noise(rng, n, slope=0.5)
    tone = 0.9 + 0.25 * stud + 0.07 * fine
    return Surface(
        "black studded rubber mat", size * 0.22 * stud + 0.1 * fine, _tone(_rgb(rng, 0.6, 0.05, 0.17), tone), 0.25
    )


def bubble_wrap(rng: np.random.Generator, view: View) -> Surface:
    """Clear film with air bubbles."""
    size = rng.uniform(12, 28)
    c = cells(rng, view.u / size + 0.5 * (np.floor(view.v / size) % 2), view.v / size, jitter=0.03)
    dome = np.sqrt(np.clip(1 - (c.nearest / 0.43) ** 2, 0, 1))
    crease = spectrum_noise(rng, view.n, slope=1.6)
    tone = 0.8 + 0.1 * dome + 0.03 * crease
    return Surface(
        "transparent bubble wrap", size * 0.3 * dome + 0.8 * crease, _tone(_rgb(rng, 0.58, 0.06, 0.85), tone), 0.95
    )


def frosted_glass(rng: np.random.Generator, view: View) -> Surface:
    """Hammered bluish glass."""
    bump = band_noise(rng, view.n, period_px=rng.uniform(8, 20))
    word, color = _pick(rng, "blue", "green"), None
    color = _rgb(rng, 0.55 if word == "blue" else 0.42, 0.18, 0.8)
    tone = 0.85 + 0.1 * bump + 0.08 * spectrum_noise(rng, view.n, slope=2.0)
    return Surface(f"{word} frosted glass", 2.2 * bump, _tone(color, tone), 0.9, 0.2)


def circuit_board(rng: np.random.Generator, view: View) -> Surface:
    """Green solder mask with copper traces and pads."""
    n = view.n
    word = _pick(rng, "green", "green", "green", "blue", "black")
    mask = {"green": _rgb(rng, 0.38, 0.75, 0.32), "blue": _rgb(rng, 0.6, 0.75, 0.4), "black": _rgb(rng, 0.6, 0.1, 0.12)}
    pitch = rng.uniform(6, 12)
    iu, iv = np.floor(view.u / pitch).astype(int) % 48, np.floor(view.v / pitch).astype(int) % 48
    fu, fv = view.u / pitch % 1 - 0.5, view.v / pitch % 1 - 0.5
    run = rng.integers(0, 3, (8, 8)).repeat(6, 0).repeat(6, 1)
    kind = rng.random((48, 48))
    lane = np.where(run[iu, iv] == 0, np.abs(fu), np.where(run[iu, iv] == 1, np.abs(fv), 0.5)).astype(np.float32)
    trace = smoothstep(0.24, 0.16, lane) * (kind[iu, iv] > 0.12)
    radius = np.sqrt(fu**2 + fv**2).astype(np.float32)
    pad = smoothstep(0.42, 0.34, radius) * (kind[iu, iv] > 0.86)
    hole = smoothstep(0.2, 0.12, radius) * (kind[iu, iv] > 0.92)
    full = np.broadcast_to(mask[word], (n, n, 3))
    albedo = _mix(full, np.broadcast_to(np.clip(mask[word] * 1.6 + 0.04, 0, 1), (n, n, 3)), trace.astype(np.float32))
    albedo = _mix(albedo, np.broadcast_to(_rgb(rng, 0.12, 0.35, 0.85), (n, n, 3)), pad.astype(np.float32))
    albedo = albedo * (1 - 0.9 * hole)[..., None]
    height = 0.8 * trace + 1.2 * pad - 2 * hole
    return Surface(
        f"{word} printed circuit board",
        height.astype(np.float32),
        albedo.astype(np.float32),
        0.5,
        pad.astype(np.float32),
    )


# ---- metals other than cast and brushed --------------------------------------------------------------------------


def rusty_iron(rng: np.random.Generator, view: View) -> Surface:
    """Corroded plate with flakes and pits."""
    n = view.n
    cloud, flake = spectrum_noise(rng, n, slope=1.2), spectrum_noise(rng, n, slope=0.7)
    dark = np.broadcast_to(_rgb(rng, 0.03, 0.6, 0.28), (n, n, 3))
    bright = np.broadcast_to(_rgb(rng, 0.06, 0.78, 0.62), (n, n, 3))
    grey = np.broadcast_to(_rgb(rng, 0.05, 0.12, 0.4), (n, n, 3))
    rust = _mix(dark, bright, smoothstep(-1.2, 1.4, cloud + 0.6 * flake))
    bare = smoothstep(rng.uniform(0.8, 2.2), 2.6, spectrum_noise(rng, n, slope=1.5) + 0.3 * flake)
    albedo = _mix(rust, grey, bare)
    return Surface(
        "rusty iron", 0.9 * flake + 0.8 * cloud - 1.2 * bare, np.clip(albedo, 0, 1), 0.08 + 0.4 * bare, 0.6 * bare
    )


def painted_sheet(rng: np.random.Generator, view: View) -> Surface:
    """Lacquered sheet metal with orange peel."""
    n = view.n
    word, color = paint(rng, BRIGHT)
    peel = band_noise(rng, n, period_px=rng.uniform(4, 10))
    wave = spectrum_noise(rng, n, slope=2.2)
    tone = 1 + 0.02 * wave + 0.01 * peel
    return Surface(
        f"{word} painted sheet metal",
        rng.uniform(0.03, 0.25) * peel + rng.uniform(0.2, 2) * wave,
        _tone(color, tone),
        rng.uniform(0.55, 0.9),
    )


def corrugated_metal(rng: np.random.Generator, view: View) -> Surface:
    """Wavy roofing sheet."""
    n = view.n
    period = rng.uniform(14, 40)
    wave = np.sin(2 * np.pi * view.u / period).astype(np.float32)
    dull = spectrum_noise(rng, n, slope=1.2)
    tone = 1 + 0.05 * dull
    height = period * 0.2 * wave + 0.1 * dull
    return Surface("corrugated metal sheet", height, _tone(_steel(rng), tone), rng.uniform(0.35, 0.7), 0.9)


def knurled_steel(rng: np.random.Generator, view: View) -> Surface:
    """Diamond knurling."""
    pitch = rng.uniform(5, 13)
    a = (view.u + 0.6 * view.v) / pitch
    b = (view.u - 0.6 * view.v) / pitch
    height = (np.abs(a % 1 - 0.5) + np.abs(b % 1 - 0.5)).astype(np.float32)
    fine = spectrum_noise(rng, view.n, slope=0.6)
    tone = 0.6 + 0.5 * height + 0.05 * fine
    return Surface(
        "knurled steel", pitch * 0.5 * height + 0.05 * fine, _tone(_steel(rng), tone), rng.uniform(0.5, 0.8), 1.0
    )


def tread_plate(rng: np.random.Generator, view: View) -> Surface:
    """Checker plate: raised lozenges of alternating direction."""
    size = rng.uniform(14, 28)
    u, v = view.u / size, view.v / size
    over = (np.floor(u) + np.floor(v)) % 2
    fu, fv = u % 1 - 0.5, v % 1 - 0.5
    a = np.where(over > 0.5, fu + fv, fu - fv)
    b = np.where(over > 0.5, fu - fv, fu + fv)
    lozenge = smoothstep(1.0, 0.75, ((a / 0.62) ** 2 + (b / 0.2) ** 2).astype(np.float32))
    fine = spectrum_noise(rng, view.n, slope=0.9)
    tone = 0.85 + 0.2 * lozenge + 0.05 * fine
    return Surface(
        "diamond tread plate", 2.5 * lozenge + 0.12 * fine, _tone(_steel(rng), tone), rng.uniform(0.4, 0.75), 1.0
    )


def perforated_sheet(rng: np.random.Generator, view: View) -> Surface:
    """Sheet with a lattice of round holes."""
    n = view.n
    size = rng.uniform(9, 22)
    c = cells(rng, view.u / size + 0.5 * (np.floor(view.v / size) % 2), view.v / size, jitter=0.0)
    radius = rng.uniform(0.24, 0.36)
    hole = smoothstep(radius + 0.04, radius - 0.04, c.nearest)
    fine = spectrum_noise(rng, n, slope=0.8)
    tone = (1 + 0.05 * fine) * (1 - hole) + hole * rng.uniform(0.05, 0.2)
    return Surface(
        "perforated metal sheet", -3 * hole + 0.05 * fine, _tone(_steel(rng), tone), 0.5 * (1 - hole), 1 - hole
    )


def wire_mesh(rng: np.random.Generator, view: View) -> Surface:
    """Crossing wires over a dark ground."""
    n = view.n
    size = rng.uniform(8, 20)
    fu, fv = view.u / size % 1 - 0.5, view.v / size % 1 - 0.5
    over = (np.floor(view.u / size) + np.floor(view.v / size)) % 2 > 0.5
    thick = rng.uniform(0.12, 0.24)
    wu = np.sqrt(np.clip(1 - (fu / thick) ** 2, 0, 1))
    wv = np.sqrt(np.clip(1 - (fv / thick) ** 2, 0, 1))
    lift = np.where(over, wu * 1.5 + wv, wu + wv * 1.5)
    wire = np.maximum(wu, wv).astype(np.float32)
    ground = _rgb(rng, 0.6, 0.1, rng.uniform(0.05, 0.2))
    albedo = _mix(
        np.broadcast_to(ground, (n, n, 3)), np.broadcast_to(_steel(rng), (n, n, 3)), smoothstep(0.0, 0.4, wire)
    )
    return Surface("woven wire mesh", (size * thick * lift).astype(np.float32), albedo, 0.6 * wire, wire)


def honeycomb(rng: np.random.Generator, view: View) -> Surface:
    """Hexagonal cells with thin walls."""
    n = view.n
    size = rng.uniform(11, 26)
    u, v = view.u / size, view.v / size
    wide = np.float32(np.sqrt(3.0))
    # hexagon centres form two rectangular lattices; the nearer one owns the pixel
    even = ((u + 0.5) % 1.0 - 0.5, (v + wide / 2) % wide - wide / 2)
    odd = (u % 1.0 - 0.5, v % wide - wide / 2)
    own = even[0] ** 2 + even[1] ** 2 < odd[0] ** 2 + odd[1] ** 2
    x, y = np.abs(np.where(own, even[0], odd[0])), np.abs(np.where(own, even[1], odd[1]))
    wall = smoothstep(0.14, 0.06, (0.5 - np.maximum(x, 0.5 * x + 0.866 * y)).astype(np.float32))
    color = _rgb(rng, 0.11, 0.75, 0.8)
    tone = 0.35 + 0.65 * wall + 0.06 * spectrum_noise(rng, n, slope=1.0)
    return Surface("golden honeycomb", size * 0.3 * wall, _tone(color, tone), 0.4)


def galvanized(rng: np.random.Generator, view: View) -> Surface:
    """Zinc coating with spangle crystals."""
    n = view.n
    size = rng.uniform(9, 26)
    warp = 0.25 * spectrum_noise(rng, n, slope=1.2)
    c = cells(rng, view.u / size + warp, view.v / size - warp)
    frost = np.sin((view.u * (c.values[1] - 0.5) + view.v * (c.values[2] - 0.5)) * 2.5)
    tone = 0.75 + 0.55 * (c.values[0] - 0.5) + 0.05 * frost
    return Surface(
        "galvanized zinc sheet", (0.05 * frost).astype(np.float32), _tone(_rgb(rng, 0.58, 0.06, 0.68), tone), 0.45, 0.9
    )


def hammered_copper(rng: np.random.Generator, view: View) -> Surface:
    """Dented sheet of copper or brass."""
    word = _pick(rng, "copper", "copper", "brass")
    size = rng.uniform(11, 26)
    c = cells(rng, view.u / size, view.v / size, jitter=0.8)
    dent = (np.minimum(c.nearest, 0.9) ** 2).astype(np.float32)
    stain = spectrum_noise(rng, view.n, slope=1.5)
    color = _rgb(rng, 0.05, 0.58, 0.78) if word == "copper" else _rgb(rng, 0.125, 0.52, 0.78)
    return Surface(
        f"hammered {word}", size * 0.45 * dent, _tone(color, 0.95 + 0.06 * stain), rng.uniform(0.65, 0.9), 1.0
    )


def milled_steel(rng: np.random.Generator, view: View) -> Surface:
    """Overlapping arcs of a face mill."""
    n = view.n
    radius, feed = rng.uniform(60, 160), rng.uniform(2.5, 7)
    pass_width = rng.uniform(60, 150)
    lane = view.v % pass_width - pass_width / 2
    arc = view.u - np.sqrt(np.maximum(radius**2 - lane**2, 1.0))
    groove = np.sin(2 * np.pi * arc / feed).astype(np.float32)
    second = np.sin(2 * np.pi * (view.u + np.sqrt(np.maximum(radius**2 - lane**2, 1.0))) / feed).astype(np.float32)
    fine = spectrum_noise(rng, n, slope=0.4)
    mark = groove + rng.uniform(0, 0.7) * second
    tone = 0.95 + 0.06 * mark + 0.03 * fine
    return Surface(
        "milled steel with arc marks", 0.22 * mark + 0.05 * fine, _tone(_steel(rng), tone), rng.uniform(0.45, 0.75), 1.0
    )


def turned_metal(rng: np.random.Generator, view: View) -> Surface:
    """Concentric rings of a lathe."""
    n = view.n
    cu, cv = np.median(view.u) + rng.normal(0, 25), np.median(view.v) + rng.normal(0, 25)
    radius = np.sqrt((view.u - cu) ** 2 + (view.v - cv) ** 2).astype(np.float32)
    period = rng.uniform(2.5, 9)
    table = rng.normal(0, 1, 512).astype(np.float32)
    ring = np.interp(radius * 2.0 / period % 512, np.arange(512), table).astype(np.float32)
    groove = np.sin(2 * np.pi * radius / period).astype(np.float32) + 0.6 * ring
    tone = 0.95 + 0.05 * ring + 0.02 * spectrum_noise(rng, n, slope=0.5)
    word = _pick(rng, "steel", "aluminium", "brass")
    color = _rgb(rng, 0.125, 0.45, 0.75) if word == "brass" else _steel(rng)
    return Surface(
        f"turned {word} with concentric rings", 0.25 * groove, _tone(color, tone), rng.uniform(0.5, 0.8), 1.0
    )


def worn_steel(rng: np.random.Generator, view: View) -> Surface:
    """Scuffed grey metal with many fine scratches, dark spots and stains."""
    n = view.n
    angle = float(rng.uniform(0, np.pi))
    scuff = spectrum_noise(rng, n, slope=0.6, stretch=rng.uniform(1, 3), angle=angle)
    cloud = spectrum_noise(rng, n, slope=1.6)
    line, _ = strokes(
        rng,
        n,
        count=int(rng.integers(5, 60)),
        length_px=rng.uniform(15, 60),
        width_px=0.5,
        angle=angle,
        spread=rng.uniform(0.1, 1.5),
    )
    spot = smoothstep(rng.uniform(1.4, 2.4), 3.2, band_noise(rng, n, period_px=rng.uniform(4, 12)))
    tone = 0.95 + rng.uniform(0.02, 0.09) * scuff + rng.uniform(0.04, 0.14) * cloud + 0.1 * (line > 0.2) - 0.55 * spot
    height = 0.12 * scuff - 0.4 * (line > 0.1) - 0.8 * spot
    return Surface(
        "worn grey steel",
        height.astype(np.float32),
        _tone(_steel(rng), tone),
        rng.uniform(0.3, 0.7),
        rng.uniform(0.6, 1.0),
    )


def machined_ridges(rng: np.random.Generator, view: View) -> Surface:
    """Ground grooves and lands of a machine element, polished and greasy."""
    n = view.n
    period = rng.uniform(20, 90)
    phase = view.u / period + 0.004 * spectrum_noise(rng, n, slope=2)
    f = np.abs(phase % 1 - 0.5) * 2
    land = smoothstep(rng.uniform(0.2, 0.5), rng.uniform(0.55, 0.8), f.astype(np.float32))
    line = np.interp(view.u * 3 % 1024, np.arange(1024), rng.normal(0, 1, 1024)).astype(np.float32)
    cloud = spectrum_noise(rng, n, slope=1.5)
    grease = smoothstep(0.6, 2.0, cloud) * rng.uniform(0, 0.6)
    tone = (0.7 + 0.35 * land + 0.04 * line + 0.05 * cloud) * (1 - grease)
    height = period * 0.12 * land + 0.08 * line
    return Surface("machined metal with ground grooves", height, _tone(_steel(rng), tone), rng.uniform(0.4, 0.8), 0.9)


def roof_shingles(rng: np.random.Generator, view: View) -> Surface:
    """Overlapping round scales."""
    size = rng.uniform(14, 30)
    row = np.floor(view.v / (size * 0.6))
    height = np.zeros_like(view.u)
    value = np.zeros_like(view.u)
    table = rng.random((64, 64), dtype=np.float32)
    for back in (1, 0):
        r = row - back
        fu = (view.u / size + 0.5 * (r % 2)) % 1 - 0.5
        fv = view.v / (size * 0.6) - r
        inside = np.where(fv < 1.0, True, (2 * fu) ** 2 + ((fv - 1.0) / 0.85) ** 2 < 1.0)
        column = np.floor(view.u / size + 0.5 * (r % 2)).astype(int)
        height = np.where(inside, 1.5 - back * 0.0 + fv * 2.2 + (1 - back) * -1.0, height)
        value = np.where(inside, table[r.astype(int) % 64, column % 64], value)
    word, color = paint(rng, ("red", "brown", "grey", "green", "black"))
    rough = spectrum_noise(rng, view.n, slope=0.9)
    tone = 0.8 + 0.35 * (value - 0.5) + 0.12 * (height - 1.5) + 0.06 * rough
    return Surface(
        f"{word} roof shingles",
        (2.0 * height + 0.3 * rough).astype(np.float32),
        _tone(color, tone.astype(np.float32)),
        0.12,
    )


def ceramic_glaze(rng: np.random.Generator, view: View) -> Surface:
    """Speckled glazed pottery."""
    n = view.n
    word, color = paint(rng, ("white", "beige", "blue", "green"))
    size = rng.uniform(4, 9)
    c = cells(rng, view.u / size, view.v / size)
    speck = smoothstep(0.28, 0.12, c.nearest) * (c.values[0] > 0.6)
    albedo = _mix(
        np.broadcast_to(color, (n, n, 3)), np.broadcast_to(_rgb(rng, 0.06, 0.5, 0.25), (n, n, 3)), speck * 0.8
    )
    return Surface(f"speckled {word} pottery", 1.2 * spectrum_noise(rng, n, slope=2.2), albedo.astype(np.float32), 0.75)


def random_relief(rng: np.random.Generator, view: View) -> Surface:
    """Nothing in particular: random spectra for relief and two colours."""
    n = view.n
    first, a = paint(rng)
    second, b = paint(rng)
    rough = spectrum_noise(
        rng, n, slope=rng.uniform(0.2, 2.2), stretch=rng.uniform(1, 6), angle=float(rng.uniform(0, 3.1))
    )
    patch = spectrum_noise(rng, n, slope=rng.uniform(0.6, 2.2), low=rng.uniform(1, 12))
    share = smoothstep(-0.5, rng.uniform(-0.3, 2.0), patch)
    albedo = _mix(np.broadcast_to(a, (n, n, 3)), np.broadcast_to(b, (n, n, 3)), share)
    name = f"mottled {first} surface" if first == second else f"mottled {first} and {second} surface"
    return Surface(
        name,
        rng.uniform(0.2, 2.0) * rough + rng.uniform(0, 1) * share,
        np.clip(albedo * (1 + 0.06 * rough)[..., None], 0, 1).astype(np.float32),
        rng.uniform(0, 0.8),
        float(rng.random() < 0.2),
    )


MATERIALS: Mapping[str, Material] = {
    function.__name__: function
    for function in (
        brick_wall, stone_wall, cobblestone, gravel, pebbles, sand, asphalt, concrete, stucco, dry_mud, marble, granite,
        terrazzo, grass_lawn, straw, tree_bark, wicker, knitted_wool, carpet, felt, rope, carbon_fibre, cork, cardboard,
        crumpled_paper, sandpaper, foam, striped_plastic, checkered, polka_dots, studded_rubber, bubble_wrap,
        frosted_glass, circuit_board, rusty_iron, painted_sheet, corrugated_metal, knurled_steel, tread_plate,
        perforated_sheet, wire_mesh, honeycomb, galvanized, hammered_copper, milled_steel, turned_metal, worn_steel,
        machined_ridges, roof_shingles, ceramic_glaze, random_relief,
    )
}  # fmt: skip
