"""The square a picture is computed on: its internal resolution, its coordinates and its generators."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from anosynth.seeding import numpy_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_OVERSAMPLED_PX = 256


@dataclass(frozen=True)
class Canvas:
    """Where one picture is computed.

    Lengths everywhere in this package are in picture sides: the picture spans [-0.5, 0.5] in x (to the right) and in
    y (downwards), heights use the same unit and point to the camera. Frequencies are in cycles per picture side.

    Attributes:
        size_px: side of the finished picture.
        oversample: computed points per finished pixel and axis.
        seed: of everything random on this canvas.
    """

    size_px: int
    oversample: int
    seed: int

    def __post_init__(self) -> None:
        if self.size_px < 16 or self.oversample < 1:
            raise ValueError(
                f"a canvas has at least 16 px, got {self.size_px} px at {self.oversample} points per pixel"
            )

    @classmethod
    def for_picture(cls, size_px: int, *, seed: int) -> Canvas:
        """A canvas with two points per pixel and axis, or one for pictures larger than 256 px (they need no more)."""
        return cls(size_px, 2 if size_px <= LARGEST_OVERSAMPLED_PX else 1, seed)

    @property
    def side(self) -> int:
        """Computed points per axis, N below."""
        return self.size_px * self.oversample

    def grid(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coordinates (x, y) of the point centres, each [N, N] in (-0.5, 0.5); read-only."""
        return _grid(self.side)

    def rng(self, *address: str | int) -> np.random.Generator:
        """A fresh generator for one purpose; equal addresses give equal streams, whatever else was drawn."""
        return numpy_rng(self.seed, "procedural", *address)


@lru_cache(maxsize=4)
def _grid(side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    axis = (np.arange(side) + 0.5) / side - 0.5
    x, y = np.meshgrid(axis, axis)
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def rotate(
    x: NDArray[np.float64], y: NDArray[np.float64], angle_deg: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates along and across a direction `angle_deg` (0 is +x, 90 is +y, downwards)."""
    turn = np.deg2rad(angle_deg)
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    return cos * x + sin * y, cos * y - sin * x


def smoothstep(low: float, high: float, value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic ramp 3 t^2 - 2 t^3 with t = (value - low) / (high - low) clipped to [0, 1]; low > high ramps down."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
