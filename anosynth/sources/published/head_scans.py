"""Two small sets of head scans from Kaggle, labelled as a whole: brain MRI (tumour) and head CT (haemorrhage).

A quarter of the normal images tests (scikit-learn's split, seed 42). HeadCT's order is that of labels.csv, so its test
images are the very same as the published ones. Differs: BrainMRI's converter lists files in the order of its file
system, which nobody can repeat; here they are sorted. Nothing is published about which images show one patient.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anosynth.errors import DataError
from anosynth.params import BrainMRISource, HeadCTSource, ObjectParams
from anosynth.sources.files import list_images, relative_name
from anosynth.sources.items import SourceItem
from anosynth.sources.published.listing import Counts, Listed, published_test, source_items
from anosynth.sources.table import read_rows

TUMOR, HEMORRHAGE = "tumor", "hemorrhage"
BRAIN_MRI = Counts(normal=98, train=73, val=0, test=25, anomalous=155)
HEAD_CT = Counts(normal=100, train=75, val=0, test=25, anomalous=100)


def brain_mri(
    spec: BrainMRISource, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path
) -> Iterator[SourceItem]:
    """Yield the images of <root>/no (normal) and <root>/yes.

    Raises:
        DataError: if a folder is missing, or the counts are not the published ones.
    """
    normal = list_images(root / "no", what="images without a tumour")
    anomalous = list_images(root / "yes", what="images with a tumour")
    yield from source_items(
        _dealt(normal, anomalous, label=TUMOR, root=root),
        spec=spec,
        category=category,
        obj=obj,
        defects=defects,
        where=str(root),
        expected=BRAIN_MRI,
    )


def head_ct(
    spec: HeadCTSource, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path
) -> Iterator[SourceItem]:
    """Yield the images that labels.csv (id, hemorrhage: 0 or 1) names: <root>/head_ct/<id, three digits>.png.

    Raises:
        DataError: if labels.csv or an image is missing, a label is neither 0 nor 1, or the counts are not the published
            ones.
    """
    file = root / "labels.csv"
    images = root / "head_ct"
    images = images / "head_ct" if (images / "head_ct").is_dir() else images
    normal: list[Path] = []
    anomalous: list[Path] = []
    for row in read_rows(file, required=("id",)):
        # The published header is "id, hemorrhage", with a space.
        label = next((value for key, value in row.items() if key.strip() == "hemorrhage"), "")
        if not row["id"].isdecimal() or label not in ("0", "1"):
            raise DataError(f"{file}: id {row['id']!r} has the hemorrhage {label!r}; it must be 0 or 1, of a number")
        path = images / f"{int(row['id']):03d}.png"
        if not path.is_file():
            raise DataError(f"{path}: no such file, but {file.name} lists it; complete the download")
        (anomalous if label == "1" else normal).append(path)
    yield from source_items(
        _dealt(normal, anomalous, label=HEMORRHAGE, root=root),
        spec=spec,
        category=category,
        obj=obj,
        defects=defects,
        where=str(file),
        expected=HEAD_CT,
    )


def _dealt(normal: list[Path], anomalous: list[Path], *, label: str, root: Path) -> list[Listed]:
    chosen = published_test(len(normal))
    return [
        *(
            Listed(relative_name(path, root), None, "test" if at in chosen else "train", path.read_bytes)
            for at, path in enumerate(normal)
        ),
        *(Listed(relative_name(path, root), label, "test", path.read_bytes) for path in anomalous),
    ]
