"""MNIST (LeCun et al. 1998), one digit against the rest: its idx files, plain or gzipped, and its official test set."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anosynth.errors import DataError
from anosynth.params import MNISTSource, ObjectParams
from anosynth.sources.items import SourceItem
from anosynth.sources.published.listing import Counts, source_items
from anosynth.sources.published.one_vs_rest import Labelled, normal_class, one_vs_rest

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = tuple("0123456789")
SIDE = 28
MAX_IMAGES = 60_000
TRAIN = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
TEST = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
IMAGES_MAGIC, LABELS_MAGIC = 0x00000803, 0x00000801


def items(
    spec: MNISTSource, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path
) -> Iterator[SourceItem]:
    """Yield the train images of the normal digit and all test images; the other digits are the defect types.

    Raises:
        DataError: if a file is missing, damaged or no idx file, the digit is none, or the counts are not the published
            ones.
    """
    normal = normal_class(obj.folder or category, category=category, classes=CLASSES, where=str(root))
    train, test = (_labelled(root, prefix) for prefix in ("train", "t10k"))
    listed = [
        *one_vs_rest([train], part="train", normal=normal, classes=CLASSES, anomalous=False),
        *one_vs_rest([test], part="test", normal=normal, classes=CLASSES, anomalous=True),
    ]
    expected = Counts(train=TRAIN[normal], val=0, test=TEST[normal], anomalous=sum(TEST) - TEST[normal])
    yield from source_items(
        listed, spec=spec, category=category, obj=obj, defects=defects, where=str(root), expected=expected
    )


def _labelled(root: Path, prefix: str) -> Labelled:
    file, images = _read(root, f"{prefix}-images", "idx3", magic=IMAGES_MAGIC, shape=(SIDE, SIDE))
    labels_file, labels = _read(root, f"{prefix}-labels", "idx1", magic=LABELS_MAGIC, shape=())
    if len(images) != len(labels):
        raise DataError(f"{file}: {len(images)} images, but {labels_file.name} has {len(labels)} labels; replace both")
    if labels.size and int(labels.max()) >= len(CLASSES):
        raise DataError(f"{labels_file}: a label is {int(labels.max())}; a digit is 0 to 9")
    return Labelled(file.name, images, labels.astype(np.int64))


def _read(root: Path, stem: str, kind: str, *, magic: int, shape: tuple[int, ...]) -> tuple[Path, NDArray[np.uint8]]:
    """Read an idx file: its magic number, the number of rows and their shape (big-endian), then one byte a value."""
    names = [f"{stem}{dot}{kind}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    there = [root / name for name in names if (root / name).is_file()]
    if not there:
        raise DataError(
            f"{root / names[0]}: no such file, plain or .gz; set source.root to the folder of MNIST's files"
        )
    file = there[0]
    head = 4 * (2 + len(shape))
    limit = head + MAX_IMAGES * int(np.prod(shape, dtype=np.int64))
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            data = opened.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read ({error}); replace it") from error
    words = np.frombuffer(data[:head].ljust(head, b"\0"), dtype=">u4").tolist()
    rows = words[1]
    if len(data) < head or words[0] != magic or tuple(words[2:]) != shape:
        raise DataError(f"{file}: not the idx file that it should be (its head reads {words}); replace it")
    if len(data) != head + rows * int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{file}: {len(data)} bytes or more for {rows} rows of {shape or 1}; it is cut off: replace it")
    return file, np.frombuffer(data, dtype=np.uint8, offset=head).reshape(rows, *shape)
