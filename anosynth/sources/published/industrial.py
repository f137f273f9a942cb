"""The counts that MVTec AD (Bergmann et al. 2019) and VisA (Zou et al. 2022) were published with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from anosynth.params import MVTecSource, ObjectParams, VisASource
from anosynth.sources.items import SourceItem
from anosynth.sources.published.listing import Counts, check_counts

# Category -> normal images of train, normal images of test, anomalous images.
MVTEC = {
    "bottle": (209, 20, 63),
    "cable": (224, 58, 92),
    "capsule": (219, 23, 109),
    "carpet": (280, 28, 89),
    "grid": (264, 21, 57),
    "hazelnut": (391, 40, 70),
    "leather": (245, 32, 92),
    "metal_nut": (220, 22, 93),
    "pill": (267, 26, 141),
    "screw": (320, 41, 119),
    "tile": (230, 33, 84),
    "toothbrush": (60, 12, 30),
    "transistor": (213, 60, 40),
    "wood": (247, 19, 60),
    "zipper": (240, 32, 119),
}
# split_csv/1cls.csv.
VISA = {
    "candle": (900, 100, 100),
    "capsules": (542, 60, 100),
    "cashew": (450, 50, 100),
    "chewinggum": (453, 50, 100),
    "fryum": (450, 50, 100),
    "macaroni1": (900, 100, 100),
    "macaroni2": (900, 100, 100),
    "pcb1": (904, 100, 100),
    "pcb2": (901, 100, 100),
    "pcb3": (905, 101, 100),
    "pcb4": (904, 101, 100),
    "pipe_fryum": (450, 50, 100),
}


def counted(
    items: Iterable[SourceItem],
    *,
    spec: MVTecSource | VisASource,
    category: str,
    obj: ObjectParams,
    defects: tuple[str, ...],
    root: Path,
) -> Iterator[SourceItem]:
    """Pass the items on; if `spec.check_counts`, only after comparing them with the published counts.

    A category that is called otherwise than all published ones is a look-alike's or the user's own, and not compared.
    Anomalous images are counted if all defect types are taken (`defects` is empty).

    Raises:
        DataError: if the counts differ.
    """
    table = MVTEC if isinstance(spec, MVTecSource) else VISA
    name = obj.folder or category
    if not spec.check_counts or name not in table:
        yield from items
        return
    train, test, anomalous = table[name]
    listed = list(items)
    expected = Counts(train=train, val=0, test=test, anomalous=None if defects else anomalous)
    found = ((item.part, item.defect is not None) for item in listed)
    check_counts(found, expected, where=str(root), what=f"{spec.kind} ({category})")
    yield from listed
