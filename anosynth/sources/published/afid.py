"""AFID, the AITEX fabric image database (Silvestre-Blanes et al. 2019): strips of 4096 x 256 px, cut into tiles.

After the converter behind the published counts: a strip without a defect gives a normal tile per 256 px; of a strip
with a defect those tiles are kept whose mask is not all 0, and the others are left out. Differs: that converter lists
files in the order of its file system, which nobody can repeat; here they are sorted, so the counts are the published
ones but not the very same tiles. Where a strip has several masks (_mask1, _mask2) all of them count.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anosynth.errors import DataError
from anosynth.imaging import image_size
from anosynth.params import AFIDSource, ObjectParams
from anosynth.sources.files import list_folders, list_images, relative_name
from anosynth.sources.items import SourceItem
from anosynth.sources.published.listing import Counts, Listed, by_item, published_test, source_items
from anosynth.sources.published.strips import ImageTile, MaskTile, Strips

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

TILE_PX = 256
PUBLISHED = Counts(normal=2256, train=1692, val=0, test=564, anomalous=183)
BY_ITEM = Counts(normal=2256, anomalous=183)
# The second number of a file name, as the data set's page lists them.
DEFECTS = {
    "002": "broken_end",
    "006": "broken_yarn",
    "010": "broken_pick",
    "016": "weft_curling",
    "019": "fuzzyball",
    "022": "cut_selvage",
    "023": "crease",
    "025": "warp_ball",
    "027": "knots",
    "029": "contamination",
    "030": "nep",
    "036": "weft_crack",
}


def items(
    spec: AFIDSource, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path
) -> Iterator[SourceItem]:
    """Yield the tiles; `partition: by_item` gives all tiles of a strip one part.

    Raises:
        DataError: if a folder is missing, a file is damaged, is no strip or names no known defect, or the counts are
            not the published ones.
    """
    strips = Strips(max_pixels=spec.max_pixels)
    normal = list(_normal(root, strips=strips))
    if spec.partition == "by_item":
        testing = by_item(list(dict.fromkeys(str(tile.group) for tile in normal)))
        listed = [replace(tile, part="test" if tile.group in testing else "train") for tile in normal]
        listed += _anomalous(root, strips=strips)
    else:
        chosen = published_test(len(normal))
        listed = [replace(tile, part="test" if at in chosen else "train") for at, tile in enumerate(normal)]
        listed = [replace(tile, group=None) for tile in (*listed, *_anomalous(root, strips=strips))]
    yield from source_items(
        listed,
        spec=spec,
        category=category,
        obj=obj,
        defects=defects,
        where=str(root),
        expected=BY_ITEM if spec.partition == "by_item" else PUBLISHED,
    )


def _inner(root: Path, name: str) -> Path:
    """The folder of a name; some copies of the data set hold it twice, one inside the other."""
    folder = root / name
    return folder / name if (folder / name).is_dir() else folder


def _normal(root: Path, *, strips: Strips) -> Iterator[Listed]:
    folder = _inner(root, "NODefect_images")
    fabrics = list_folders(folder) if folder.is_dir() else []
    if not fabrics:
        raise DataError(f"{folder}: no folders of fabrics in it; set source.root to the unpacked AITEX data")
    for fabric in fabrics:
        for file in list_images(folder / fabric, what="fabric without defects"):
            size = _strip_size(file)
            for at in range(size[1] // TILE_PX):
                yield Listed(
                    path=f"{relative_name(file, root)}#tile-{at}",
                    label=None,
                    part="train",
                    read_image=_tile(strips, file, size, at),
                    group=relative_name(file, root),
                )


def _anomalous(root: Path, *, strips: Strips) -> Iterator[Listed]:
    truth = _inner(root, "Mask_images")
    masks = list_images(truth, what="masks of fabric with defects")
    without = []
    for file in list_images(_inner(root, "Defect_images"), what="fabric with defects"):
        mine = [mask for mask in masks if mask.stem.rsplit("_mask", 1)[0] == file.stem]
        if not mine:
            without.append(file.name)
            continue
        code = file.stem.split("_")[1] if "_" in file.stem else ""
        if code not in DEFECTS:
            raise DataError(
                f"{file}: its name should read nnnn_ddd_ff with a defect ddd of {', '.join(DEFECTS)}; correct it"
            )
        size = _strip_size(file)
        foreground = _union(mine, size=size, file=file, strips=strips)
        for at in range(size[1] // TILE_PX):
            inside = foreground[:, at * TILE_PX : (at + 1) * TILE_PX]
            if inside.any():
                yield Listed(
                    path=f"{relative_name(file, root)}#tile-{at}",
                    label=DEFECTS[code],
                    part="test",
                    read_image=_tile(strips, file, size, at),
                    read_mask=MaskTile(inside.copy()),
                    mask_path=f"{relative_name(mine[0], root)}#tile-{at}",
                    group=relative_name(file, root),
                )
    if without:
        logger.warning("%s: no mask for %d strip(s), left out: %s", truth, len(without), ", ".join(without))


def _tile(strips: Strips, file: Path, size: tuple[int, int], at: int) -> ImageTile:
    return ImageTile(strips, file, size, 0, size[0], at * TILE_PX, (at + 1) * TILE_PX)


def _strip_size(file: Path) -> tuple[int, int]:
    try:
        height, width = image_size(file.read_bytes(), name=str(file))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
    if height != TILE_PX or width < TILE_PX or width % TILE_PX:
        raise DataError(
            f"{file}: {width} x {height} px; a strip is {TILE_PX} px high and a multiple of it wide (4096 x 256 px)"
        )
    return height, width


def _union(masks: list[Path], *, size: tuple[int, int], file: Path, strips: Strips) -> NDArray[np.bool_]:
    found = np.zeros(size, dtype=np.bool_)
    for mask in masks:
        try:
            foreground = strips.foreground(mask)
        except OSError as error:
            raise DataError(f"{mask}: cannot be read ({error.strerror or error})") from error
        if foreground.shape != size:
            height, width = foreground.shape
            raise DataError(
                f"{mask}: {width} x {height} px, but its strip {file.name} is {size[1]} x {size[0]} px; "
                "they must be equal"
            )
        found |= foreground
    return found
