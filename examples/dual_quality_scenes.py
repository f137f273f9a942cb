"""What the generators of examples/dual_quality.py may see, and the real pictures that they may not; development only.

| scene | shots and parents | held out |
| --- | --- | --- |
| a procedural category | rendered from the development seed | other renders of that seed |
| bsdata | the training positions, or every second one that shows pitting | the other training positions |

No image of BSData's test positions is ever read.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from anosynth.errors import DataError
from anosynth.fingerprint import digest_pixels, digest_value
from anosynth.imaging import decode_image, decode_mask
from anosynth.params import parse_params
from anosynth.pools.real import RealNormal, RealPair, resize_normals, resize_pairs
from anosynth.screening.realism import Pictures
from anosynth.seeding import seed_for
from anosynth.sources.open import open_source
from anosynth.sources.procedural import render
from anosynth.sources.procedural.demo import NAMES
from anosynth.sources.split import assign_roles

sys.path.insert(0, str(Path(__file__).parent))
import bsdata
from dual_quality_judge import DEVELOPMENT_SEED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LICENCE = "CC0-1.0"


@dataclass(frozen=True, eq=False)
class Scene:
    """One category, as its generators see it.

    Attributes:
        category: slug, in every seed's address.
        name: the object as said in a prompt.
        defects: slug and name of each defect type.
        mirror: whether mirrored shots are shots.
        max_turn_deg: how far a defect may be turned.
        normals: what defects are put into, square, of one size.
        shots: by defect, of the same size.
        groups: by defect, of each shot.
        held_out: by defect, real pictures that no generator sees.
        objects: exact outlines by the normals' digests, where they are known.
    """

    category: str
    name: str
    defects: tuple[tuple[str, str], ...]
    mirror: bool
    max_turn_deg: float
    normals: tuple[RealNormal, ...]
    shots: Mapping[str, tuple[RealPair, ...]]
    groups: Mapping[str, tuple[str, ...]]
    held_out: Mapping[str, Pictures]
    objects: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of every picture in it and of what is said of them."""
        held_out = {name: [digest_pixels(image) for image in one.images] for name, one in self.held_out.items()}
        shots = {name: [[one.sha256, digest_pixels(one.mask)] for one in some] for name, some in self.shots.items()}
        return digest_value(
            {
                "said": [self.category, self.name, [list(one) for one in self.defects], self.mirror, self.max_turn_deg],
                "normals": [one.sha256 for one in self.normals],
                "shots": shots,
                "groups": {name: list(some) for name, some in self.groups.items()},
                "held_out": held_out,
            }
        )


def procedural(
    category: str, defects: Sequence[str], *, shots: int, normals: int, held_out: int, size_px: int
) -> Scene:
    """Render a category: `shots` and `held_out` pairs of each defect type, `normals` sound parts, a group each."""

    def seed(use: str, kind: str, index: int) -> int:
        return seed_for(DEVELOPMENT_SEED, "dual_quality", category, use, kind, index)

    sound = [render(category, defect=None, seed=seed("parent", "good", at), size_px=size_px) for at in range(normals)]
    parents = tuple(RealNormal(one.image, digest_pixels(one.image), LICENCE) for one in sound)
    pairs: dict[str, tuple[RealPair, ...]] = {}
    unseen: dict[str, Pictures] = {}
    for defect in defects:
        made = [render(category, defect=defect, seed=seed("shot", defect, at), size_px=size_px) for at in range(shots)]
        pairs[defect] = tuple(RealPair(one.image, one.mask, digest_pixels(one.image), LICENCE) for one in made)
        others = [
            render(category, defect=defect, seed=seed("reference", defect, at), size_px=size_px)
            for at in range(held_out)
        ]
        unseen[defect] = Pictures([one.image for one in others], [one.mask for one in others])
    return Scene(
        category=category,
        name=NAMES[category],
        defects=tuple((defect, defect.replace("_", " ")) for defect in defects),
        mirror=True,
        max_turn_deg=180.0,
        normals=parents,
        shots=pairs,
        groups={defect: tuple(str(at) for at in range(shots)) for defect in defects},
        held_out=unseen,
        objects={parent.sha256: one.object_mask for parent, one in zip(parents, sound, strict=True)},
    )


def ball_screw(folder: str, *, size_px: int, fold: int | None = None) -> Scene:
    """Read BSData's training positions.

    Args:
        folder: of BSData.
        size_px: side that everything is brought to.
        fold: None takes all of them and holds none out; 0 or 1 holds out every second position that shows pitting,
            with its normals.

    Raises:
        DataError: if a fold would leave a side without pitting.
    """
    params = parse_params(bsdata.read_raw(bsdata.CHECKOUT / "examples" / "bsdata.params.yaml", folder))
    obj, defect = params.objects[bsdata.CATEGORY], bsdata.DEFECT
    items = tuple(
        open_source(
            params.source, category=bsdata.CATEGORY, obj=obj, defects=(defect,), root=bsdata.CHECKOUT, seed=params.seed
        )
    )
    roles = assign_roles(items, params.split, params.seed)
    may_train = [item for item in items if roles[item.path] == "train"]
    pitted = sorted({item.group for item in may_train if item.defect is not None})
    out = set() if fold is None else set(pitted[fold::2])
    seen = [item for item in may_train if item.group not in out]
    hidden = [item for item in may_train if item.group in out and item.defect is not None]
    if fold is not None and (not hidden or not any(item.defect for item in seen)):
        raise DataError(f"bsdata, fold {fold}: {len(pitted)} training positions with {defect} are too few to divide")

    def pair(path: str, image: bytes, mask: bytes, licence: str) -> RealPair:
        pixels = decode_image(image, name=path).image
        return RealPair(pixels, decode_mask(mask, name=path), digest_pixels(pixels), licence)

    found: dict[bool, list[RealPair]] = {False: [], True: []}
    for item in [*seen, *hidden]:
        if item.defect is not None and item.read_mask is not None:
            found[item.group in out].append(pair(item.path, item.read_image(), item.read_mask(), item.licence))
    parents = []
    for item in seen:
        if item.defect is None:
            pixels = decode_image(item.read_image(), name=item.path).image
            parents.append(RealNormal(pixels, digest_pixels(pixels), item.licence))
    unseen = resize_pairs(found[True], size_px=size_px)
    return Scene(
        category=bsdata.CATEGORY,
        name=obj.name,
        defects=((defect, obj.defect_names.get(defect, defect)),),
        mirror=obj.mirror,
        max_turn_deg=obj.max_turn_deg,
        normals=resize_normals(parents, size_px=size_px),
        shots={defect: resize_pairs(found[False], size_px=size_px)},
        groups={defect: tuple(item.group for item in seen if item.defect is not None)},
        held_out={defect: Pictures([one.image for one in unseen], [one.mask for one in unseen])},
    )
