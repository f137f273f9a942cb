"""The gallery of report.html: a few samples of every pool, kept and refused, each beside its nearest shot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anosynth.report_page.markup import drawing, overlay, photo, text
from anosynth.samples import Sample, Verdict
from anosynth.shards.read import read_rows, read_samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIMILARITIES = ("shot_similarity", "normal_similarity")


@dataclass(frozen=True, eq=False)
class Shown:
    """One sample of the gallery.

    Attributes:
        pool: "normals", or "<defect>/<method>".
        sample: the sample.
        verdict: what screening said.
        shot: its nearest shot, uint8 [H, W, 3]; None where screening named none.
    """

    pool: str
    sample: Sample
    verdict: Verdict
    shot: NDArray[np.uint8] | None


def choose(
    pool: str,
    folder: Path,
    verdicts: Mapping[str, Verdict],
    shots: Sequence[NDArray[np.uint8]],
    *,
    count: int,
) -> list[Shown]:
    """Take the first samples of a pool in order: refused ones up to a quarter of `count`, the rest kept.

    Args:
        pool: its name.
        folder: of the sealed pool.
        verdicts: by sample id.
        shots: the real images that screening compared the pool with, in its order.
        count: at most so many.
    """
    names = read_rows(folder, ["sample_id"])["sample_id"].to_pylist()
    refused = [name for name in names if not verdicts[name].keep][: count // 4]
    kept = [name for name in names if verdicts[name].keep][: count - len(refused)]
    wanted = {*kept, *refused}
    found = read_samples(folder, keep=wanted) if wanted else iter(())
    return [Shown(pool, one, verdicts[one.sample_id], _nearest(verdicts[one.sample_id], shots)) for one in found]


def _nearest(verdict: Verdict, shots: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8] | None:
    at = int(verdict.measures.get("nearest_shot", -1.0))
    return shots[at] if 0 <= at < len(shots) else None


def gallery(shown: Sequence[Shown], *, name: str) -> str:
    """Draw samples with filters by pool and by verdict; works without scripts, then unfiltered."""
    if not shown:
        return ""
    pools = dict.fromkeys(one.pool for one in shown)
    answers = sorted({_answer(one.verdict) for one in shown}, key=lambda answer: (answer != "kept", answer))
    return (
        f'<div data-gallery><form class="filters" onsubmit="return false">{_boxes("pool", pools)}'
        f"{_boxes('verdict', answers)}</form>"
        f'<p data-count class="soft" role="status" aria-live="polite">{len(shown)} samples shown</p>'
        f'<div class="gallery">{"".join(_sample(one, name) for one in shown)}</div></div>'
    )


def _answer(verdict: Verdict) -> str:
    return "kept" if verdict.keep else verdict.reason


def _boxes(kind: str, values: Iterable[str]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" name="{kind}" value="{text(value)}" checked>{text(value)}</label>'
        for value in values
    )
    return f"<fieldset><legend>{kind}</legend>{boxes}</fieldset>"


def _sample(one: Shown, name: str) -> str:
    sample, answer = one.sample, _answer(one.verdict)
    views = [_view("sample", photo(sample.image, alt=f"synthetic {name}, {sample.sample_id}"))]
    if sample.part is not None:
        views.append(_view("anomaly part", photo(sample.part, alt=f"anomaly part of {sample.sample_id}")))
    if sample.mask is not None:
        views.append(_view("mask", drawing(sample.mask, alt=f"mask of {sample.sample_id}")))
        views.append(_view("overlay", overlay(sample.image, sample.mask, alt=f"{sample.sample_id} with mask")))
    similarity = next((one.verdict.measures[key] for key in SIMILARITIES if key in one.verdict.measures), None)
    said = "" if similarity is None else f", similarity {similarity:.2f}"
    if one.shot is not None:
        views.append(_view(f"nearest shot{said}", photo(one.shot, alt=f"real shot nearest to {sample.sample_id}")))
    kind = "kept" if answer == "kept" else "refused"
    label = "kept" if answer == "kept" else f"refused: {answer}"
    area = "" if sample.mask is None else f"mask {100 * sample.mask_area:.1f} % of the image, "
    prompt = f"<br>prompt: {text(sample.provenance.prompt)}" if sample.provenance.prompt else ""
    return (
        f'<figure class="sample" data-pool="{text(one.pool)}" data-verdict="{text(answer)}">'
        f'<div class="views">{"".join(views)}</div><figcaption><span class="tag {kind}">{text(label)}</span> '
        f"{text(sample.sample_id)}<br>{area}licence "
        f"{text(sample.provenance.licence)}{prompt}</figcaption></figure>"
    )


def _view(label: str, picture: str) -> str:
    return f'<div class="view">{picture}{text(label)}</div>'
