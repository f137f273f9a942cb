"""KolektorSDD (Tabernik et al. 2020): electrical commutators, 50 items of 8 images, cut into three bands.

The bands follow the converter behind the published counts: [0, h/3), [h/3, 2h/3), [2h/3, h), rounded down; a band is
anomalous if any value of its label is not 0. Differs: that converter lists files in the order of its file system, which
nobody can repeat; here they are sorted, so the counts are the published ones but not the very same bands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from anosynth.errors import DataError
from anosynth.params import KSDDSource, ObjectParams
from anosynth.sources.files import list_folders, list_images, relative_name
from anosynth.sources.items import SourceItem
from anosynth.sources.published.listing import Counts, Listed, by_item, published_test, source_items
from anosynth.sources.published.strips import ImageTile, MaskTile, Strips

BANDS = 3
DEFECT = "defect"
LABEL_ENDING = "_label"
PUBLISHED = Counts(normal=1143, train=857, val=0, test=286, anomalous=54)
BY_ITEM = Counts(normal=1143, anomalous=54)


def items(
    spec: KSDDSource, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path
) -> Iterator[SourceItem]:
    """Yield the bands; `partition: by_item` gives all bands of a commutator (folder kosXX) one part.

    Raises:
        DataError: if a folder or label is missing or damaged, or the counts are not the published ones.
    """
    boards = [name for name in list_folders(root) if name.lower().startswith("kos")]
    if not boards:
        raise DataError(f"{root}: no folder kos01, kos02, ...; set source.root to the unpacked KolektorSDD")
    strips = Strips(max_pixels=spec.max_pixels)
    bands = [band for board in boards for band in _bands(root / board, root=root, strips=strips)]
    if spec.partition == "by_item":
        testing = by_item(boards)
        listed = [replace(band, part="test" if band.group in testing else "train") for band in bands]
    else:
        normal = [band for band in bands if band.label is None]
        chosen = published_test(len(normal))
        listed = [replace(band, part="test" if at in chosen else "train") for at, band in enumerate(normal)]
        listed += [band for band in bands if band.label is not None]
        listed = [replace(band, group=None) for band in listed]
    yield from source_items(
        listed,
        spec=spec,
        category=category,
        obj=obj,
        defects=defects,
        where=str(root),
        expected=BY_ITEM if spec.partition == "by_item" else PUBLISHED,
    )


def _bands(board: Path, *, root: Path, strips: Strips) -> Iterator[Listed]:
    """The bands of one commutator, of part "test" and grouped by the commutator."""
    files = list_images(board, what="images PartN.jpg and labels PartN_label.bmp")
    labels = {file.stem.removesuffix(LABEL_ENDING): file for file in files if file.stem.endswith(LABEL_ENDING)}
    for file in files:
        if file.stem.endswith(LABEL_ENDING):
            continue
        if file.stem not in labels:
            raise DataError(f"{file}: no label {file.stem}{LABEL_ENDING}.bmp beside it; complete the download")
        label = labels[file.stem]
        try:
            foreground = strips.foreground(label)
        except OSError as error:
            raise DataError(f"{label}: cannot be read ({error.strerror or error})") from error
        height, width = foreground.shape
        for band in range(BANDS):
            top, bottom = height * band // BANDS, height * (band + 1) // BANDS
            inside = foreground[top:bottom]
            bad = bool(inside.any())
            yield Listed(
                path=f"{relative_name(file, root)}#band-{band}",
                label=DEFECT if bad else None,
                part="test",
                read_image=ImageTile(strips, file, (height, width), top, bottom, 0, width),
                read_mask=MaskTile(inside.copy()) if bad else None,
                mask_path=f"{relative_name(label, root)}#band-{band}" if bad else None,
                group=board.name,
            )
