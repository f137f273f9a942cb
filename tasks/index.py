"""Read the real images of one category, give each its role, and write the index: records, images and masks."""

from __future__ import annotations

from collections import Counter

from anosynth.imaging import MAX_PIXELS
from anosynth.layout import Layout
from anosynth.params import ObjectParams, PairKey, ProceduralSource, PublishedSource, SourceSpec, SplitParams
from anosynth.samples import ROLES
from anosynth.sources.examine import examine
from anosynth.sources.index import write_index
from anosynth.sources.open import open_source
from anosynth.sources.split import assign_roles
from tasks._bind import main


def run(
    *,
    layout: Layout,
    category: str,
    seed: int,
    grid__pairs: dict[str, PairKey],
    objects: dict[str, ObjectParams],
    source: SourceSpec,
    split: SplitParams,
) -> None:
    """Write data/index/<category>.parquet.

    Indexed are the defect types that grid.pairs or objects.<category>.defect_names name; if neither names one, all
    that the source has.
    """
    obj = objects[category]
    planned = [pair.defect for pair in grid__pairs.values() if pair.category == category]
    defects = tuple(dict.fromkeys([*planned, *obj.defect_names]))
    items = tuple(open_source(source, category=category, obj=obj, defects=defects, root=layout.root, seed=seed))
    roles = assign_roles(items, split, seed)
    path = layout.index(category)
    max_pixels = MAX_PIXELS if isinstance(source, ProceduralSource) else source.max_pixels
    equal_pixels = source.equal_pixels if isinstance(source, PublishedSource) else "refuse"
    records = write_index(path, examine(items, roles, max_pixels=max_pixels, equal_pixels=equal_pixels))
    count = Counter((record.role, record.defect is not None) for record in records)
    parts = (f"{role} {count[role, False]} normal + {count[role, True]} anomalous" for role in ROLES)
    print(f"index: {len(records)} images of {category} ({', '.join(parts)}) in {path}")


if __name__ == "__main__":
    main(run)
