"""Train the text projection on rendered pairs of all demo categories but the project's own; outside the default graph.

Name the file in `aligned.projection` afterwards. DVC does not watch it: fits find it by its digest, so run the stages
from fit_detector on again after training anew.
"""

from __future__ import annotations

import torch

from anosynth.errors import ParamsError
from anosynth.features.aligned import build_aligned, class_prototypes
from anosynth.features.projection import Labelled, cell_target, train_projection, write_projection
from anosynth.layout import Layout
from anosynth.params import AlignedSpec, ComputeParams
from anosynth.progress import track
from anosynth.seeding import seed_for
from anosynth.sources.procedural import CATEGORIES, DEFECTS, render
from tasks._bind import main

STAGE = "train_projection"
IMAGES = 12
SIZE_PX = 128
STEPS = 400
BATCH_SIZE = 8
LR = 1e-3


def run(
    *, layout: Layout, seed: int, compute: ComputeParams, aligned: AlignedSpec, grid__categories: list[str]
) -> None:
    """Write models/projection.safetensors: one linear map per level, for the encoders of `aligned`."""
    torch.set_num_threads(compute.threads)
    features = build_aligned(aligned.model_copy(update={"projection": None}), compute=compute)
    categories = [category for category in CATEGORIES if category not in grid__categories]
    if not categories:
        raise ParamsError("grid.categories names every demo category, so none is left to train a projection on")
    wanted = [(category, index) for category in categories for index in range(2 * IMAGES)]
    prototypes = {category: class_prototypes(features, category) for category in categories}
    pictures = []
    for category, index in track(wanted, total=len(wanted), doing=STAGE, unit="image"):
        defects = tuple(DEFECTS[category])
        defect = defects[index // 2 % len(defects)] if index % 2 else None
        made = render(category, defect=defect, seed=seed_for(seed, STAGE, category, index), size_px=SIZE_PX)
        levels = tuple(level[0] for level in features.patch_levels([made.image]))
        target = cell_target(made.mask, grid=levels[0].shape[:2])
        pictures.append(Labelled(levels, target, prototypes[category]))
    weights = train_projection(
        pictures, temperature=features.temperature, steps=STEPS, batch_size=BATCH_SIZE, lr=LR, seed=seed
    )
    write_projection(layout.projection(), weights, base_identity=features.identity)
    print(
        f"{STAGE}: {STEPS} steps on {len(pictures)} pictures of {len(categories)} categories, in {layout.projection()}"
    )


if __name__ == "__main__":
    main(run)
