"""VisA (Zou et al. 2022): one CSV per protocol with the columns object, split, label, image, mask."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from anosynth.errors import DataError
from anosynth.imaging import encode_png
from anosynth.params import ObjectParams, VisASource
from anosynth.sources.defects import defect_folders
from anosynth.sources.files import natural_key
from anosynth.sources.items import SourceItem
from anosynth.sources.table import part_of, path_inside, read_rows

SPLIT_FILE = "split_csv/1cls.csv"
NORMAL_LABEL = "normal"
MAX_CLASSES = 32


def items(
    spec: VisASource, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path
) -> Iterator[SourceItem]:
    """Yield the images of one category: normals first, then each label, in natural order of their paths.

    VisA tells no defect types apart, its label is "anomaly"; that is the default slug of its one defect, and
    `obj.defect_folders` gives it another. Its masks hold small class numbers, all of which are foreground.

    Raises:
        DataError: if the CSV is missing or has other columns, or does not know the category.
    """
    file = root / SPLIT_FILE
    rows = read_rows(file, required=("object", "split", "label", "image", "mask"))
    name = obj.folder or category
    mine = sorted((row for row in rows if row["object"] == name), key=lambda row: natural_key(row["image"]))
    if not mine:
        there = ", ".join(sorted({row["object"] for row in rows}))
        raise DataError(
            f"{file}: no object {name!r} for {category}; there: {there}; set objects.{category}.folder in params.yaml"
        )
    labels = sorted({row["label"] for row in mine} - {NORMAL_LABEL}, key=natural_key)
    taken = defect_folders(labels, category=category, obj=obj, defects=defects, where=str(file))
    for defect, label in [(None, NORMAL_LABEL), *taken.items()]:
        for row in (row for row in mine if row["label"] == label):
            path = path_inside(root, row["image"], file)
            mask = path_inside(root, row["mask"], file) if row["mask"] and defect is not None else None
            yield SourceItem(
                path=path,
                category=category,
                defect=defect,
                part=part_of(row["split"], file=file, path=path),
                group=path,
                licence=spec.licence,
                read_image=(root / path).read_bytes,
                read_mask=None if mask is None else _ClassMask(root / mask),
                mask_path=mask,
            )


class _ClassMask:
    """Reads a mask of small class numbers as background and foreground; leaves every other mask as it is."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> bytes:
        data = self._path.read_bytes()
        try:
            with Image.open(io.BytesIO(data)) as opened:
                classes = np.asarray(opened)
        except (OSError, ValueError, SyntaxError):
            return data
        if classes.ndim != 2 or not 1 < int(classes.max(initial=0)) < MAX_CLASSES:
            return data
        return encode_png(np.where(classes > 0, 255, 0).astype(np.uint8))
