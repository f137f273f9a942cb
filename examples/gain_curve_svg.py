"""The curve of examples/gain_curve.py as one SVG: gain over real shots alone against their number."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).parent))
from gain_curve_report import BASE, Gain, Row, arms_of, gain, places_of

PANEL, HEIGHT, LEFT, TOP, BOTTOM, GAP = 230, 250, 56, 44, 64, 22
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Okabe and Ito's, which readers with any colour vision tell apart."""
LEAST_SPAN = 0.05


def picture(rows: Sequence[Row], *, metric: str) -> str:
    """Draw one panel for each category, and one for their mean, on one scale.

    Args:
        rows: all cells.
        metric: whose gain.

    Returns:
        An SVG document on a white ground, readable in light and dark pages.
    """
    arms = [arm for arm in arms_of(rows) if arm != BASE]
    places, ms = places_of(rows), sorted({row.m for row in rows})
    found = {(parts, m, arm): gain(rows, parts, m, arm, metric) for parts in places for m in ms for arm in arms}
    known = [one for one in found.values() if one is not None]
    ends = [end for one in known for end in (one.value, one.low, one.high) if end is not None]
    low, high = min([-LEAST_SPAN, *ends]), max([LEAST_SPAN, *ends])
    edge = 0.05 * (high - low)
    axis = _Axis(low - edge, high + edge)
    width = LEFT + len(places) * (PANEL + GAP)
    parts_of = [_panel(place, at, ms, arms, found, axis) for at, place in enumerate(places)]
    ticks = [
        f'<text x="{LEFT - 8}" y="{axis.y(tick) + 4:.1f}" text-anchor="end">{tick:+.2f}</text>' for tick in axis.ticks()
    ]
    keys = []
    for at, arm in enumerate(arms):
        x, y = LEFT + 150 * at, TOP + HEIGHT + BOTTOM - 14
        keys.append(f'<circle cx="{x + 6}" cy="{y - 4}" r="5" fill="{_colour(at)}"/>')
        keys.append(f'<text x="{x + 18}" y="{y}">{escape(arm)}</text>')
    said = f"gain in {metric} over real shots alone, with 95 % intervals over seeds, against the number of real shots"
    height = TOP + HEIGHT + BOTTOM
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'font-family="sans-serif" font-size="12" fill="#222" role="img">',
            f"<title>{escape(said)}</title>",
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            f'<text x="{LEFT}" y="16" font-size="13">{escape(said[0].upper() + said[1:])}</text>',
            *ticks,
            *parts_of,
            *keys,
            "</svg>\n",
        ]
    )


class _Axis:
    """From gains to heights in the picture."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high

    def y(self, value: float) -> float:
        return TOP + HEIGHT * (self._high - value) / (self._high - self._low)

    def ticks(self) -> list[float]:
        """Multiples of a round step, zero among them, six at most."""
        step = next((one for one in (0.01, 0.02, 0.05, 0.1, 0.2) if (self._high - self._low) / one <= 7.0), 0.5)
        return [step * at for at in range(int(self._low / step), int(self._high / step) + 1)]


def _panel(
    place: str,
    at: int,
    ms: Sequence[int],
    arms: Sequence[str],
    found: dict[tuple[str, int, str], Gain | None],
    axis: _Axis,
) -> str:
    """One panel: numbers of shots at even steps, arms beside each other so that intervals do not hide one another."""
    left = LEFT + at * (PANEL + GAP)
    step = PANEL / len(ms)
    lines = [f'<text x="{left + PANEL / 2}" y="{TOP - 8}" text-anchor="middle">{escape(place)}</text>']
    for tick in axis.ticks():
        shade = "#555" if abs(tick) < 1e-9 else "#ddd"
        y = f"{axis.y(tick):.1f}"
        lines.append(f'<line x1="{left}" x2="{left + PANEL}" y1="{y}" y2="{y}" stroke="{shade}"/>')
    for number, m in enumerate(ms):
        x = left + step * (number + 0.5)
        lines.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">m = {m}</text>')
    for which, arm in enumerate(arms):
        shift = 12.0 * (which - (len(arms) - 1) / 2)
        points = [
            (left + step * (number + 0.5) + shift, one)
            for number, m in enumerate(ms)
            if (one := found[place, m, arm]) is not None
        ]
        path = " ".join(f"{x:.1f},{axis.y(one.value):.1f}" for x, one in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{_colour(which)}" stroke-opacity="0.4"/>')
        for x, one in points:
            if one.low is not None and one.high is not None:
                ends = f'y1="{axis.y(one.low):.1f}" y2="{axis.y(one.high):.1f}"'
                lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" {ends} stroke="{_colour(which)}" stroke-width="2"/>')
            lines.append(f'<circle cx="{x:.1f}" cy="{axis.y(one.value):.1f}" r="4.5" fill="{_colour(which)}"/>')
    return "\n".join(lines)


def _colour(at: int) -> str:
    return COLOURS[at % len(COLOURS)]
