"""Sealed pools as a folder in MVTec AD's layout, which RegAD, InCTRL, anomalib and most other code read as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anosynth import __version__
from anosynth.errors import DataError
from anosynth.imaging import encode_png
from anosynth.licences import most_restrictive
from anosynth.samples import Verdict
from anosynth.shards.manifest import MANIFEST_NAME, read_manifest
from anosynth.shards.read import read_rows, read_samples

VERSION = 1
"""Of the manifest of an exported folder."""


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

        train/good/000.png    test/<defect>/000.png    ground_truth/<defect>/000_mask.png    manifest.json

    manifest.json holds the most restrictive licence of the pools, and of each image what its row says of it: sample_id,
    seed, prompt, parent_id (`samples.Provenance`) and licence.

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
        made = _write(temporary, "train/good", None, (normals,), verdicts)
        of_defects = {
            defect: _write(temporary, f"test/{defect}", f"ground_truth/{defect}", pools, verdicts)
            for defect, pools in pairs.items()
        }
        every_pool = [normals, *(pool for pools in pairs.values() for pool in pools)]
        manifest = {
            "version": VERSION,
            "created_by": f"anosynth {__version__}",
            "licence": most_restrictive(read_manifest(pool).licence for pool in every_pool),
            "images": made + [entry for entries in of_defects.values() for entry in entries],
        }
        text = json.dumps(manifest, sort_keys=True, indent=2, ensure_ascii=False)
        (temporary / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(len(made), {defect: len(entries) for defect, entries in of_defects.items()})


def _write(
    folder: Path, images: str, masks: str | None, pools: tuple[Path, ...], verdicts: Mapping[str, Verdict]
) -> list[dict[str, object]]:
    """Write the kept samples of some pools, numbered on; return what the manifest says of each."""
    entries: list[dict[str, object]] = []
    for target in filter(None, (images, masks)):
        (folder / target).mkdir(parents=True)
    for pool in pools:
        rows = read_rows(pool, ["sample_id"])["sample_id"].to_pylist()
        kept = [sample_id for sample_id in rows if sample_id in verdicts and verdicts[sample_id].keep]
        for sample in read_samples(pool, keep=kept):
            file, made = f"{images}/{len(entries):03d}.png", sample.provenance
            (folder / file).write_bytes(encode_png(sample.image))
            if masks is not None and sample.mask is not None:
                (folder / masks / f"{len(entries):03d}_mask.png").write_bytes(encode_png(sample.mask))
            entries.append(
                {
                    "file": file,
                    "sample_id": sample.sample_id,
                    "seed": sample.spec.seed,
                    "prompt": made.prompt,
                    "parent_id": made.parent_id,
                    "licence": made.licence,
                }
            )
    return entries
