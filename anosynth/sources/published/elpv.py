"""ELPV (Buerhop-Lutz et al. 2018): electroluminescence images of 2624 solar cells, labelled by experts as a whole.

The published partition: probability 0 is normal, 1 is anomalous, what lies between is left out; mono- and
polycrystalline cells are one category; a quarter of the normal cells tests, drawn in the order of labels.csv, so the
very same cells as in the published converter. Which of the 44 modules a cell was cut from is not published, so cells of
one module meet in train and test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anosynth.errors import DataError
from anosynth.params import PACKAGED, ELPVSource, ObjectParams
from anosynth.sources.items import SourceItem
from anosynth.sources.published.listing import Counts, Listed, published_test, source_items
from anosynth.sources.published.packages import package_folder
from anosynth.sources.table import path_inside

PUBLISHED = Counts(normal=1508, train=1131, val=0, test=377, anomalous=715)
LABELS = "labels.csv"
TYPES = ("mono", "poly")


def folder(spec: ELPVSource, *, root: Path) -> Path:
    """Return the folder of labels.csv: `spec.root`, or inside the installed package.

    Raises:
        DataError: if the package is wanted and not installed.
    """
    if spec.root != PACKAGED:
        return root / spec.root
    return package_folder("elpv_dataset", distribution="elpv-dataset", extra="elpv") / "data"


def items(
    spec: ELPVSource, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path
) -> Iterator[SourceItem]:
    """Yield the cells; the defect types are the cell's kind, mono and poly, as in the published partition.

    Raises:
        DataError: if labels.csv is missing or not as it was published, or the counts are not the published ones.
    """
    file = root / LABELS
    rows = list(_rows(file, root=root))
    normal = [path for path, probability, _ in rows if probability == 0.0]
    chosen = published_test(len(normal))
    listed = [
        Listed(path, None, "test" if at in chosen else "train", (root / path).read_bytes)
        for at, path in enumerate(normal)
    ]
    listed += [
        Listed(path, kind, "test", (root / path).read_bytes) for path, probability, kind in rows if probability == 1.0
    ]
    yield from source_items(
        listed, spec=spec, category=category, obj=obj, defects=defects, where=str(file), expected=PUBLISHED
    )


def _rows(file: Path, *, root: Path) -> Iterator[tuple[str, float, str]]:
    """Path, probability and kind of each cell: three words a line, split at white space."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; set source.root to the folder of labels.csv and images") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); replace it by the published one") from error
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        try:
            path, probability, kind = words
            value = float(probability)
        except ValueError:
            value, kind = -1.0, ""
        if not 0.0 <= value <= 1.0 or kind not in TYPES:
            raise DataError(
                f"{file}: line {number} is {line[:60]!r}; it must be a path, a probability and mono or poly"
            )
        yield path_inside(root, path, file), value, kind
