"""Semantic anomalies: one class of a labelled data set is normal, every other class is a defect type of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.errors import DataError
from anosynth.imaging import encode_png
from anosynth.sources.items import Part
from anosynth.sources.published.listing import Listed

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Labelled:
    """One file of a data set that holds many images.

    Attributes:
        name: of the file, relative to the root.
        images: uint8 [N, H, W] or [N, H, W, 3].
        labels: int [N], positions in the list of classes.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ArrayImage:
    """Reads one image of an array as a PNG."""

    images: NDArray[np.uint8]
    at: int

    def __call__(self) -> bytes:
        """Return the PNG."""
        return encode_png(self.images[self.at])


def normal_class(name: str, *, category: str, classes: Sequence[str], where: str) -> int:
    """Return the position of the normal class.

    Raises:
        DataError: if the data set has no class of this name.
    """
    if name not in classes:
        raise DataError(
            f"{where}: no class {name!r} for {category}; there: {', '.join(classes)}; "
            f"set objects.{category}.folder in params.yaml to one of them"
        )
    return list(classes).index(name)


def one_vs_rest(
    files: Sequence[Labelled], *, part: Part, normal: int, classes: Sequence[str], anomalous: bool
) -> Iterator[Listed]:
    """Yield the images of the normal class, and those of every other class where they are wanted.

    Args:
        files: of one part.
        part: train or test.
        normal: position of the normal class.
        classes: names of all classes.
        anomalous: whether images of other classes are used: those of test are, those of train are not.
    """
    for file in files:
        for at, label in enumerate(file.labels.tolist()):
            if label == normal or anomalous:
                name = None if label == normal else classes[label]
                yield Listed(f"{file.name}#{at:05d}", name, part, ArrayImage(file.images, at))
