"""A page about two arms, small pictures and a hostile name."""

from __future__ import annotations

import numpy as np

from anosynth.comparison import compare
from anosynth.promotion import Promotion
from anosynth.report_page.gallery import Shown
from anosynth.report_page.page import CategoryContent, Wrong, page
from anosynth.reporting import PoolCount, ShotsUsed, verdict
from anosynth.samples import Provenance, Sample, SampleSpec, Verdict
from tests.measured_arms import measured_arms

HOSTILE = '<script>alert("x")</script> & \'"><img src=x onerror=alert(1)>'

CONTROLS = """
## Telling defect types apart

Real test images, 95 % interval in brackets.

| category | arm | accuracy |
| --- | --- | --- |
| a \\| b | real | 0.500 [0.400, 0.600] |
"""


def shown(pool: str, index: int, reason: str, *, name: str = "washer") -> Shown:
    image = np.full((40, 60, 3), 40 * (index + 1), np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    mask[5:15, 10:30] = 255
    normal = pool == "normals"
    spec = SampleSpec("normals" if normal else "pairs", name, None if normal else "scratch", "perlin", index, 1)
    sample = Sample(
        spec,
        image,
        None if normal else mask,
        Provenance(("shot",), "CC0-1.0", prompt=HOSTILE),
        part=None if normal else image.copy(),
    )
    measures = {"shot_similarity": 0.25, "nearest_shot": 0.0}
    return Shown(pool, sample, Verdict(sample.sample_id, reason, measures), np.full((30, 30, 3), 9, np.uint8))


def samples() -> list[Shown]:
    return [
        shown("normals", 0, ""),
        shown("scratch/perlin", 1, ""),
        shown("scratch/perlin", 2, "duplicate"),
        shown("scratch/perlin", 3, "tiny"),
    ]


def written(*, name: str = "steel washer", gains: dict[str, float] | None = None) -> str:
    result, table, _ = measured_arms(gains={"perlin": 1.5} if gains is None else gains, role="test", seeds=2)
    compared = compare(result, table, baseline="real", confidence=0.95)
    gate = Promotion(
        "washer", "unet", "perlin", "real", "image_ap", "helpful", "because", None, 0.95, 9, 12, 2, {}, "CC0-1.0"
    )
    line = [(0.1 * at, 1.0 - 0.05 * at) for at in range(11)]
    content = CategoryContent(
        shots=ShotsUsed("washer", name, 8, {"scratch": 4}, "k_center", 0, ["CC0-1.0"]),
        results=[result],
        compared=compared,
        decisions=[gate],
        pools=[PoolCount("washer", "scratch/perlin", 64, 60, {"duplicate": 4}, "CC0-1.0")],
        curves={"unet": {"real": {"0": line, "1": line}, "perlin": {"0": line}}},
        scores={"unet, real": [(0.1, 3, 0), (0.5, 1, 2)]},
        shown=samples(),
        wrong=[Wrong("unet", "real", name, "scratch", 0.25, np.zeros((192, 400, 3), np.uint8))],
    )
    return page(
        [content],
        verdict=verdict(compared, metric="image_ap", baseline="real"),
        primary="image_ap",
        baseline="real",
        confidence=0.95,
        about=f"Real images: {name}.",
        controls=CONTROLS,
        provenance={"name": name, "seeds": ["0", "1"]},
    )
