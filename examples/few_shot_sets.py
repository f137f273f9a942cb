"""The sets of examples/few_shot.py: images that may be references and images that are asked about, in two parts.

| set | references | queries, part development | queries, part final |
| --- | --- | --- | --- |
| a procedural category | rendered from the part's seed | rendered from the development seed | from the final seed |
| bsdata | normals of the training positions but one | that position; every position with both kinds once | the same |
| digits, elpv | normals that may train | others that may train; half of the anomalous | test normals; other half |

Choices are made on the development part. The parts draw their references apart from each other. No image of BSData's
test positions is ever read, so its final part asks about the pictures of the development part, from other references.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from anosynth.errors import DataError, ParamsError
from anosynth.fingerprint import digest_pixels
from anosynth.imaging import decode_image, decode_mask, resize_image, resize_mask
from anosynth.params import (
    DigitsSource,
    ELPVSource,
    ObjectParams,
    ProceduralSource,
    SourceSpec,
    SplitParams,
    parse_params,
)
from anosynth.seeding import numpy_rng, seed_for
from anosynth.sources.items import SourceItem
from anosynth.sources.open import open_source
from anosynth.sources.procedural import CATEGORIES, DEFECTS
from anosynth.sources.procedural.demo import NAMES
from anosynth.sources.split import assign_roles

sys.path.insert(0, str(Path(__file__).parent))
import bsdata

if TYPE_CHECKING:
    from numpy.typing import NDArray

Part = Literal["development", "final"]
ROOT_SEEDS: Mapping[Part, int] = {"development": 7, "final": 11}
"""Of the rendered pictures and of every choice of queries; no pipeline's params.yaml has one of them."""
HALVES_SEED = 7
CANDIDATES = 32
MIN_SIDE_PX = 64
REAL_SETS = ("bsdata", "digits", "elpv")
DIGITS = tuple("0123456789")


@dataclass(frozen=True, eq=False)
class Picture:
    """One real image.

    Attributes:
        name: path in its source.
        image: uint8 RGB [H, W, 3], at least 64 px a side (smaller ones are raised: a digit has 8).
        digest: of its pixels.
        anomalous: its label.
        mask: where it is anomalous, uint8 [H, W] in {0, 255}; None if its set does not say.
    """

    name: str
    image: NDArray[np.uint8]
    digest: str
    anomalous: bool
    mask: NDArray[np.uint8] | None


@dataclass(frozen=True, eq=False)
class Unit:
    """What one detector is fitted for: a category, a digit against the rest, a left-out position.

    Attributes:
        set_name: whose unit it is; a set's number is the mean over its units.
        name: slug of the unit.
        object_name: as said in a prompt.
        licence: of its images.
        part: of the set; shapes the draw of references.
        candidates: normals that references are drawn from.
        queries: the same for every k and seed, none equal to a candidate.
    """

    set_name: str
    name: str
    object_name: str
    licence: str
    part: Part
    candidates: tuple[Picture, ...]
    queries: tuple[Picture, ...]

    @property
    def masks(self) -> bool:
        """Whether every anomalous query says where."""
        return all(one.mask is not None for one in self.queries if one.anomalous)

    def references(self, k: int, seed: int) -> tuple[Picture, ...]:
        """Draw k references; those of a smaller k are the first of a larger one's.

        Raises:
            DataError: if there are fewer candidates.
        """
        if k > len(self.candidates):
            raise DataError(
                f"{self.set_name}, {self.name}: {k} references asked for, {len(self.candidates)} normal images may be "
                "one; lower --k"
            )
        address = ("few_shot", "references", self.part, self.set_name, self.name)
        order = numpy_rng(seed, *address).permutation(len(self.candidates))
        return tuple(self.candidates[at] for at in order[:k])


@dataclass(frozen=True)
class Set:
    """A set by name; its images are read when its units are asked for."""

    name: str
    units: Callable[[], Iterator[Unit]]


def available_sets(*, part: Part, bsdata_folder: str, queries: int, size_px: int, digits: str) -> dict[str, Set]:
    """Return every set that this machine has.

    Args:
        part: development or final.
        bsdata_folder: folder of BSData, or empty.
        queries: most normal, and most anomalous, queries of a unit.
        size_px: side of the rendered pictures.
        digits: which of the ten are units of "digits".
    """
    found = {
        category: Set(category, partial(_procedural, category, part=part, queries=queries, size_px=size_px))
        for category in CATEGORIES
    }
    if bsdata_folder:
        found["bsdata"] = Set("bsdata", lambda: _bsdata(bsdata_folder, part=part, queries=queries))
    if find_spec("sklearn") is not None:
        found["digits"] = Set("digits", lambda: _digits(digits, part=part, queries=queries))
    if find_spec("elpv_dataset") is not None:
        found["elpv"] = Set("elpv", lambda: _elpv(part=part, queries=queries))
    return found


def chosen_sets(names: Sequence[str], there: dict[str, Set]) -> list[Set]:
    """Return the sets of these names, or all.

    Raises:
        ParamsError: naming what is not there and what it takes.
    """
    needs = {
        "bsdata": "--bsdata FOLDER or ANOSYNTH_BSDATA",
        "digits": "the package scikit-learn",
        "elpv": "the package elpv-dataset",
    }
    for name in names:
        if name not in there:
            why = f"; it needs {needs[name]}" if name in needs else ""
            raise ParamsError(f"--sets {name}: not there{why}; there: {', '.join(there)}")
    return [there[name] for name in dict.fromkeys(names or there)]


def _procedural(category: str, *, part: Part, queries: int, size_px: int) -> Iterator[Unit]:
    source = ProceduralSource(
        kind="procedural",
        size_px=size_px,
        num_train_normal=CANDIDATES,
        num_test_normal=queries,
        num_train_anomalous=0,
        num_test_anomalous=math.ceil(queries / len(DEFECTS[category])),
    )
    split = SplitParams(rule="as_given", val_ratio=0.0, held_out_group=None)
    obj = ObjectParams.model_validate({"name": NAMES[category]})
    items = _items(source, category, obj, seed=ROOT_SEEDS[part])
    roles = assign_roles(items, split, ROOT_SEEDS[part])
    candidates = [item for item in items if roles[item.path] == "train"]
    tested = [item for item in items if roles[item.path] == "test"]
    yield _unit(category, category, obj, candidates, tested, part=part, queries=queries)


def _bsdata(folder: str, *, part: Part, queries: int) -> Iterator[Unit]:
    raw = bsdata.read_raw(bsdata.CHECKOUT / "examples" / "bsdata.params.yaml", folder)
    params = parse_params(raw)
    obj = params.objects[bsdata.CATEGORY]
    found = open_source(
        params.source, category=bsdata.CATEGORY, obj=obj, defects=(bsdata.DEFECT,), root=bsdata.CHECKOUT, seed=0
    )
    items = tuple(found)
    may_train = {path for path, role in assign_roles(items, params.split, params.seed).items() if role == "train"}
    for position, images in bsdata.positions(params, bsdata.CHECKOUT).items():
        if not (images["normal"] and images[bsdata.DEFECT]):
            continue
        held_out = params.split.model_copy(update={"held_out_group": position})
        roles = assign_roles(items, held_out, params.seed)
        assert roles.keys() <= may_train, "a test position of BSData would be read"
        read = [item for item in items if item.path in roles]
        candidates = [item for item in read if roles[item.path] == "train" and item.defect is None]
        tested = [item for item in read if roles[item.path] == "test"]
        yield _unit("bsdata", f"without-{position}", obj, candidates, tested, part=part, queries=queries)


def _digits(digits: str, *, part: Part, queries: int) -> Iterator[Unit]:
    for digit in digits:
        obj = ObjectParams.model_validate({"name": f"handwritten digit {digit}", "folder": digit})
        yield _published(DigitsSource(kind="digits"), "digits", f"digit_{digit}", obj, part=part, queries=queries)


def _elpv(*, part: Part, queries: int) -> Iterator[Unit]:
    obj = ObjectParams.model_validate({"name": "solar cell"})
    yield _published(ELPVSource(kind="elpv"), "elpv", "solar_cell", obj, part=part, queries=queries)


def _published(source: SourceSpec, set_name: str, name: str, obj: ObjectParams, *, part: Part, queries: int) -> Unit:
    """References are the same normals in both parts, queries have no picture in common."""
    items = _items(source, name, obj, seed=HALVES_SEED)
    roles = assign_roles(items, SplitParams(rule="as_given", val_ratio=0.0, held_out_group=None), HALVES_SEED)
    normal = [item for item in items if roles[item.path] == "train" and item.defect is None]
    order = numpy_rng(HALVES_SEED, "few_shot", "candidates", set_name, name).permutation(len(normal))
    cut = min(queries, len(normal) // 2)
    candidates = [normal[at] for at in order[cut : cut + CANDIDATES]]
    sound = [normal[at] for at in order[:cut]]
    if part == "final":
        sound = [item for item in items if roles[item.path] == "test" and item.defect is None]
    wanted = 0 if part == "development" else 1
    half = [
        item
        for item in items
        if item.defect is not None and seed_for(HALVES_SEED, "half", set_name, item.path) % 2 == wanted
    ]
    return _unit(set_name, name, obj, candidates, [*sound, *half], part=part, queries=queries)


def _items(source: SourceSpec, category: str, obj: ObjectParams, *, seed: int) -> tuple[SourceItem, ...]:
    found = open_source(source, category=category, obj=obj, defects=(), root=bsdata.CHECKOUT, seed=seed)
    return tuple(found)


def _unit(
    set_name: str,
    name: str,
    obj: ObjectParams,
    candidates: Sequence[SourceItem],
    tested: Sequence[SourceItem],
    *,
    part: Part,
    queries: int,
) -> Unit:
    """Read what is used: no more queries of a kind than wanted, no picture twice."""
    rng = numpy_rng(ROOT_SEEDS[part], "few_shot", "queries", set_name, name)
    asked: list[SourceItem] = []
    for anomalous in (False, True):
        kind = [item for item in tested if (item.defect is not None) == anomalous]
        if not kind:
            raise DataError(f"{set_name}, {name}: no {'anomalous' if anomalous else 'normal'} image to ask about")
        asked += [kind[at] for at in np.sort(rng.permutation(len(kind))[:queries])]
    seen: set[str] = set()
    return Unit(
        set_name,
        name,
        obj.name,
        candidates[0].licence,
        part,
        tuple(_unlike(candidates, seen)),
        tuple(_unlike(asked, seen)),
    )


def _unlike(items: Iterable[SourceItem], seen: set[str]) -> Iterator[Picture]:
    """The pictures that were not seen before, pixel by pixel."""
    for item in items:
        image = decode_image(item.read_image(), name=item.path).image
        mask = None
        if item.read_mask is not None:
            mask = decode_mask(item.read_mask(), name=item.mask_path or item.path)
        height, width = image.shape[:2]
        if (short := min(height, width)) < MIN_SIDE_PX:
            size_px = (round(height * MIN_SIDE_PX / short), round(width * MIN_SIDE_PX / short))
            image = resize_image(image, size_px=size_px)
            mask = None if mask is None else resize_mask(mask, size_px=size_px)
        digest = digest_pixels(image)
        if digest not in seen:
            seen.add(digest)
            yield Picture(item.path, image, digest, item.defect is not None, mask)
