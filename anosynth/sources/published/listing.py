"""What every published data set has in common: counts that are checked, one order of items."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from anosynth.errors import DataError
from anosynth.params import ObjectParams, PublishedSource
from anosynth.sources.defects import defect_folders
from anosynth.sources.files import natural_key
from anosynth.sources.items import PARTS, Part, SourceItem

TEST_SHARE = 0.25
SPLIT_SEED = 42


@dataclass(frozen=True)
class Listed:
    """One image of a data set under the data set's own names.

    Attributes:
        path: relative to the root; a tile or a row of a file is `<file>#<which>`.
        label: the data set's name of the defect; None for a normal image.
        part: where the published partition puts it.
        read_image: returns the bytes of an image file.
        read_mask: returns the bytes of a mask file; None for a normal image, and where the data set has no masks.
        mask_path: where the mask comes from; None exactly where `read_mask` is None.
        group: images of one physical item, if the partition keeps them together; None: the image is its own group.
    """

    path: str
    label: str | None
    part: Part
    read_image: Callable[[], bytes]
    read_mask: Callable[[], bytes] | None = None
    mask_path: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Counts:
    """How many images a data set was published with; None is not checked.

    Attributes:
        normal: normal images of all parts together.
        train, val, test: normal images of each part.
        anomalous: anomalous images of all parts together.
    """

    normal: int | None = None
    train: int | None = None
    val: int | None = None
    test: int | None = None
    anomalous: int | None = None


def published_test(count: int) -> frozenset[int]:
    """Positions that scikit-learn's `train_test_split(..., test_size=0.25, random_state=42)` puts into the test part.

    The converters behind the published partitions call it on the list of normal images. It shuffles 0 to n - 1 with
    NumPy's Mersenne Twister and takes the first ceil(n / 4); both are frozen by NumPy's and scikit-learn's promises.

    Args:
        count: n, the number of normal images, in the data set's order.

    Returns:
        ceil(n / 4) positions; none of an empty list.
    """
    order = np.random.RandomState(SPLIT_SEED).permutation(count)
    return frozenset(int(at) for at in order[: math.ceil(TEST_SHARE * count)])


def check_counts(images: Iterable[tuple[Part | None, bool]], expected: Counts, *, where: str, what: str) -> None:
    """Compare what was found with what was published.

    Args:
        images: of each image its part, and whether it is anomalous.
        expected: the published counts.
        where: what was read, for errors.
        what: the data set, for errors.

    Raises:
        DataError: naming every count that differs, found and published.
    """
    found = Counter(images)
    normal = {part: found[part, False] for part in PARTS}
    compared = {
        "normal": (sum(normal.values()), expected.normal),
        "normal train": (normal["train"], expected.train),
        "normal val": (normal["val"], expected.val),
        "normal test": (normal["test"], expected.test),
        "anomalous": (sum(count for (_, anomalous), count in found.items() if anomalous), expected.anomalous),
    }
    wrong = [
        f"{have} {kind} (published: {want})" for kind, (have, want) in compared.items() if want not in (None, have)
    ]
    if wrong:
        raise DataError(
            f"{where}: {what} has {', '.join(wrong)}; complete the download, or set source.check_counts to false to "
            "use what is there"
        )


def source_items(
    listed: Sequence[Listed],
    *,
    spec: PublishedSource,
    category: str,
    obj: ObjectParams,
    defects: tuple[str, ...],
    where: str,
    expected: Counts,
) -> Iterator[SourceItem]:
    """Yield the images of one category: normals of train, val and test, then each defect type, in natural order.

    Args:
        listed: all images of the category.
        spec: of the data set.
        category: slug.
        obj: `defect_folders` gives the data set's defect names other slugs.
        defects: slugs of the defect types to take; empty takes all.
        where: what was read, for errors.
        expected: the published counts, checked if `spec.check_counts`.

    Raises:
        DataError: if the counts differ from the published ones, or a wanted defect is not there.
    """
    if spec.check_counts:
        found = ((one.part, one.label is not None) for one in listed)
        check_counts(found, expected, where=where, what=f"{spec.kind} ({category})")
    ordered = sorted(listed, key=lambda one: (PARTS.index(one.part), natural_key(one.path)))
    labels = sorted({one.label for one in ordered if one.label is not None}, key=natural_key)
    taken = defect_folders(labels, category=category, obj=obj, defects=defects, where=where)
    for defect, label in [(None, None), *taken.items()]:
        for one in ordered:
            if one.label == label:
                yield SourceItem(
                    path=one.path,
                    category=category,
                    defect=defect,
                    part=one.part,
                    group=one.group or one.path,
                    licence=spec.licence,
                    read_image=one.read_image,
                    read_mask=one.read_mask,
                    mask_path=one.mask_path,
                    image_level=defect is not None and one.read_mask is None,
                )


def by_item(items: Sequence[str]) -> frozenset[str]:
    """The items whose images test if tiles of one item stay together: a quarter of them, drawn as in `published_test`.

    Args:
        items: names of physical items, each once, in the data set's order.
    """
    chosen = published_test(len(items))
    return frozenset(name for at, name in enumerate(items) if at in chosen)
