"""The covariance term of FID at 1,024 features: ours against scipy's matrix square root, the usual form.

And IC-LPIPS: how often the network is asked, against one pass for both images of every pair (counted, not timed).
Run: python -m benchmarks.fid
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from anosynth.metrics.clusters import intra_cluster_distance
from anosynth.metrics.frechet import Moments, frechet_distance, moments
from benchmarks.measure import Bar, compare, finish

NUM_DIMS = 1024
NUM_ROWS = 3000
ASK = 2.5
TOLERANCE = 1e-6  # relative
NUM_IMAGES, NUM_REFERENCES, CAP = 1000, 6, 50


def example(seed: int) -> Moments:
    """Moments of random rows whose spread falls with the feature, as that of network features does."""
    rng = np.random.default_rng(seed)
    scale = np.linspace(1.0, 0.05, NUM_DIMS) ** 2
    mixed = rng.normal(size=(NUM_ROWS, NUM_DIMS)) * scale
    return moments((mixed + 0.1 * seed).astype(np.float32))


def usual_form(x: Moments, y: Moments) -> float:
    root = sqrtm(x.covariance @ y.covariance).real
    apart = np.square(x.mean - y.mean).sum()
    return float(apart + np.trace(x.covariance) + np.trace(y.covariance) - 2.0 * np.trace(root))


def passes_bar() -> Bar:
    """Count the descriptions of 1,000 images around 6 references."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in range(NUM_IMAGES)]
    counted = []

    def describe(asked: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        counted.append(len(asked))
        return np.stack([one.ravel() for one in asked]).astype(np.float32)

    found = intra_cluster_distance(images, images[:NUM_REFERENCES], describe=describe, rng=rng, cap=CAP)  # type: ignore[arg-type]
    passes, limit = sum(counted), NUM_IMAGES + NUM_REFERENCES + NUM_REFERENCES * CAP
    compared = sum(min(size, CAP) * (min(size, CAP) - 1) // 2 for size in found.sizes)
    pairwise = 2 * (NUM_IMAGES * NUM_REFERENCES + compared)
    note = f"{passes} passes (allowed {limit}), {pairwise / passes:.1f} times fewer than pair by pair"
    return Bar("fid.ic_lpips_passes", limit / passes, 1.0, note=note)


def main() -> int:
    x, y = example(0), example(1)
    usual, ours = usual_form(x, y), frechet_distance(x, y)
    if not abs(usual - ours) <= TOLERANCE * abs(usual):
        print(f"fid: the two forms differ: {usual} and {ours}", file=sys.stderr)
        return 1
    bar = compare(
        "fid.frechet", ask=ASK, baseline=lambda: usual_form(x, y), ours=lambda: frechet_distance(x, y), rounds=5
    )
    return finish([bar, passes_bar()])


if __name__ == "__main__":
    raise SystemExit(main())
