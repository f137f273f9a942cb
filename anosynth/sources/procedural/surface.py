"""What a surface is before it is lit: height, color, roughness and metalness at every point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Color = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Surface:
    """A surface seen from above.

    Attributes:
        height: towards the camera, in picture sides, [N, N].
        albedo: linear RGB in [0, 1], [N, N, 3]; colors the diffuse light where metal is 0, the mirror image where 1.
        roughness: 0 is a mirror, 1 is chalk, [N, N].
        metal: 0 is an insulator (mirrors 4 %), 1 is a bare metal, [N, N].
    """

    height: NDArray[np.float64]
    albedo: NDArray[np.float64]
    roughness: NDArray[np.float64]
    metal: NDArray[np.float64]

    def __post_init__(self) -> None:
        size = self.height.shape
        if self.albedo.shape != (*size, 3) or self.roughness.shape != size or self.metal.shape != size:
            raise ValueError(f"a surface's fields must agree in size, got {size} and {self.albedo.shape}")


def lay(top: Surface, below: Surface, *, cover: NDArray[np.float64]) -> Surface:
    """Put one surface over another.

    Args:
        top: seen where cover is 1; its heights are absolute, not on top of `below`.
        below: seen where cover is 0.
        cover: [N, N] in [0, 1].
    """
    return Surface(
        below.height + cover * (top.height - below.height),
        below.albedo + cover[:, :, None] * (top.albedo - below.albedo),
        below.roughness + cover * (top.roughness - below.roughness),
        below.metal + cover * (top.metal - below.metal),
    )


def linear(color: Color) -> NDArray[np.float64]:
    """An sRGB color in [0, 1] as linear light [3] (IEC 61966-2-1)."""
    value = np.asarray(color, dtype=np.float64)
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def paint(first: NDArray[np.float64], second: NDArray[np.float64], amount: NDArray[np.float64]) -> NDArray[np.float64]:
    """Blend two linear colors ([3] or [N, N, 3]): `first` where amount [N, N] is 0, `second` where it is 1."""
    return first + amount[:, :, None] * (second - first)
