"""What the report says beyond detection: realism of the pools, shortcuts of the detectors, types of defects.

From the JSON files of the stages measure, shortcut and classify to Markdown and to numbers for `dvc metrics`. Nothing
here reads or writes a file. What is undefined is shown as a dash.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from anosynth.reporting import DASH, table

# A file as parsed from JSON: category, and what its stage wrote.
Parsed = Mapping[str, Any]
LITE = {"kid_lite": "KID-Lite", "kid_lite_crops": "of defect crops", "ic_lpips_lite": "IC-LPIPS-Lite"}
# Only where the weights of the published networks were at hand.
PUBLISHED = {"fid": "FID", "inception_score": "IS", "ic_lpips": "IC-LPIPS"}


def controls_markdown(*, measures: Sequence[Parsed], shortcuts: Sequence[Parsed], types: Sequence[Parsed]) -> str:
    """Write the sections of the categories that were measured; "" if there are none."""
    blocks = [*_realism(measures), *_shortcut(shortcuts), *_types(types)]
    return "".join(f"\n{block}\n" for block in blocks)


def controls_json(
    *, measures: Sequence[Parsed], shortcuts: Sequence[Parsed], types: Sequence[Parsed]
) -> dict[str, object]:
    """The same numbers: realism, shortcut_auroc and defect_types by category."""
    return {
        "realism": {
            one["category"]: {
                name: {key: _value(pool, key) for key in (*LITE, *(key for key in PUBLISHED if key in pool))}
                for name, pool in one["pools"].items()
            }
            for one in measures
        },
        "shortcut_auroc": {
            one["category"]: {
                detector: {arm: round(_mean(seeds), 6) for arm, seeds in arms.items()}
                for detector, arms in one["shortcut_auroc"].items()
            }
            for one in shortcuts
        },
        "defect_types": {
            one["category"]: {
                arm: {metric: found[metric]["value"] for metric in ("accuracy", "macro_f1")}
                for arm, found in one["arms"].items()
            }
            for one in types
        },
    }


def _realism(measures: Sequence[Parsed]) -> list[str]:
    rows = []
    published = [key for key in PUBLISHED if any(key in pool for one in measures for pool in one["pools"].values())]
    for one in measures:
        floors = {f"{kind}: the real shots": value for kind, value in one["real_shots"].items()}
        for name, pool in [*one["pools"].items(), *floors.items()]:
            manifolds = pool.get("manifolds", {})
            rows.append(
                [one["category"], name, str(pool["images"])]
                + [_spread(pool.get(key)) for key in LITE]
                + [_number(manifolds.get(key)) for key in ("precision", "recall", "density", "coverage")]
                + [_spread(pool.get(key)) for key in published]
            )
    if not rows:
        return []
    judges = sorted({f"{one['judge']['model']} at {one['judge']['size_px']} px" for one in measures})
    roles = sorted({str(one["reference"]).replace("_", " ") for one in measures})
    head = ["category", "pool", "images", *LITE.values(), "precision", "recall", "density", "coverage"]
    head += [PUBLISHED[key] for key in published]
    return [
        "## How real and how varied the pools are",
        f"Against {' / '.join(roles)} real images, in the features of {', '.join(judges)}, which no detector uses. A "
        "lower KID-Lite is nearer to the real images (± over subsets), a higher IC-LPIPS-Lite more varied (± over "
        f"shots). {_about(published)}, and no sample was refused by them.",
        table(head, rows),
    ]


def _about(published: Sequence[str]) -> str:
    if not published:
        return "These are not the published metrics"
    names = ", ".join(PUBLISHED[key] for key in published)
    return (
        f"All but {names} are not the published metrics; these are, from local weights (IS ± over its ten parts; with "
        "few images FID is biased upwards and IS is at most a tenth of their number)"
    )


def _shortcut(shortcuts: Sequence[Parsed]) -> list[str]:
    rows = [
        [one["category"], detector, arm, _number(_mean(seeds)), "above" if _mean(seeds) > one["max_auroc"] else "fine"]
        for one in shortcuts
        for detector, arms in one["shortcut_auroc"].items()
        for arm, seeds in arms.items()
    ]
    if not rows:
        return []
    limits = ", ".join(sorted({f"{one['max_auroc']:g}" for one in shortcuts}))
    counts = ", ".join(f"{one['category']}: {one['images']} of role {one['role']}" for one in shortcuts)
    return [
        "## Do detectors see the generator instead of the defect?",
        f"AUROC of normal images passed through the generator against the same images untouched ({counts}). 0.5: the "
        f"generator's traces change no score; above {limits} an arm has learned a shortcut, which "
        "`round_tripped_normals: true` mends.",
        table(["category", "detector", "arm", "AUROC", f"limit {limits}"], rows),
    ]


def _types(types: Sequence[Parsed]) -> list[str]:
    rows = [
        [one["category"], arm, *(_interval(found[metric]) for metric in ("accuracy", "macro_f1"))]
        for one in types
        for arm, found in one["arms"].items()
    ]
    notes = [f"{one['category']}: {one['note']}." for one in types if one.get("note")]
    if not rows:
        return []
    return [
        "## Telling defect types apart",
        " ".join(["Real test images, mean over seeds, 95 % interval by group in brackets.", *notes]),
        table(["category", "arm", "accuracy", "macro-F1"], rows),
    ]


def _mean(seeds: Mapping[str, float]) -> float:
    return statistics.fmean(seeds.values())


def _value(pool: Parsed, key: str) -> object:
    return pool.get(key, {}).get("value")


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def _spread(found: Parsed | None) -> str:
    if found is None or found["value"] is None:
        return DASH
    return _number(found["value"]) + ("" if found["sd"] is None else f" ± {found['sd']:.3f}")


def _interval(found: Parsed) -> str:
    if found["low"] is None or found["high"] is None:
        return _number(found["value"])
    return f"{_number(found['value'])} [{_number(found['low'])}, {_number(found['high'])}]"
