"""What examples/gain_curve.py measures on, development pictures alone.

| place | shots from | tested on |
| --- | --- | --- |
| category-defect | parts rendered from the development seed | other parts rendered from it |
| bsdata | training positions but one | that position: another one for every seed |

No image of BSData's test positions is ever read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from anosynth.detectors.protocol import LabelledImage
from anosynth.errors import DataError, ParamsError
from anosynth.fingerprint import digest_pixels, digest_value
from anosynth.imaging import decode_image, decode_mask
from anosynth.params import ProceduralSource, parse_params
from anosynth.pools.real import RealNormal, RealPair
from anosynth.seeding import numpy_rng
from anosynth.sources.items import SourceItem
from anosynth.sources.open import open_source
from anosynth.sources.procedural import CATEGORIES, DEFECTS, items
from anosynth.sources.procedural.demo import NAMES
from anosynth.sources.split import assign_roles

sys.path.insert(0, str(Path(__file__).parent))
import bsdata

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEVELOPMENT_SEED = 7
"""Root of the rendered pictures; no pipeline's params.yaml has it."""
CANDIDATES = 30
"""Anomalous pictures of a defect type that shots are drawn from."""


@dataclass(frozen=True)
class Counts:
    """How many pictures of a category there are.

    Attributes:
        size_px: side of the pictures.
        normals: real normals, parents of pairs and training images of every arm.
        test: normal test pictures, and anomalous ones of each defect type.
    """

    size_px: int
    normals: int
    test: int


@dataclass(frozen=True, eq=False)
class Parts:
    """One category with the defect types that are asked about.

    Attributes:
        slug: of category, defect types and what else sets these parts apart.
        category: slug.
        name: as said in a prompt.
        defects: slugs.
        mirror: whether a mirrored part is a part.
        max_turn_deg: how far a defect may be turned.
        quarter_turns: whether a turned one is.
        size_px: side of all pictures.
        normals: training normals.
        candidates: by defect, the pictures that shots are drawn from.
        test: normal and anomalous pictures that nothing is trained on.
        digest: of all of them.
    """

    slug: str
    category: str
    name: str
    defects: tuple[str, ...]
    mirror: bool
    max_turn_deg: float
    quarter_turns: bool
    size_px: int
    normals: tuple[RealNormal, ...]
    candidates: Mapping[str, tuple[RealPair, ...]]
    test: tuple[LabelledImage, ...]
    digest: str

    def shots(self, defect: str, m: int, seed: int) -> tuple[RealPair, ...]:
        """Draw m shots; those of a smaller m are the first of a larger one's.

        Raises:
            ParamsError: if there are fewer candidates.
        """
        candidates = self.candidates[defect]
        if m > len(candidates):
            raise ParamsError(f"--shots {m}: {len(candidates)} pictures of {self.slug} with {defect} may be shots")
        order = numpy_rng(seed, "gain_curve", "shots", self.category, defect).permutation(len(candidates))
        return tuple(candidates[at] for at in order[:m])


@dataclass(frozen=True)
class Place:
    """Where to measure.

    Attributes:
        name: of its folder and its row.
        defects: defect types, slugs.
        parts: seed -> what that seed measures on.
    """

    name: str
    defects: tuple[str, ...]
    parts: Callable[[int], Parts]


def read_place(text: str, counts: Counts, *, bsdata_folder: str) -> Place:
    """Read `bsdata`, `category-defect` or `category-defect-defect-...`; nothing is rendered or read yet.

    Raises:
        ParamsError: if the category or a defect is not one of ours, or the folder is missing.
        DataError: if a picture cannot be read.
    """
    if text == "bsdata":
        if not bsdata_folder:
            raise ParamsError("--parts bsdata: it needs --bsdata FOLDER or ANOSYNTH_BSDATA")
        positions = _open_bsdata(bsdata_folder, counts)
        return Place(text, (bsdata.DEFECT,), lambda seed: positions[seed % len(positions)]())
    category, *defects = text.split("-")
    if category not in CATEGORIES:
        raise ParamsError(f"--parts {text}: no category {category!r}; there: bsdata, {', '.join(CATEGORIES)}")
    unknown = [defect for defect in defects if defect not in DEFECTS[category]]
    if unknown or not defects or len(set(defects)) < len(defects):
        raise ParamsError(
            f"--parts {text}: name the category and its defect types, each once, with hyphens between; "
            f"of {category} there are {', '.join(DEFECTS[category])}"
        )
    rendered = cache(lambda: _render(category, tuple(defects), counts))
    return Place(text, tuple(defects), lambda _: rendered())


def _render(category: str, defects: tuple[str, ...], counts: Counts) -> Parts:
    spec = ProceduralSource(
        kind="procedural",
        size_px=counts.size_px,
        num_train_normal=counts.normals,
        num_test_normal=counts.test,
        num_train_anomalous=CANDIDATES,
        num_test_anomalous=counts.test,
    )
    found = [(item, item.part) for item in items(spec, category=category, defects=defects, seed=DEVELOPMENT_SEED)]
    slug = "-".join((category, *defects))
    return _gathered(
        found,
        slug=slug,
        name=NAMES[category],
        defects=defects,
        mirror=True,
        max_turn_deg=180.0,
        quarter_turns=True,
        size_px=counts.size_px,
    )


def _open_bsdata(folder: str, counts: Counts) -> list[Callable[[], Parts]]:
    """One reader for each training position with images of both kinds."""
    params = parse_params(bsdata.read_raw(bsdata.CHECKOUT / "examples" / "bsdata.params.yaml", folder))
    obj = params.objects[bsdata.CATEGORY]
    source = open_source(
        params.source, category=bsdata.CATEGORY, obj=obj, defects=(bsdata.DEFECT,), root=bsdata.CHECKOUT, seed=0
    )
    every = tuple(source)
    may_train = {path for path, role in assign_roles(every, params.split, params.seed).items() if role == "train"}

    def without(position: str) -> Parts:
        split = params.split.model_copy(update={"held_out_group": position})
        roles = assign_roles(every, split, params.seed)
        assert roles.keys() <= may_train, "a test position of BSData would be read"
        found = [(item, role) for item in every if (role := roles.get(item.path)) is not None]
        return _gathered(
            found,
            slug=f"bsdata-without-{position}",
            name=obj.name,
            defects=(bsdata.DEFECT,),
            mirror=obj.mirror,
            max_turn_deg=obj.max_turn_deg,
            quarter_turns=False,
            size_px=counts.size_px,
        )

    images = bsdata.positions(params, bsdata.CHECKOUT)
    both = [position for position, count in images.items() if count["normal"] and count[bsdata.DEFECT]]
    return [cache(partial(without, position)) for position in both]


def _gathered(
    found: Sequence[tuple[SourceItem, str]],
    *,
    slug: str,
    name: str,
    defects: tuple[str, ...],
    mirror: bool,
    max_turn_deg: float,
    quarter_turns: bool,
    size_px: int,
) -> Parts:
    """Read pictures by their role.

    Raises:
        DataError: if two pictures are equal, of which one might be a shot and the other a test.
    """
    images = [_read(item) for item, _ in found]
    digests = [digest_pixels(image.image) for image in images]
    if len(set(digests)) < len(digests):
        raise DataError(f"{slug}: two pictures are equal; a shot could be a test picture")
    normals, test = [], []
    candidates: dict[str, list[RealPair]] = {defect: [] for defect in defects}
    for (item, role), image, digest in zip(found, images, digests, strict=True):
        if role == "test":
            test.append(image)
        elif item.defect is None:
            normals.append(RealNormal(image.image, digest, item.licence))
        else:
            assert image.mask is not None
            candidates[item.defect].append(RealPair(image.image, image.mask, digest, item.licence))
    return Parts(
        slug=slug,
        category=found[0][0].category,
        name=name,
        defects=defects,
        mirror=mirror,
        max_turn_deg=max_turn_deg,
        quarter_turns=quarter_turns,
        size_px=size_px,
        normals=tuple(normals),
        candidates={defect: tuple(pairs) for defect, pairs in candidates.items()},
        test=tuple(test),
        digest=digest_value(digests),
    )


def _read(item: SourceItem) -> LabelledImage:
    image = decode_image(item.read_image(), name=item.path).image
    mask: NDArray[np.uint8] | None = None
    if item.read_mask is not None:
        mask = decode_mask(item.read_mask(), name=item.path)
    return LabelledImage(item.path, image, mask, synthetic=False, defect=item.defect)
