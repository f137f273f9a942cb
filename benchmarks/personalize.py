"""Normal twins: all prompts of all queries in micro-batches against one row after the other; fewer solver steps.

batched  wall time of a query's twins (3 prompts, 6 evaluations each): rows one by one against padded micro-batches,
         each at the number of threads it is fastest with, all sides in turn.
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
from collections.abc import Callable, Mapping
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
from benchmarks.measure import MIN_ROUNDS, Bar, finish

ASK_BATCHED = 1.3
ASK_STEPS = 2.0
QUERIES = 4
SIZE_PX = 128
STRENGTH = 0.3
MICRO_BATCH = 6
FEW = SamplerSettings("dpm_solver", 20)
MANY = SamplerSettings("ddim", 50)


def queries(count: int) -> list[NDArray[np.uint8]]:
    """Rendered parts, uint8 [128, 128, 3]."""
    return [render("washer", defect=None, seed=seed, size_px=SIZE_PX).image for seed in range(count)]


def drawn(painter: TwinPainter, images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """All twins of all queries at once."""
    return painter.twins(images, painter.encode(images), ratio=STRENGTH)


def one_by_one(painter: TwinPainter, images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Each query by itself; the painter's micro-batch is one row."""
    return np.concatenate([drawn(painter, [image]) for image in images])


def wall_seconds(sides: Mapping[tuple[str, int], Callable[[], object]]) -> dict[tuple[str, int], float]:
    """Best wall time of each (name, threads), in five rounds of every side once; the order turns with the round."""
    best, keys = dict.fromkeys(sides, float("inf")), list(sides)
    for at in range(MIN_ROUNDS):
        turn = at % len(keys)
        for key in keys[turn:] + keys[:turn]:
            torch.set_num_threads(key[1])
            started = time.perf_counter()
            sides[key]()
            best[key] = min(best[key], time.perf_counter() - started)
    torch.set_num_threads(1)
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
    sides: dict[tuple[str, int], Callable[[], object]] = {("15 evaluations", 1): lambda: drawn(long, images)}
    for threads in sorted({1, os.cpu_count() or 1}):
        sides["one by one", threads] = lambda: one_by_one(single, images)
        sides["batched", threads] = lambda: drawn(batched, images)
    taken = wall_seconds(sides)
    fastest = {
        name: min((seconds, threads) for (side, threads), seconds in taken.items() if side == name)
        for name in ("one by one", "batched")
    }
    note = ", ".join(
        f"{name} {1e3 * seconds / QUERIES:.0f} ms a query ({threads} threads)"
        for name, (seconds, threads) in fastest.items()
    )
    twins = np.abs(slow.astype(int) - together).mean()
    query = np.abs(slow.astype(int) - np.stack(images)[:, None]).mean()
    work = f"15 evaluations {1e3 * taken['15 evaluations', 1] / QUERIES:.0f} ms a query, 6 evaluations "
    work += f"{1e3 * taken['batched', 1] / QUERIES:.0f} ms; their twins differ by {twins:.2f} grey levels on average, "
    work += f"from the queries by {query:.2f}"
    return [
        Bar("personalize.batched", fastest["one by one"][0] / fastest["batched"][0], ASK_BATCHED, note=note),
        Bar("personalize.steps", taken["15 evaluations", 1] / taken["batched", 1], ASK_STEPS, note=work),
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
