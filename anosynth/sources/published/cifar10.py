"""CIFAR-10 (Krizhevsky 2009), one class against the rest: its python or its binary batches, its official test set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anosynth.errors import DataError
from anosynth.params import CIFAR10Source, ObjectParams
from anosynth.sources.items import SourceItem
from anosynth.sources.published.listing import Counts, source_items
from anosynth.sources.published.one_vs_rest import Labelled, normal_class, one_vs_rest
from anosynth.sources.published.plain_pickle import PlainArray, load_plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
VALUES = 3 * SIDE * SIDE
TRAIN, TEST = 5000, 1000
TRAIN_BATCHES = tuple(f"data_batch_{at}" for at in range(1, 6))
TEST_BATCH = "test_batch"
FOLDERS = (".", "cifar-10-batches-py", "cifar-10-batches-bin")
MAX_BYTES = 64_000_000


def items(
    spec: CIFAR10Source, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path
) -> Iterator[SourceItem]:
    """Yield the train images of the normal class and all test images; the other classes are the defect types.

    Raises:
        DataError: if a batch is missing, damaged or holds anything but plain data, the class is none, or the counts are
            not the published ones.
    """
    normal = normal_class(obj.folder or category, category=category, classes=CLASSES, where=str(root))
    train = [_batch(root, name) for name in TRAIN_BATCHES]
    listed = [
        *one_vs_rest(train, part="train", normal=normal, classes=CLASSES, anomalous=False),
        *one_vs_rest([_batch(root, TEST_BATCH)], part="test", normal=normal, classes=CLASSES, anomalous=True),
    ]
    expected = Counts(train=TRAIN, val=0, test=TEST, anomalous=TEST * (len(CLASSES) - 1))
    yield from source_items(
        listed, spec=spec, category=category, obj=obj, defects=defects, where=str(root), expected=expected
    )


def _batch(root: Path, name: str) -> Labelled:
    files = [root / folder / f"{name}{end}" for folder in FOLDERS for end in ("", ".bin")]
    there = [file for file in files if file.is_file()]
    if not there:
        raise DataError(
            f"{root}: no batch {name} or {name}.bin, here or in {' or '.join(FOLDERS[1:])}; "
            "set source.root to the unpacked CIFAR-10"
        )
    file = there[0]
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
    if len(data) > MAX_BYTES:
        raise DataError(f"{file}: larger than {MAX_BYTES} bytes, so no batch of CIFAR-10; replace it")
    labels, rows = _binary(data, file) if file.suffix == ".bin" else _python(data, file)
    if labels.size and not (labels.min() >= 0 and labels.max() < len(CLASSES)):
        raise DataError(f"{file}: a label is {int(labels.min())} or {int(labels.max())}; a class is 0 to 9")
    # Red, green and blue planes, each row by row.
    images = np.ascontiguousarray(rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
    return Labelled(file.relative_to(root).as_posix(), images, labels)


def _binary(data: bytes, file: Path) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    if not data or len(data) % (1 + VALUES):
        raise DataError(f"{file}: {len(data)} bytes are no whole rows of {1 + VALUES}; it is cut off: replace it")
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, 1 + VALUES)
    return rows[:, 0].astype(np.int64), rows[:, 1:]


def _python(data: bytes, file: Path) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    content = load_plain(data, name=str(file))
    fields = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    array, labels = fields.get("data"), fields.get("labels")
    if isinstance(array, PlainArray) and isinstance(labels, list):
        integers = [label for label in labels if type(label) is int]
        if array.shape == (len(labels), VALUES) and len(integers) == len(labels):
            return np.array(integers, dtype=np.int64), array.values()
    raise DataError(f"{file}: not a batch of CIFAR-10 (data uint8 [N, {VALUES}] and a list of N labels); replace it")
