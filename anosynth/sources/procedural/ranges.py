"""Ranges from which the values of a material, a light or a defect are drawn, and the test whether they hold a value."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, assert_never

from anosynth.sources.procedural.surface import Color

if TYPE_CHECKING:
    import numpy as np

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Between:
    """A number, uniform in [low, high]."""

    low: float
    high: float


@dataclass(frozen=True)
class Whole:
    """A whole number, uniform in {low, ..., high}."""

    low: int
    high: int


@dataclass(frozen=True)
class Near:
    """An sRGB color, moved uniformly in hue, saturation and value by at most `spread` of the value range."""

    color: Color
    spread: float


@dataclass(frozen=True)
class Always:
    """One fixed text."""

    value: str


Range = Between | Whole | Near | Always
Ranges = Mapping[str, Range]


@dataclass(frozen=True)
class Recipe(Generic[T_co]):
    """A parameter dataclass of this package and the range of each of its fields.

    Attributes:
        kind: the dataclass.
        ranges: by field name; a field without a range keeps the dataclass's default.
    """

    kind: Callable[..., T_co]
    ranges: Ranges

    def draw(self, rng: np.random.Generator) -> T_co:
        """Build a `kind` with every field drawn from its range, in the order of `ranges`."""
        return self.kind(**{name: _one(span, rng) for name, span in self.ranges.items()})

    def holds(self, value: object) -> bool:
        """True if `value` is of this kind and every ranged field lies in its range: the recipe could have drawn it."""
        if type(value) is not self.kind:
            return False
        return all(_within(span, getattr(value, name)) for name, span in self.ranges.items())


def _one(span: Range, rng: np.random.Generator) -> float | int | str | Color:
    match span:
        case Between():
            return float(rng.uniform(span.low, span.high))
        case Whole():
            return int(rng.integers(span.low, span.high + 1))
        case Near():
            hue, saturation, value = colorsys.rgb_to_hsv(*span.color)
            moved = rng.uniform(-span.spread, span.spread, 3)
            return colorsys.hsv_to_rgb(
                (hue + 0.25 * float(moved[0])) % 1.0,
                min(max(saturation + 0.5 * float(moved[1]), 0.0), 1.0),
                min(max(value + float(moved[2]), 0.0), 1.0),
            )
        case Always():
            return span.value
        case _:
            assert_never(span)


def _within(span: Range, value: object) -> bool:
    match span:
        case Between() | Whole():
            return isinstance(value, int | float) and span.low <= value <= span.high
        case Near():
            if not isinstance(value, tuple):
                return False
            return max(abs(one - other) for one, other in zip(span.color, value, strict=True)) <= 2.0 * span.spread
        case Always():
            return value == span.value
        case _:
            assert_never(span)
