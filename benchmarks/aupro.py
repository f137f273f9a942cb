"""AUPRO over many pixels: our streaming histogram against one sort of all pixels.

The baseline is the algorithm of anomalib (2026) and of MVTec AD's evaluation code, restated: order all pixels by score,
run sums of background pixels and of region weight along that order, keep the last point of every tied run, cut the
curve at the limit, trapezoids. It is given here in torch (as anomalib has it) and in NumPy; the faster one counts. Both
sides find their regions with the same function, so only the algorithm is compared.

Run: python -m benchmarks.aupro
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from anosynth.metrics.detection import PixelHistogram
from anosynth.metrics.regions import REGION_WEIGHT, region_weights
from benchmarks.measure import Bar, best_seconds, finish

if TYPE_CHECKING:
    from numpy.typing import NDArray

ASK = 20.0
TOLERANCE = 1e-5
MAX_FPR = 0.3
NUM_IMAGES, SIDE_PX = 48, 512  # 12.6 million pixels

Images = tuple["NDArray[np.float32]", "NDArray[np.uint8]"]


def example(seed: int = 0) -> Images:
    """Smooth random maps with round defects that are only partly found: [B, H, W] float32 and uint8 masks."""
    rng = np.random.default_rng(seed)
    maps = np.empty((NUM_IMAGES, SIDE_PX, SIDE_PX), np.float32)
    masks = np.zeros((NUM_IMAGES, SIDE_PX, SIDE_PX), np.uint8)
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    for at in range(NUM_IMAGES):
        coarse = rng.normal(size=(32, 32)).astype(np.float32)
        maps[at] = ndimage.zoom(coarse, SIDE_PX // 32, order=1) + 0.5 * rng.normal(size=(SIDE_PX, SIDE_PX))
        for _ in range(at % 4):
            y, x, radius = rng.integers(40, SIDE_PX - 40), rng.integers(40, SIDE_PX - 40), rng.integers(3, 40)
            inside = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
            masks[at][inside] = 255
            maps[at][inside] += rng.uniform(0.0, 2.0)
    maps -= maps.min()
    return maps / maps.max(), masks


def all_weights(masks: NDArray[np.uint8]) -> tuple[NDArray[np.float64], int]:
    """1 / area of its region for every foreground pixel, 0 elsewhere, flat over all images; number of regions."""
    weights, num_regions = np.zeros(masks.size), 0
    for at, mask in enumerate(masks):
        foreground, weight, found = region_weights(mask)
        weights[at * mask.size + foreground] = weight / REGION_WEIGHT
        num_regions += found
    return weights, num_regions


def sorted_torch(maps: NDArray[np.float32], masks: NDArray[np.uint8]) -> float:
    """The full-sort form in torch."""
    weights, num_regions = all_weights(masks)
    scores = torch.from_numpy(maps).flatten()
    order = torch.argsort(scores, descending=True)
    scores = scores[order]
    background = torch.from_numpy(masks).flatten()[order] == 0
    fpr = torch.cumsum(background, 0, dtype=torch.float64)
    pro = torch.cumsum(torch.from_numpy(weights)[order], 0) / num_regions
    last = torch.ones_like(background)
    last[:-1] = scores[1:] != scores[:-1]
    return cut_area((fpr / fpr[-1])[last].numpy(), pro[last].numpy())


def sorted_numpy(maps: NDArray[np.float32], masks: NDArray[np.uint8]) -> float:
    """The full-sort form in NumPy."""
    weights, num_regions = all_weights(masks)
    scores = maps.ravel()
    order = np.argsort(scores)[::-1]
    scores = scores[order]
    fpr = np.cumsum(masks.ravel()[order] == 0, dtype=np.float64)
    pro = np.cumsum(weights[order]) / num_regions
    last = np.append(scores[1:] != scores[:-1], True)
    return cut_area((fpr / fpr[-1])[last], pro[last])


def cut_area(fpr: NDArray[np.float64], pro: NDArray[np.float64]) -> float:
    """Trapezoids under (fpr, pro) from (0, 0) to the limit, with a straight line to the cut, divided by the limit."""
    fpr, pro = np.append(0.0, fpr), np.append(0.0, pro)
    end = int(np.searchsorted(fpr, MAX_FPR, side="right"))
    at_limit = np.interp(MAX_FPR, fpr, pro)
    return float(np.trapezoid(np.append(pro[:end], at_limit), np.append(fpr[:end], MAX_FPR)) / MAX_FPR)


def streamed(maps: NDArray[np.float32], masks: NDArray[np.uint8]) -> float:
    """Ours, one image at a time; AUROC, AP and F1-max of the pixels come with it."""
    state = PixelHistogram(bits=20)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        state.update(anomaly_map, mask)
    return state.result(max_fpr=MAX_FPR).aupro


def bars() -> list[Bar]:
    """Compare values, then time all three."""
    maps, masks = example()
    values = {f.__name__: f(maps, masks) for f in (sorted_torch, sorted_numpy, streamed)}
    worst = max(abs(values["streamed"] - values[name]) for name in ("sorted_torch", "sorted_numpy"))
    if not worst < TOLERANCE:
        raise SystemExit(f"values differ by {worst:.2e}, allowed is {TOLERANCE:.0e}: {values}")
    best = best_seconds(
        {
            "torch": lambda: sorted_torch(maps, masks),
            "numpy": lambda: sorted_numpy(maps, masks),
            "ours": lambda: streamed(maps, masks),
        }
    )
    note = (
        f"{maps.size / 1e6:.1f} M pixels, AUPRO {values['streamed']:.7f}, difference {worst:.1e}; CPU seconds: "
        + ", ".join(f"{name} {seconds:.2f}" for name, seconds in best.items())
    )
    return [Bar("aupro", min(best["torch"], best["numpy"]) / best["ours"], ASK, note=note)]


if __name__ == "__main__":
    sys.exit(finish(bars()))
