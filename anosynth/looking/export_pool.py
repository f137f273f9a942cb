"""Sealed pools as a folder in MVTec AD's layout, which RegAD, InCTRL, anomalib and most other code read as it is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anosynth.errors import DataError
from anosynth.imaging import encode_png
from anosynth.samples import Verdict
from anosynth.shards.read import read_rows, read_samples


@dataclass(frozen=True)
class Exported:
    """How many images were written.

    Attributes:
        normals: into train/good.
        pairs: into test/<defect> and ground_truth/<defect>, per defect.
    """

    normals: int
    pairs: Mapping[str, int]


def export_mvtec(
    folder: Path, *, normals: Path, pairs: Mapping[str, tuple[Path, ...]], verdicts: Mapping[str, Verdict]
) -> Exported:
    """Write what screening kept of one category's pools.

        train/good/000.png    test/<defect>/000.png    ground_truth/<defect>/000_mask.png

    The pairs are synthetic: train on them or look at them, but report no result on this `test`.

    Args:
        folder: must not exist; it appears when it is complete.
        normals: folder of the pool of normals.
        pairs: defect -> folders of its pools, one after the other.
        verdicts: sample id -> what screening said; a sample that it has not seen is left out.

    Raises:
        DataError: if the folder exists.
        ShardError: if a pool is unfinished or damaged.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already; name a new folder")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        num_normals = _write(temporary / "train" / "good", None, (normals,), verdicts)
        counts = {
            defect: _write(temporary / "test" / defect, temporary / "ground_truth" / defect, pools, verdicts)
            for defect, pools in pairs.items()
        }
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(num_normals, counts)


def _write(images: Path, masks: Path | None, pools: tuple[Path, ...], verdicts: Mapping[str, Verdict]) -> int:
    """Write the kept samples of some pools, numbered on; return how many."""
    count = 0
    for target in filter(None, (images, masks)):
        target.mkdir(parents=True)
    for pool in pools:
        rows = read_rows(pool, ["sample_id"])["sample_id"].to_pylist()
        kept = [sample_id for sample_id in rows if sample_id in verdicts and verdicts[sample_id].keep]
        for sample in read_samples(pool, keep=kept):
            (images / f"{count:03d}.png").write_bytes(encode_png(sample.image))
            if masks is not None and sample.mask is not None:
                (masks / f"{count:03d}_mask.png").write_bytes(encode_png(sample.mask))
            count += 1
    return count
