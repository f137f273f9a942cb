"""From the section `source` of params.yaml to the images of one category: one visible choice, no registry."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import assert_never

from anosynth.errors import DataError
from anosynth.licences import forbids_commerce
from anosynth.params import (
    AFIDSource,
    BrainMRISource,
    CIFAR10Source,
    DigitsSource,
    ELPVSource,
    FolderSource,
    HeadCTSource,
    KSDDSource,
    MNISTSource,
    MVTecSource,
    ObjectParams,
    OCT2017Source,
    ProceduralSource,
    RealSource,
    RESCSource,
    SourceSpec,
    TableSource,
    VisASource,
)
from anosynth.sources import folder, mvtec, procedural, table, visa
from anosynth.sources.groups import read_groups, with_groups
from anosynth.sources.items import SourceItem
from anosynth.sources.published import afid, bmad, cifar10, digits, elpv, head_scans, industrial, ksdd, mnist

logger = logging.getLogger(__name__)


def open_source(
    spec: SourceSpec, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path, seed: int
) -> Iterator[SourceItem]:
    """Yield the images of one category of a source, normals before anomalous ones, in natural order.

    A warning is logged where the licence of real images forbids commercial use, or nobody has stated one.

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
    if isinstance(spec, ProceduralSource):
        yield from procedural.items(spec, category=category, defects=defects, seed=seed)
        return
    _say_licence(spec)
    base = data_folder(spec, root=root)
    found = _found(spec, category=category, obj=obj, defects=defects, base=base)
    if spec.groups is None:
        yield from found
    else:
        file = base / spec.groups.replace("{category}", obj.folder or category)
        yield from with_groups(found, read_groups(file, root=base))


def _say_licence(spec: RealSource) -> None:
    if forbids_commerce(spec.licence):
        logger.warning(
            "%s is licensed %s: neither the images nor anything made from them may be used commercially",
            spec.kind,
            spec.licence,
        )
    elif spec.licence.endswith(("terms-not-stated", "terms-not-verified")):
        logger.warning(
            "%s has no licence that was stated or could be verified (%s): clear its use with its publisher",
            spec.kind,
            spec.licence,
        )


def _found(
    spec: RealSource, *, category: str, obj: ObjectParams, defects: tuple[str, ...], base: Path
) -> Iterator[SourceItem]:
    match spec:
        case MVTecSource():
            found = mvtec.items(spec, category=category, obj=obj, defects=defects, root=base)
            return industrial.counted(found, spec=spec, category=category, obj=obj, defects=defects, root=base)
        case VisASource():
            found = visa.items(spec, category=category, obj=obj, defects=defects, root=base)
            return industrial.counted(found, spec=spec, category=category, obj=obj, defects=defects, root=base)
        case FolderSource():
            return folder.items(spec, category=category, obj=obj, defects=defects, root=base)
        case TableSource():
            return table.items(spec, category=category, obj=obj, defects=defects, root=base)
        case KSDDSource():
            return ksdd.items(spec, category=category, obj=obj, defects=defects, root=base)
        case AFIDSource():
            return afid.items(spec, category=category, obj=obj, defects=defects, root=base)
        case ELPVSource():
            return elpv.items(spec, category=category, obj=obj, defects=defects, root=base)
        case OCT2017Source() | RESCSource():
            return bmad.items(spec, category=category, obj=obj, defects=defects, root=base)
        case BrainMRISource():
            return head_scans.brain_mri(spec, category=category, obj=obj, defects=defects, root=base)
        case HeadCTSource():
            return head_scans.head_ct(spec, category=category, obj=obj, defects=defects, root=base)
        case MNISTSource():
            return mnist.items(spec, category=category, obj=obj, defects=defects, root=base)
        case CIFAR10Source():
            return cifar10.items(spec, category=category, obj=obj, defects=defects, root=base)
        case DigitsSource():
            return digits.items(spec, category=category, obj=obj, defects=defects, root=base)
        case _:
            assert_never(spec)


def data_folder(spec: RealSource, *, root: Path) -> Path:
    """Return the folder that a source's paths are relative to: `spec.root`, or one inside an installed package.

    Raises:
        DataError: if there is no such folder, or the package is not installed.
    """
    match spec:
        case ELPVSource():
            base = elpv.folder(spec, root=root)
        case DigitsSource():
            base = digits.folder(spec, root=root)
        case _:
            base = root / spec.root
    if not base.is_dir():
        raise DataError(f"{base}: no such folder; set source.root in params.yaml to the folder of the data")
    return base
