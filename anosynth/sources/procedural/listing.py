"""The rendered parts as a source: which pictures of a category there are, each rendered when it is read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from anosynth.errors import DataError
from anosynth.imaging import encode_png
from anosynth.seeding import seed_for
from anosynth.sources.items import Part, SourceItem
from anosynth.sources.procedural.demo import CATEGORIES
from anosynth.sources.procedural.demo_defects import DEFECTS
from anosynth.sources.procedural.render import Rendered, render

if TYPE_CHECKING:
    from anosynth.params import ProceduralSource


def items(spec: ProceduralSource, *, category: str, defects: tuple[str, ...], seed: int) -> Iterator[SourceItem]:
    """Yield the pictures of one demo category: train before test, normal before anomalous, defects in given order.

    The seed of a picture is seed_for(seed, "procedural", category, part, defect or "good", index): no test picture
    shares a seed with a train picture, and growing a count keeps the pictures there were. Every picture is a part of
    its own, so its group is its path.

    Args:
        spec: size and counts.
        category: one of CATEGORIES.
        defects: defect types to take; empty takes all of DEFECTS[category].
        seed: root seed.

    Raises:
        DataError: if the category or a defect is not one of ours.
    """
    if category not in CATEGORIES:
        raise DataError(
            f"source procedural: no category {category!r}; there: {', '.join(CATEGORIES)}; correct grid.categories"
        )
    for defect in defects:
        if defect not in DEFECTS[category]:
            raise DataError(
                f"source procedural: {category} has no defect {defect!r}; "
                f"there: {', '.join(DEFECTS[category])}; correct grid.pairs"
            )
    counts: tuple[tuple[Part, int, int], ...] = (
        ("train", spec.num_train_normal, spec.num_train_anomalous),
        ("test", spec.num_test_normal, spec.num_test_anomalous),
    )
    for part, num_normal, num_anomalous in counts:
        for index in range(num_normal):
            yield _item(spec, category, part, None, index, seed)
        for defect in defects or tuple(DEFECTS[category]):
            for index in range(num_anomalous):
                yield _item(spec, category, part, defect, index, seed)


def _item(
    spec: ProceduralSource, category: str, part: Part, defect: str | None, index: int, root_seed: int
) -> SourceItem:
    folder = defect or "good"
    path = f"{category}/{part}/{folder}/{index:03d}.png"
    seed = seed_for(root_seed, "procedural", category, part, folder, index)
    return SourceItem(
        path=path,
        category=category,
        defect=defect,
        part=part,
        group=path,
        licence=spec.licence,
        read_image=partial(_image_bytes, category, defect, seed, spec.size_px),
        read_mask=partial(_mask_bytes, category, defect, seed, spec.size_px) if defect else None,
        mask_path=f"{category}/ground_truth/{part}/{defect}/{index:03d}.png" if defect else None,
    )


@lru_cache(maxsize=2)
def _rendered(category: str, defect: str | None, seed: int, size_px: int) -> Rendered:
    """Image and mask are read one after the other: render them once."""
    return render(category, defect=defect, seed=seed, size_px=size_px)


def _image_bytes(category: str, defect: str | None, seed: int, size_px: int) -> bytes:
    return encode_png(_rendered(category, defect, seed, size_px).image)


def _mask_bytes(category: str, defect: str | None, seed: int, size_px: int) -> bytes:
    return encode_png(_rendered(category, defect, seed, size_px).mask)
