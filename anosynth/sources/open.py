"""From the section `source` of params.yaml to the images of one category: one visible choice, no registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import assert_never

from anosynth.errors import DataError
from anosynth.params import (
    FolderSource,
    MVTecSource,
    ObjectParams,
    ProceduralSource,
    SourceSpec,
    TableSource,
    VisASource,
)
from anosynth.sources import folder, mvtec, procedural, table, visa
from anosynth.sources.groups import read_groups, with_groups
from anosynth.sources.items import SourceItem


def open_source(
    spec: SourceSpec, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path, seed: int
) -> Iterator[SourceItem]:
    """Yield the images of one category of a source, normals before anomalous ones, in natural order.

    Args:
        spec: section `source` of params.yaml.
        category: slug of the category.
        obj: what the category and its defects are called in the source.
        defects: slugs of the defect types to take; empty takes all that the source has.
        root: project folder; a relative `spec.root` starts here.
        seed: root seed, used by the rendered source only.

    Raises:
        DataError: if the source is not as its kind promises, or yields no image.
    """
    count = 0
    for item in _items(spec, category=category, obj=obj, defects=defects, root=root, seed=seed):
        count += 1
        yield item
    if count == 0:
        raise DataError(f"{root / spec.root}: no image of {category}; check source in params.yaml")


def _items(
    spec: SourceSpec, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path, seed: int
) -> Iterator[SourceItem]:
    base = root / spec.root
    match spec:
        case ProceduralSource():
            yield from procedural.items(spec, category=category, defects=defects, seed=seed)
            return
        case MVTecSource():
            found = mvtec.items(spec, category=category, obj=obj, defects=defects, root=base)
        case VisASource():
            found = visa.items(spec, category=category, obj=obj, defects=defects, root=base)
        case FolderSource():
            found = folder.items(spec, category=category, obj=obj, defects=defects, root=base)
        case TableSource():
            found = table.items(spec, category=category, obj=obj, defects=defects, root=base)
        case _:
            assert_never(spec)
    if not base.is_dir():
        raise DataError(f"{base}: no such folder; set source.root in params.yaml to the folder of the data")
    if spec.groups is None:
        yield from found
    else:
        file = base / spec.groups.replace("{category}", obj.folder or category)
        yield from with_groups(found, read_groups(file, root=base))
