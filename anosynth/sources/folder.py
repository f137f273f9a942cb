"""Plain folders named in params.yaml: one of normals, one per defect type, one per defect type with its masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anosynth.errors import DataError
from anosynth.params import FolderSource, ObjectParams
from anosynth.sources.defects import defect_folders
from anosynth.sources.files import list_images, relative_name
from anosynth.sources.items import Part, SourceItem
from anosynth.sources.mvtec import masks_by_stem


def items(
    spec: FolderSource, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path
) -> Iterator[SourceItem]:
    """Yield the images of one category: normals, normal test images if they have a folder, then each defect type.

    "{category}" in a folder's name is replaced by `obj.folder`, or the slug. Anomalous images have no part
    (`split.rule: first_third` gives them a role), and neither have the normals unless `spec.normal_test` is set.

    Raises:
        DataError: if a folder is missing, or `spec.masks` has no folder for a defect.
    """
    name = obj.folder or category

    def inside(folder: str) -> Path:
        return root / folder.replace("{category}", name)

    normals: list[tuple[str, Part | None]] = [(spec.normal, None)]
    if spec.normal_test is not None:
        normals = [(spec.normal, "train"), (spec.normal_test, "test")]
    for folder, part in normals:
        for path in list_images(inside(folder), what=f"normal images of {category}"):
            yield SourceItem(
                path=relative_name(path, root),
                category=category,
                defect=None,
                part=part,
                group=relative_name(path, root),
                licence=spec.licence,
                read_image=path.read_bytes,
                read_mask=None,
                mask_path=None,
            )
    plain = obj.model_copy(update={"defect_folders": {}})
    for defect in defect_folders(
        spec.anomalous, category=category, obj=plain, defects=defects, where="source.anomalous"
    ):
        if defect not in spec.masks:
            raise DataError(f"source.masks has no folder for {defect!r}; there: {', '.join(sorted(spec.masks))}")
        truth = inside(spec.masks[defect])
        if not truth.is_dir():
            raise DataError(f"{truth}: no such folder, it should hold the masks of {defect}; correct source.masks")
        masks = masks_by_stem(truth)
        for path in list_images(inside(spec.anomalous[defect]), what=f"images of {category} with {defect}"):
            mask = masks.get(path.stem)
            yield SourceItem(
                path=relative_name(path, root),
                category=category,
                defect=defect,
                part=None,
                group=relative_name(path, root),
                licence=spec.licence,
                read_image=path.read_bytes,
                read_mask=None if mask is None else mask.read_bytes,
                mask_path=relative_name(truth / f"{path.stem}.png" if mask is None else mask, root),
            )
