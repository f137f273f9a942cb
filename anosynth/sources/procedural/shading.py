"""A surface under a light, seen by a camera: from height fields to a photograph.

The reflection model is the usual one of physically based rendering: Lambert plus a GGX lobe (Walter et al. 2007) with
Schlick's Fresnel term, a near area light, a soft surround, occlusion from local height and shadows found by marching
over the height field.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from anosynth.sources.procedural.canvas import Canvas, smoothstep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anosynth.sources.procedural.surface import Surface

_CAMERA_DISTANCE = 3.0
# Where the march looks for something that casts a shadow, in picture sides.
_SHADOW_DISTANCES = tuple(0.004 * 1.45**step for step in range(12))
_INSULATOR_F0 = 0.04


@dataclass(frozen=True)
class Light:
    """One lamp and the room around it.

    Attributes:
        azimuth_deg: where the lamp stands, 0 right, 90 below, -90 above the picture.
        elevation_deg: above the surface, (0, 90]; low means raking light.
        distance: of the lamp from the picture's middle in picture sides; near lamps light unevenly.
        softness: angular size of the lamp, 0 is a point, 0.5 a large softbox.
        key: brightness of the lamp.
        fill: brightness of the room, from everywhere.
        glow: brightness of the room's bright panel that shiny surfaces mirror.
        warmth: -1 is blue, 0 is white, 1 is orange light.
    """

    azimuth_deg: float
    elevation_deg: float
    distance: float = 3.0
    softness: float = 0.15
    key: float = 1.0
    fill: float = 0.35
    glow: float = 0.5
    warmth: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.elevation_deg <= 90.0 or self.distance <= 0.0:
            raise ValueError(f"a lamp stands above the surface, got {self.elevation_deg} degrees at {self.distance}")


@dataclass(frozen=True)
class Camera:
    """What happens between the light and the file.

    Attributes:
        exposure: factor on the light.
        blur_px: standard deviation of the lens blur in finished pixels.
        noise: standard deviation of the sensor noise at mid grey, in grey levels of 255.
        vignetting: share of light lost in the corners, [0, 1).
        contrast: strength of the S-shaped tone curve, 0 is none, [0, 1].
        saturation: 0 is grey, 1 leaves colors alone.
    """

    exposure: float = 1.0
    blur_px: float = 0.5
    noise: float = 1.5
    vignetting: float = 0.1
    contrast: float = 0.3
    saturation: float = 1.0


def shade(surface: Surface, light: Light, canvas: Canvas) -> NDArray[np.float64]:
    """Light leaving a surface towards the camera, linear RGB [N, N, 3], about 1 for white paper in full light."""
    x, y = canvas.grid()
    slope_y, slope_x = np.gradient(surface.height, 1.0 / canvas.side)
    scale = 1.0 / np.sqrt(slope_x * slope_x + slope_y * slope_y + 1.0)
    normal = (-slope_x * scale, -slope_y * scale, scale)

    azimuth, elevation = np.deg2rad(light.azimuth_deg), np.deg2rad(light.elevation_deg)
    toward = (
        float(np.cos(azimuth) * np.cos(elevation)),
        float(np.sin(azimuth) * np.cos(elevation)),
        float(np.sin(elevation)),
    )
    lamp = _normalize(
        light.distance * toward[0] - x, light.distance * toward[1] - y, light.distance * toward[2] - 0.0 * x
    )
    view = _view(canvas.side)
    away = 1.0 / _squared_distance(light, toward, x, y)
    lit = np.maximum(_dot(normal, lamp), 0.0)
    shadow = _shadow(surface.height, light, toward, canvas)
    open_sky = _openness(surface.height, canvas)

    direct = light.key * away * shadow
    tilted = normal[0] * toward[0] + normal[1] * toward[1]
    ambient = light.fill * open_sky * (0.75 + 0.25 * normal[2] + 0.2 * tilted)
    diffuse = direct * lit + ambient

    half = _normalize(lamp[0] + view[0], lamp[1] + view[1], lamp[2] + view[2])
    facing = np.maximum(_dot(normal, half), 0.0)
    grazing = 1.0 - np.clip(_dot(half, view), 0.0, 1.0)
    fresnel = grazing**2
    fresnel = fresnel * fresnel * grazing
    alpha = surface.roughness * surface.roughness
    spread = alpha * alpha + light.softness * light.softness
    lobe = spread / (np.pi * ((facing * facing) * (spread - 1.0) + 1.0) ** 2)
    toward_half = np.maximum(_dot(half, lamp), 0.25)
    mirror_key = direct * lit * lobe * (0.25 * np.pi) / (toward_half * toward_half)

    panel = light.glow * _panel(normal, view, toward, surface.roughness)
    mirror_room = open_sky * (light.fill * (1.0 - 0.6 * surface.roughness * (1.0 - surface.metal)) + panel)
    tint = np.array([1.0 + 0.10 * light.warmth, 1.0, 1.0 - 0.14 * light.warmth])
    metal = surface.metal
    radiance = np.empty((*x.shape, 3))
    for channel in range(3):
        albedo = surface.albedo[:, :, channel]
        f0 = _INSULATOR_F0 + metal * (albedo - _INSULATOR_F0)
        mirrored = (f0 + (1.0 - f0) * fresnel) * mirror_key + f0 * mirror_room
        radiance[:, :, channel] = tint[channel] * ((1.0 - metal) * albedo * diffuse + mirrored)
    return radiance


def photograph(
    radiance: NDArray[np.float64], camera: Camera, canvas: Canvas, *, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Develop linear light [N, N, 3] to a uint8 picture [size_px, size_px, 3]: lens, sensor, tone curve, sRGB.

    The noise field depends on `rng` and the size alone, so two pictures of one seed differ only where the light does.
    """
    x, y = canvas.grid()
    light = radiance * (camera.exposure * (1.0 - 2.0 * camera.vignetting * (x * x + y * y)))[:, :, None]
    light = _reduce(light, canvas.oversample)
    if camera.blur_px > 0.0:
        light = ndimage.gaussian_filter(light, (camera.blur_px, camera.blur_px, 0.0), truncate=3.0, mode="nearest")
    grey = light.mean(axis=2, keepdims=True)
    light = np.maximum(grey + camera.saturation * (light - grey), 0.0)
    light = light * (1.0 + light / 9.0) / (1.0 + light)
    light = np.minimum(light * 1.45, 1.0)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1.0 / 2.4) - 0.055)
    encoded = encoded + camera.contrast * (encoded * encoded * (3.0 - 2.0 * encoded) - encoded)
    size = encoded.shape[:2]
    speckle = 0.8 * rng.standard_normal(size)[:, :, None] + 0.6 * rng.standard_normal((*size, 3))
    strength = (camera.noise / 255.0) * np.sqrt(0.3 + 1.4 * encoded.mean(axis=2, keepdims=True))
    return np.rint(np.clip(encoded + strength * speckle, 0.0, 1.0) * 255.0).astype(np.uint8)


_Vectors = tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]"]


@lru_cache(maxsize=4)
def _view(side: int) -> _Vectors:
    """Directions towards the camera above the picture's middle."""
    x, y = Canvas(side, 1, 0).grid()
    return _normalize(-x, -y, np.full_like(x, _CAMERA_DISTANCE))


def _normalize(x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]) -> _Vectors:
    scale = 1.0 / np.sqrt(x * x + y * y + z * z)
    return x * scale, y * scale, z * scale


def _dot(first: _Vectors, second: _Vectors) -> NDArray[np.float64]:
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]


def _squared_distance(
    light: Light, toward: tuple[float, float, float], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Squared distance to the lamp relative to the picture's middle."""
    return (x / light.distance - toward[0]) ** 2 + (y / light.distance - toward[1]) ** 2 + toward[2] ** 2


def _panel(
    normal: _Vectors, view: _Vectors, toward: tuple[float, float, float], roughness: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Brightness of a wide panel behind the lamp in the mirror direction, blurred by roughness, [0, 1]."""
    double = 2.0 * _dot(normal, view)
    mirror = [double * normal[axis] - view[axis] for axis in range(3)]
    lean = (0.45 * toward[0], 0.45 * toward[1], 1.0)
    scale = 1.0 / float(np.sqrt(lean[0] ** 2 + lean[1] ** 2 + lean[2] ** 2))
    closeness = (mirror[0] * lean[0] + mirror[1] * lean[1] + mirror[2] * lean[2]) * scale
    return np.exp((closeness - 1.0) / (0.06 + 0.5 * roughness * roughness))


def _shadow(
    height: NDArray[np.float64], light: Light, toward: tuple[float, float, float], canvas: Canvas
) -> NDArray[np.float64]:
    """Share of the lamp seen over the heights towards it, [0, 1]."""
    span = float(height.max() - height.min())
    flat = float(np.hypot(toward[0], toward[1]))
    if span <= 0.0 or flat < 1e-6:
        return np.ones_like(height)
    rise = toward[2] / flat
    softness = 0.15 + 1.5 * light.softness
    dark, bright = rise * (1.0 + softness), rise * max(1.0 - softness, 0.05)
    side = canvas.side
    pad = int(np.ceil(min(span / bright, _SHADOW_DISTANCES[-1]) * side)) + 2
    padded = np.pad(height, pad, mode="edge")
    steepest = np.zeros_like(height)
    seen: set[tuple[int, int]] = {(0, 0)}
    for distance in _SHADOW_DISTANCES:
        right, down = round(distance * side * toward[0] / flat), round(distance * side * toward[1] / flat)
        length = float(np.hypot(right, down)) / side
        # Beyond this distance not even the highest point reaches the lamp's lower edge.
        if (right, down) in seen or max(abs(right), abs(down)) > pad or span < bright * length:
            continue
        seen.add((right, down))
        moved = padded[pad + down : pad + down + side, pad + right : pad + right + side]
        np.maximum(steepest, (moved - height) / length, out=steepest)
    return 1.0 - 0.85 * smoothstep(bright, dark, steepest)


def _openness(height: NDArray[np.float64], canvas: Canvas) -> NDArray[np.float64]:
    """Share of the room seen from each point: less in hollows, by comparing with the mean height around, (0, 1]."""
    closed = np.zeros_like(height)
    for radius in (0.012, 0.05):
        width = 2 * max(1, round(radius * canvas.side)) + 1
        around = ndimage.uniform_filter(ndimage.uniform_filter(height, width, mode="nearest"), width, mode="nearest")
        closed += np.maximum(around - height, 0.0) / radius
    return 1.0 / (1.0 + 1.6 * closed)


def _reduce(light: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    if factor == 1:
        return light
    total = light[::factor, ::factor].copy()
    for row in range(factor):
        for column in range(factor):
            if (row, column) != (0, 0):
                total += light[row::factor, column::factor]
    return total / factor**2
