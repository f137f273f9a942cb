"""The handwritten digits inside scikit-learn (Alpaydin and Kaynak 1998), 8 x 8 px, one digit against the rest.

There is no published one-vs-rest partition; ours follows the other sets without one: a quarter of the normal digit's
images tests (scikit-learn's split, seed 42), and so do all images of the other digits. The writers are not told apart
in the file, so images of one writer may meet in train and test.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anosynth.errors import DataError
from anosynth.params import PACKAGED, DigitsSource, ObjectParams
from anosynth.sources.items import SourceItem
from anosynth.sources.published.listing import Counts, Listed, published_test, source_items
from anosynth.sources.published.one_vs_rest import ArrayImage, normal_class
from anosynth.sources.published.packages import package_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = tuple("0123456789")
FILE = "digits.csv.gz"
SIDE = 8
TOP = 16
MAX_BYTES = 4_000_000
IMAGES = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)


def folder(spec: DigitsSource, *, root: Path) -> Path:
    """Return the folder of digits.csv.gz: `spec.root`, or inside the installed scikit-learn.

    Raises:
        DataError: if the package is wanted and not installed.
    """
    if spec.root != PACKAGED:
        return root / spec.root
    return package_folder("sklearn", distribution="scikit-learn", extra="digits") / "datasets" / "data"


def items(
    spec: DigitsSource, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path
) -> Iterator[SourceItem]:
    """Yield the images of the normal digit and, for the test, of all others: those are the defect types.

    Raises:
        DataError: if the file is missing, damaged or another one, the digit is none, or the counts are not right.
    """
    file = root / FILE
    normal = normal_class(obj.folder or category, category=category, classes=CLASSES, where=str(file))
    table = _table(file)
    images = np.rint(table[:, :-1].reshape(-1, SIDE, SIDE) * (255.0 / TOP)).astype(np.uint8)
    labels = table[:, -1].tolist()
    mine = [at for at, label in enumerate(labels) if label == normal]
    testing = {mine[at] for at in published_test(len(mine))}
    listed = [
        Listed(
            path=f"{FILE}#{at:05d}",
            label=None if label == normal else CLASSES[label],
            part="train" if label == normal and at not in testing else "test",
            read_image=ArrayImage(images, at),
        )
        for at, label in enumerate(labels)
    ]
    expected = Counts(normal=IMAGES[normal], val=0, anomalous=sum(IMAGES) - IMAGES[normal])
    yield from source_items(
        listed, spec=spec, category=category, obj=obj, defects=defects, where=str(file), expected=expected
    )


def _table(file: Path) -> NDArray[np.int64]:
    """The rows of the file: 64 values from 0 to 16 and the digit."""
    try:
        with gzip.open(file) as opened:
            text = opened.read(MAX_BYTES).decode("ascii")
        rows = [[int(value) for value in line.split(",")] for line in text.splitlines() if line]
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; set source.root to the folder of {FILE}") from None
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{file}: cannot be read as digits ({error}); replace it") from error
    for number, row in enumerate(rows, start=1):
        if len(row) != SIDE * SIDE + 1 or not all(0 <= value <= TOP for value in row) or row[-1] >= len(CLASSES):
            raise DataError(f"{file}: line {number} is not 64 values from 0 to 16 and a digit; replace the file")
    if not rows:
        raise DataError(f"{file}: no rows; replace the file")
    return np.array(rows, dtype=np.int64)
