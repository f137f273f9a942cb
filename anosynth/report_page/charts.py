"""Small charts as inline SVG; colours come from the page's style sheet, so that light and dark both work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from anosynth.comparison import Bounded
from anosynth.report_page.markup import text

WIDTH, ROW, LEFT, RIGHT = 370, 30, 110, 20
# A gain axis is never narrower, so that a hair of a gain looks like one.
LEAST_GAIN = 0.05
PLOT = 220
SERIES = 8


def intervals(rows: Sequence[tuple[str, Bounded]], *, title: str, zero: bool) -> str:
    """Draw values with their intervals, one line each; `zero` marks no gain, else the axis goes from 0 to 1."""
    known = [one for _, one in rows if one.value is not None]
    if not known:
        return ""
    ends = [end for one in known for end in (one.low, one.high, one.value) if end is not None]
    low, high = (min(-LEAST_GAIN, *ends), max(LEAST_GAIN, *ends)) if zero else (0.0, 1.0)
    span = (high - low) or 1.0
    low, high = (low - 0.05 * span, high + 0.05 * span) if zero else (low, high)

    def x(value: float) -> str:
        return f"{LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low):.1f}"

    height = ROW * len(rows) + 34
    parts = []
    for tick in _ticks(low, high):
        parts.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="4" y2="{height - 26}"/>')
        parts.append(f'<text x="{x(tick)}" y="{height - 8}" text-anchor="middle">{tick:g}</text>')
    if zero:
        parts.append(f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="4" y2="{height - 26}"/>')
    for at, (name, one) in enumerate(rows):
        y = 4 + ROW * at + ROW // 2
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{text(_short(name))}</text>')
        if one.low is not None and one.high is not None:
            parts.append(f'<line class="bar" x1="{x(one.low)}" x2="{x(one.high)}" y1="{y}" y2="{y}"/>')
        if one.value is not None:
            parts.append(f'<circle class="dot" cx="{x(one.value)}" cy="{y}" r="5"/>')
    said = "; ".join(f"{name} {one.text(signed=zero)}" for name, one in rows)
    return _figure(parts, WIDTH, height, title, said)


def curves(lines: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], *, title: str) -> str:
    """Draw precision over recall: series -> seed -> (recall, precision), one line each."""
    if not any(points for seeds in lines.values() for points in seeds.values()):
        return ""
    size, edge = PLOT, 48
    parts = _axes(size, edge, "recall", "precision")
    for at, seeds in enumerate(lines.values()):
        for points in seeds.values():
            path = " ".join(f"{edge + size * u:.1f},{6 + size * (1 - v):.1f}" for u, v in points)
            parts.append(f'<polyline class="line s{at % SERIES}" points="{path}"/>')
    return _figure(parts, size + edge + 10, size + edge + 6, title, "", keys=list(lines))


def histogram(bins: Sequence[tuple[float, int, int]], *, title: str) -> str:
    """Draw image scores: (middle of the bin, normal images, anomalous images), normal above the line, others below."""
    most = max((max(normal, anomalous) for _, normal, anomalous in bins), default=0)
    if not most:
        return ""
    size, edge, half = PLOT, 10, PLOT // 2
    step = size / len(bins)
    parts = [f'<line class="axis" x1="{edge}" x2="{edge + size}" y1="{half + 6}" y2="{half + 6}"/>']
    for at, (_, normal, anomalous) in enumerate(bins):
        left, wide = edge + at * step + 0.5, max(step - 1, 1)
        up, down = (half - 8) * normal / most, (half - 8) * anomalous / most
        if normal:
            parts.append(
                f'<rect class="s0" x="{left:.1f}" y="{half + 6 - up:.1f}" width="{wide:.1f}" height="{up:.1f}"/>'
            )
        if anomalous:
            parts.append(f'<rect class="s1" x="{left:.1f}" y="{half + 6}" width="{wide:.1f}" height="{down:.1f}"/>')
    for at, anchor, value in ((edge, "start", bins[0][0]), (edge + size, "end", bins[-1][0])):
        parts.append(f'<text x="{at}" y="{size + 22}" text-anchor="{anchor}">{value:.3g}</text>')
    return _figure(parts, size + 2 * edge, size + 30, title, "", keys=["normal (up)", "anomalous (down)"])


def _axes(size: int, edge: int, across: str, up: str) -> list[str]:
    parts = []
    for tick in (0.0, 0.5, 1.0):
        x, y = edge + size * tick, 6 + size * (1 - tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{size + 6}"/>')
        parts.append(f'<line class="grid" x1="{edge}" x2="{edge + size}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{size + 20}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{edge - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<text x="{edge + size / 2:.1f}" y="{size + 34}" text-anchor="middle">{across}</text>')
    middle = 6 + size / 2
    return [
        *parts,
        f'<text x="10" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 10 {middle:.1f})">{up}</text>',
    ]


def _ticks(low: float, high: float) -> list[float]:
    wanted = (high - low) / 4
    step = next((one for one in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0) if one >= wanted), 1.0)
    first = int(-(-low // step))
    return [round(at * step, 6) for at in range(first, int(high // step) + 1)]


def _short(name: str) -> str:
    return name if len(name) <= 15 else f"{name[:14]}…"


def _figure(parts: Sequence[str], width: int, height: int, title: str, said: str, *, keys: Sequence[str] = ()) -> str:
    legend = "".join(
        f'<li><span class="key s{at % SERIES}" aria-hidden="true"></span>{text(key)}</li>'
        for at, key in enumerate(keys)
    )
    listed = f'<ul class="keys">{legend}</ul>' if legend else ""
    label = f"{title}: {said}" if said else title
    return (
        f'<figure class="chart"><figcaption>{text(title)}</figcaption>'
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{text(label)}">'
        f"{''.join(parts)}</svg>{listed}</figure>"
    )
