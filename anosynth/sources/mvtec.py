"""MVTec AD and look-alikes such as MPDD and BTAD: train/good, test/<defect>, ground_truth/<defect>."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from anosynth.errors import DataError
from anosynth.params import MVTecSource, ObjectParams
from anosynth.sources.defects import defect_folders
from anosynth.sources.files import list_folders, list_images, relative_name
from anosynth.sources.items import SourceItem

logger = logging.getLogger(__name__)


def items(
    spec: MVTecSource, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path
) -> Iterator[SourceItem]:
    """Yield the images of one category: train normals, test normals, then each defect type, in natural order.

    The folder of normals is `spec.normal` ("good"; BTAD: "ok"). The mask of test/<defect>/<stem>.* is
    ground_truth/<defect>/<stem>_mask.* or ground_truth/<defect>/<stem>.*, whatever its suffix.

    Args:
        spec: kind mvtec.
        category: slug; the folder is `obj.folder`, or the slug.
        obj: names of the category and of its defects on disk.
        defects: slugs of the defect types to take; empty takes all.
        root: `spec.root`, resolved.

    Raises:
        DataError: if a folder is missing, or two masks could belong to one image.
    """
    folder = root / (obj.folder or category)
    if not folder.is_dir():
        there = ", ".join(list_folders(root)) if root.is_dir() else "no such root folder"
        raise DataError(
            f"{folder}: no such folder for {category}; there: {there}; "
            f"set source.root or objects.{category}.folder in params.yaml"
        )
    for part in ("train", "test"):
        normals = folder / part / spec.normal
        if part == "test" and not normals.is_dir():
            logger.warning("%s: no such folder, %s has no normal test images", normals, category)
            continue
        for path in list_images(normals, what=f"normal {part} images of {category}"):
            name = relative_name(path, root)
            yield SourceItem(
                path=name,
                category=category,
                defect=None,
                part="train" if part == "train" else "test",
                group=name,
                licence=spec.licence,
                read_image=path.read_bytes,
                read_mask=None,
                mask_path=None,
            )
    test = folder / "test"
    kinds = [name for name in list_folders(test) if name != spec.normal] if test.is_dir() else []
    taken = defect_folders(kinds, category=category, obj=obj, defects=defects, where=str(test))
    for defect, kind in taken.items():
        yield from _anomalous(spec, category=category, defect=defect, kind=kind, folder=folder, root=root)


def _anomalous(
    spec: MVTecSource, *, category: str, defect: str, kind: str, folder: Path, root: Path
) -> Iterator[SourceItem]:
    truth = folder / "ground_truth" / kind
    masks = masks_by_stem(truth) if truth.is_dir() else {}
    used = set()
    for path in list_images(folder / "test" / kind, what=f"images of {category} with {defect}"):
        mask = masks.get(path.stem)
        used.add(path.stem)
        yield SourceItem(
            path=relative_name(path, root),
            category=category,
            defect=defect,
            part="test",
            group=relative_name(path, root),
            licence=spec.licence,
            read_image=path.read_bytes,
            read_mask=None if mask is None else mask.read_bytes,
            mask_path=relative_name(truth / f"{path.stem}_mask.png" if mask is None else mask, root),
        )
    orphans = sorted(masks.keys() - used)
    if orphans:
        logger.warning("%s: %d masks belong to no image, the first is %s", truth, len(orphans), masks[orphans[0]].name)


def masks_by_stem(folder: Path) -> dict[str, Path]:
    """Map the stem of an image to its mask in `folder`: files <stem>_mask.* or <stem>.*.

    Raises:
        DataError: if two files could be the mask of one image.
    """
    masks: dict[str, Path] = {}
    for path in list_images(folder, what="masks"):
        stem = path.stem.removesuffix("_mask")
        if stem in masks:
            raise DataError(f"{path} and {masks[stem].name} both could be the mask of {stem}; remove one of them")
        masks[stem] = path
    return masks
