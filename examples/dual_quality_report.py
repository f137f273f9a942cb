"""The table and the contact sheets of examples/dual_quality.py: what was asked beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from anosynth.imaging import encode_png, resize_image
from anosynth.samples import Sample, Verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

Cells = Mapping[str, Mapping[str, Any]]

MIN_RECOVERED = 0.90
MIN_JUDGE = 0.85
MIN_AGREED = 0.6
MIN_AGREED_ACCEPTED = 0.7
MIN_ACCEPTED = 0.6
MAX_ABOVE = 0.2
CONTROLS = ("perlin", "cutpaste")
SHEET_ROWS = 8
OUTLINE = (255, 40, 40)
DIMMED = 0.45


def report(cells: Cells) -> str:
    """Markdown: one row for every line of acceptance that the measured cells speak of, then the details."""
    rows = [*_masks(cells), *_judge(cells), *_screws(cells), *_folds(cells)]
    lines = ["| asked | measured | |", "| --- | --- | --- |"]
    lines += [f"| {asked} | {measured} | {'passed' if passed else 'failed'} |" for asked, measured, passed in rows]
    lines += ["", *_details(cells)]
    return "\n".join(lines).rstrip() + "\n"


Row = tuple[str, str, bool]


def _masks(cells: Cells) -> list[Row]:
    rows = []
    for name in ("bsdata", "washer", "pill"):
        if (one := cells.get(f"masks-{name}")) is not None:
            said = f"{one['iou']:.3f} ({one['shots']} shots; rules that never saw the shot's group: "
            rows.append(
                (
                    f"masks of real shots from their own parts, {name}: mean IoU >= {MIN_RECOVERED:.2f}",
                    f"{said}{one['left_out_iou']:.3f})",
                    one["iou"] >= MIN_RECOVERED,
                )
            )
    return rows


def _judge(cells: Cells) -> list[Row]:
    rows = []
    if (judge := cells.get("judge")) is not None:
        value = judge["held_out_iou"]
        rows.append((f"the judge on held-out renders: IoU >= {MIN_JUDGE}", f"{value:.3f}", value >= MIN_JUDGE))
    for arm in ("shared", "apart"):
        one = cells.get(f"pairs-{arm}")
        if one is None:
            continue
        which = "one adapter" if arm == "shared" else "one adapter for each defect type"
        sides = (("iou", "all", MIN_AGREED), ("accepted_iou", "accepted", MIN_AGREED_ACCEPTED))
        for key, kind, least in sides:
            asked = f"{which}, {one['pairs']} pairs: judge and mask agree, {kind} pairs: mean IoU >= {least}"
            rows.append((asked, _number(one[key]), one[key] is not None and one[key] >= least))
        for key, what in (
            ("empty_masks", "empty masks"),
            ("background_only_accepted", "accepted background-only masks"),
        ):
            rows.append((f"{which}: no {what}", str(one[key]), one[key] == 0))
    return rows


def _screws(cells: Cells) -> list[Row]:
    rows = []
    if (one := cells.get("bsdata-all")) is not None:
        share, above = one["accepted_ratio"], one["memorization"]["above_ceiling_ratio"]
        asked = f"BSData, {one['pairs']} pairs of 28 shots: accepted >= {MIN_ACCEPTED:.0%}"
        rows.append((asked, f"{share:.1%}", share >= MIN_ACCEPTED))
        asked = f"before the gates at most {MAX_ABOVE:.0%} above the memorization ceiling"
        rows.append(
            (asked, "no ceiling" if above is None else f"{above:.1%}", above is not None and above <= MAX_ABOVE)
        )
    if (one := cells.get("copies")) is not None:
        kinds = ", ".join(f"{kind} {caught} of {asked}" for kind, (caught, asked) in one["by_kind"].items())
        rows.append(
            (
                f"planted copies caught: {one['copies']} of {one['copies']}",
                f"{one['caught']} ({kinds}; least similarity {one['least_similarity']:.3f}, gate {one['gate']})",
                one["caught"] == one["copies"],
            )
        )
    return rows


def _folds(cells: Cells) -> list[Row]:
    rows = []
    for name in ("bsdata-fold0", "bsdata-fold1"):
        one = cells.get(name)
        if one is None:
            continue
        kid = {method: values.get("kid_lite_crops") for method, values in one["methods"].items()}
        if any(value is None or value["value"] is None for value in kid.values()):
            continue
        said = ", ".join(f"{method} {value['value']:.4f} ± {value['sd'] or 0.0:.4f}" for method, value in kid.items())
        rows.append(
            (
                f"{name}, {one['held_out']} held-out pits, {one['pairs_compared']} accepted pairs each: KID-Lite of "
                "defect crops below both control arms",
                said,
                all(kid["dualanodiff"]["value"] < kid[control]["value"] for control in CONTROLS),
            )
        )
    return rows


def _details(cells: Cells) -> list[str]:
    lines: list[str] = []
    rows = [(arm, one) for arm in ("shared", "apart", "cutpaste") if (one := cells.get(f"pairs-{arm}")) is not None]
    if rows:
        lines += [
            "| pool | defect | judge IoU, all | accepted | judge IoU, accepted | KID-Lite of crops | contrast (real) | "
            "refused |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
    for arm, one in rows:
        for defect, of_it in one["by_defect"].items():
            kid = of_it["realism"].get("kid_lite_crops", {})
            said = "–" if kid.get("value") is None else f"{kid['value']:.4f} ± {kid['sd'] or 0.0:.4f}"
            refused = ", ".join(f"{reason} {count}" for reason, count in sorted(of_it["refused"].items())) or "–"
            lines.append(
                f"| {arm} | {defect} | {_number(of_it['iou'])} | {of_it['accepted_ratio']:.0%} | "
                f"{_number(of_it['accepted_iou'])} | {said} | {_number(of_it['contrast'], 1)} "
                f"({_number(of_it['real_contrast'], 1)}) | {refused} |"
            )
    if (real := cells.get("bsdata-likeness")) is not None:
        lines += [
            "",
            f"Above the same ceiling ({real['ceiling']:.3f}) lie {real['shots_above_ratio']:.1%} of {real['shots']} "
            f"real shots, held against the shots of other positions, and {real['normals_above_ratio']:.1%} of the "
            f"{real['normals']} sound pictures that pairs are made on.",
        ]
    for name in ("washer", "pill"):
        if (one := cells.get(f"masks-{name}")) is not None:
            each = ", ".join(
                f"{defect} {value['iou']:.3f} ({value['left_out_iou']:.3f})"
                for defect, value in one["by_defect"].items()
            )
            lines += ["", f"Masks of {name}, by the rule (by rules that never saw the shot): {each}."]
    return lines


def sheet(
    samples: Sequence[Sample], verdicts: Sequence[Verdict], shots: Sequence[NDArray[np.uint8]], path: Path
) -> None:
    """Write a contact sheet: nearest shot, image, part, mask, image with the outline; refused pairs are dimmed.

    Args:
        samples: a pool; `SHEET_ROWS` of it, evenly spaced, in each of two columns.
        verdicts: of each.
        shots: that `nearest_shot` counts.
        path: of the PNG.
    """
    chosen = np.unique(np.linspace(0, len(samples) - 1, 2 * SHEET_ROWS).round().astype(int))
    strips = []
    for at in chosen:
        sample, verdict = samples[at], verdicts[at]
        assert sample.mask is not None
        size = sample.mask.shape
        shot = resize_image(shots[int(verdict.measures["nearest_shot"])], size_px=(size[0], size[1]))
        part = sample.image if sample.part is None else sample.part
        shown = [shot, sample.image, part, np.repeat(sample.mask[:, :, None], 3, axis=2), outlined(sample)]
        strip = np.concatenate([np.pad(one, ((1, 1), (1, 1), (0, 0)), constant_values=255) for one in shown], axis=1)
        strips.append(strip if verdict.keep else (strip * DIMMED).astype(np.uint8))
    half = -(-len(strips) // 2)
    strips += [np.full_like(strips[0], 255)] * (2 * half - len(strips))
    columns = [np.concatenate(strips[start : start + half]) for start in (0, half)]
    gap = np.full((columns[0].shape[0], 8, 3), 255, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(np.concatenate([columns[0], gap, columns[1]], axis=1)))


def outlined(sample: Sample) -> NDArray[np.uint8]:
    """The image with a line around its mask."""
    assert sample.mask is not None
    inside = sample.mask > 0
    drawn = sample.image.copy()
    drawn[ndimage.binary_dilation(inside, iterations=2) & ~ndimage.binary_dilation(inside)] = OUTLINE
    return drawn


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
