"""Normal twins: all prompts of all queries in micro-batches against one row after the other; fewer solver steps.

batched  wall time of a query's twins (3 prompts, 6 evaluations each): rows one by one against padded micro-batches,
         each at the number of threads it is fastest with.
steps    the same twins in 6 evaluations of DPM-Solver++ against 15 of DDIM: how many times less work, counted in wall
         time at one thread. How far the scores agree stands in the note; AUROC needs a backbone that draws and is
         reported by the evaluation, not here.

Both sides draw from the same seeds; batched and single pictures are compared before anything is timed.

Run: python -m benchmarks.personalize [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from anosynth.diffusion.embedded import FOLDER
from anosynth.diffusion.latent import LatentDiffusion, open_backbone
from anosynth.diffusion.solver import SamplerSettings
from anosynth.diffusion.twins import TwinPainter, twin_painter
from anosynth.features.prompts import normal_states
from anosynth.params import ComputeParams, PretrainedBackbone
from anosynth.sources.procedural import render
from benchmarks.measure import Bar, finish

ASK_BATCHED = 1.3
ASK_STEPS = 2.0
QUERIES = 8
SIZE_PX = 128
STRENGTH = 0.3
MICRO_BATCH = 6
FEW = SamplerSettings("dpm_solver", 20)
MANY = SamplerSettings("ddim", 50)
ROUNDS = 3


def queries(count: int) -> list[NDArray[np.uint8]]:
    """Rendered parts, uint8 [128, 128, 3]."""
    return [render("washer", defect=None, seed=seed, size_px=SIZE_PX).image for seed in range(count)]


def drawn(painter: TwinPainter, images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """All twins of all queries at once."""
    return painter.twins(images, painter.encode(images), ratio=STRENGTH)


def one_by_one(painter: TwinPainter, images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Each query by itself; the painter's micro-batch is one row."""
    return np.concatenate([drawn(painter, [image]) for image in images])


def wall_seconds(run: Callable[[], object], *, threads: int) -> float:
    """Best wall time of a few rounds with so many threads."""
    torch.set_num_threads(threads)
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best


def bars(backbone: LatentDiffusion) -> list[Bar]:
    """Compare pictures, then time."""
    images, prompts = queries(QUERIES), normal_states("steel washer", 3)

    def painter(sampler: SamplerSettings, micro_batch: int) -> TwinPainter:
        return twin_painter(backbone, prompts, sampler=sampler, micro_batch=micro_batch, seed=0)

    single, batched, long = painter(FEW, 1), painter(FEW, MICRO_BATCH), painter(MANY, MICRO_BATCH)
    torch.set_num_threads(1)
    apart, together, slow = one_by_one(single, images), drawn(batched, images), drawn(long, images)
    far = np.abs(apart.astype(int) - together)
    if far.max() > 2:
        raise SystemExit(f"batched twins differ from single ones by {far.max()} grey levels")
    counts = sorted({1, os.cpu_count() or 1})
    best = {
        name: min((wall_seconds(run, threads=threads), threads) for threads in counts)
        for name, run in (
            ("one by one", lambda: one_by_one(single, images)),
            ("batched", lambda: drawn(batched, images)),
        )
    }
    steps = {
        name: wall_seconds(lambda one=one: drawn(one, images), threads=1)  # type: ignore[misc]
        for name, one in (("15", long), ("6", batched))
    }
    note = ", ".join(
        f"{name} {1e3 * taken / QUERIES:.0f} ms a query ({used} threads)" for name, (taken, used) in best.items()
    )
    twins = np.abs(slow.astype(int) - together).mean()
    query = np.abs(slow.astype(int) - np.stack(images)[:, None]).mean()
    work = ", ".join(f"{name} evaluations {1e3 * taken / QUERIES:.0f} ms a query" for name, taken in steps.items())
    return [
        Bar("personalize.batched", best["one by one"][0] / best["batched"][0], ASK_BATCHED, note=note),
        Bar(
            "personalize.steps",
            steps["15"] / steps["6"],
            ASK_STEPS,
            note=f"{work}; twins of 15 and 6 differ by {twins:.2f} grey levels on average, from their queries by "
            f"{query:.2f}",
        ),
    ]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="a diffusers folder; default: the shipped one")
    folder = parser.parse_args().folder
    backbone = open_backbone(
        PretrainedBackbone(kind="pretrained", path=str(folder.absolute())),
        compute=ComputeParams(threads=1, dtype="float32", device="cpu"),
    )
    return finish(bars(backbone))


if __name__ == "__main__":
    sys.exit(main())
