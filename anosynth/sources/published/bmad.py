"""OCT2017 (Kermany et al. 2018) and RESC (Hu et al. 2019) as BMAD (Bao et al. 2024) lays them out; retinal scans.

train/good, valid/good, valid/Ungood, test/good and test/Ungood hold images, or a folder img of images with a folder
label (MVFA's copy: anomaly_mask) of masks beside it. MVFA's copy has no train and draws its shots from valid:
`normals: valid` does that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from anosynth.errors import DataError
from anosynth.imaging import encode_png
from anosynth.params import ObjectParams, OCT2017Source, RESCSource
from anosynth.sources.files import list_images, relative_name
from anosynth.sources.items import Part, SourceItem
from anosynth.sources.published.listing import Counts, Listed, source_items
from anosynth.sources.published.strips import MaskTile, Strips

NORMAL, ANOMALOUS = "good", "Ungood"
MASK_FOLDERS = ("label", "anomaly_mask")
DEFECTS = {"oct2017": "disease", "resc": "edema"}
# All of BMAD's parts, then those of a copy whose shots come from valid.
PUBLISHED = {
    "oct2017": Counts(train=26315, val=8, test=242, anomalous=24 + 726),
    "resc": Counts(train=4297, val=45, test=1041, anomalous=70 + 764),
}
FROM_VALID = {
    "oct2017": Counts(train=8, val=0, test=242, anomalous=24 + 726),
    "resc": Counts(train=45, val=0, test=1041, anomalous=70 + 764),
}


def items(
    spec: OCT2017Source | RESCSource, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path
) -> Iterator[SourceItem]:
    """Yield the scans of all parts; OCT2017 has no masks, RESC has one for each anomalous scan.

    Raises:
        DataError: if a folder is missing, or the counts are not the published ones.
    """
    parts: dict[str, Part] = {"train": "train", "valid": "val", "test": "test"}
    if spec.normals == "valid":
        parts = {"valid": "train", "test": "test"}
    strips = Strips(max_pixels=spec.max_pixels)
    listed: list[Listed] = []
    for folder, part in parts.items():
        for kind in (NORMAL,) if folder == "train" else (NORMAL, ANOMALOUS):
            listed += _listed(spec, root / folder / kind, part, root=root, strips=strips)
    expected = (FROM_VALID if spec.normals == "valid" else PUBLISHED)[spec.kind]
    yield from source_items(
        listed, spec=spec, category=category, obj=obj, defects=defects, where=str(root), expected=expected
    )


def _listed(
    spec: OCT2017Source | RESCSource, folder: Path, part: Part, *, root: Path, strips: Strips
) -> Iterator[Listed]:
    images = folder / "img" if (folder / "img").is_dir() else folder
    bad = folder.name == ANOMALOUS
    masks: dict[str, Path] = {}
    if bad and isinstance(spec, RESCSource):
        there = [folder / name for name in MASK_FOLDERS if (folder / name).is_dir()]
        if not there:
            raise DataError(f"{folder}: no folder {' or '.join(MASK_FOLDERS)} with the masks of its images")
        masks = {mask.stem: mask for mask in list_images(there[0], what="masks")}
    for path in list_images(images, what=f"{'anomalous' if bad else 'normal'} images of {spec.kind}"):
        read_mask: Callable[[], bytes] | None = None
        mask_path = None
        if bad and isinstance(spec, RESCSource):
            if path.stem not in masks:
                raise DataError(f"{path}: no mask of this name in {there[0]}; complete the download")
            read_mask, mask_path = LevelMask(strips, masks[path.stem]), relative_name(masks[path.stem], root)
        name = relative_name(path, root)
        yield Listed(name, DEFECTS[spec.kind] if bad else None, part, path.read_bytes, read_mask, mask_path)


class LevelMask:
    """Reads a mask whose few grey levels are kinds of one disease: all of them count as foreground."""

    MAX_LEVELS = 8

    def __init__(self, strips: Strips, path: Path) -> None:
        self._strips = strips
        self._path = path

    def __call__(self) -> bytes:
        """Return a PNG in {0, 255}; a mask of many levels is returned as it is, to be refused by its reader."""
        levels = self._strips.pixels(self._path)
        plane = levels if levels.ndim == 2 else levels.max(axis=2)
        if len(set(plane.ravel().tolist())) > self.MAX_LEVELS:
            return encode_png(plane)
        return MaskTile(plane > 0)()
