"""Train the text projection on labelled pictures of other categories than the project's own; outside the default graph.

Name the file in `aligned.projection` afterwards. DVC does not watch it: fits find it by its digest, so run the stages
from fit_detector on again after training anew. Train anew when grid.categories changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from anosynth.errors import DataError, ParamsError
from anosynth.features import projection
from anosynth.features.aligned import build_aligned, class_prototypes
from anosynth.imaging import MAX_PIXELS, decode_image, decode_mask
from anosynth.layout import Layout
from anosynth.licences import most_restrictive
from anosynth.params import (
    AlignedSpec,
    ComputeParams,
    ObjectParams,
    ProceduralSource,
    SourceSpec,
    TrainProjectionParams,
)
from anosynth.progress import track
from anosynth.seeding import numpy_rng
from anosynth.sources.items import SourceItem
from anosynth.sources.open import open_source
from anosynth.sources.procedural import CATEGORIES
from anosynth.sources.procedural.demo import NAMES
from tasks._bind import main

if TYPE_CHECKING:
    from numpy.typing import NDArray

STAGE = "train_projection"


def run(
    *,
    layout: Layout,
    seed: int,
    compute: ComputeParams,
    aligned: AlignedSpec,
    grid__categories: list[str],
    train_projection: TrainProjectionParams,
) -> None:
    """Write models/projection.safetensors: one linear map per level, for the encoders of `aligned`."""
    torch.set_num_threads(compute.threads)
    chosen, half = train_projection, train_projection.images // 2
    source: SourceSpec = chosen.source or ProceduralSource(
        kind="procedural",
        size_px=128,
        num_train_normal=1,
        num_test_normal=half,
        num_train_anomalous=0,
        num_test_anomalous=half,
    )
    objects = chosen.objects or {
        category: ObjectParams.model_validate({"name": NAMES[category]})
        for category in CATEGORIES
        if category not in grid__categories
    }
    if not objects:
        raise ParamsError("grid.categories names every demo category, so none is left to train a projection on")
    wanted = []
    for category, obj in objects.items():
        defects = tuple(obj.defect_names)
        try:
            items = list(open_source(source, category=category, obj=obj, defects=defects, root=layout.root, seed=seed))
        except DataError as error:
            raise DataError(f"train_projection.source: {error}") from error
        wanted += _chosen(items, half=half, seed=seed)
    licence = most_restrictive(item.licence for item in wanted)
    features = build_aligned(aligned.model_copy(update={"projection": None}), compute=compute)
    prototypes = {category: class_prototypes(features, obj.name) for category, obj in objects.items()}
    max_pixels = MAX_PIXELS if isinstance(source, ProceduralSource) else source.max_pixels
    pictures = []
    for item in track(wanted, total=len(wanted), doing=STAGE, unit="image"):
        image, mask = _read(item, max_pixels=max_pixels)
        levels = tuple(level[0] for level in features.patch_levels([image]))
        target = projection.cell_target(mask, grid=levels[0].shape[:2])
        pictures.append(projection.Labelled(levels, target, prototypes[item.category]))
    weights = projection.train_projection(
        pictures,
        temperature=features.temperature,
        steps=chosen.steps,
        batch_size=chosen.batch_size,
        lr=chosen.lr,
        seed=seed,
    )
    projection.write_projection(layout.projection(), weights, base_identity=features.identity, licence=licence)
    print(
        f"{STAGE}: {chosen.steps} steps on {len(pictures)} pictures ({licence}) of {', '.join(objects)}, "
        f"in {layout.projection()}"
    )


def _chosen(items: list[SourceItem], *, half: int, seed: int) -> list[SourceItem]:
    """At most `half` normal and `half` anomalous images of a category that are not for training, in their order."""
    found = []
    for anomalous in (False, True):
        kind = [item for item in items if item.part != "train" and (item.defect is not None) == anomalous]
        rng = numpy_rng(seed, STAGE, items[0].category, "anomalous" if anomalous else "normal")
        found += [kind[at] for at in sorted(rng.permutation(len(kind))[:half])]
    return found


def _read(item: SourceItem, *, max_pixels: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and mask; of a normal image an empty one.

    Raises:
        DataError: if a file cannot be read, or an anomalous image has no mask that fits it.
    """
    try:
        image = decode_image(item.read_image(), name=item.path, max_pixels=max_pixels).image
        if item.defect is None:
            return image, np.zeros(image.shape[:2], np.uint8)
        if item.read_mask is None:
            raise DataError(f"{item.path}: shows a defect and has no mask, and a projection learns from masks; add one")
        mask = decode_mask(item.read_mask(), name=f"mask of {item.path}")
    except OSError as error:
        raise DataError(f"{error.filename or item.path}: cannot be read ({error.strerror or error})") from error
    if mask.shape != image.shape[:2] or not mask.any():
        raise DataError(
            f"{item.path}: its mask is empty or not of the image's size ({image.shape[1]} x {image.shape[0]} px); "
            "correct the mask"
        )
    return image, mask


if __name__ == "__main__":
    main(run)
