"""How much generated images differ among each other around the real image they resemble most: IC-LPIPS's protocol.

Ojha et al. 2021 ("Few-shot image generation via cross-domain correspondence"), as the anomaly-generation papers use it:
each generated image joins its nearest real shot, at most 50 of a cluster are kept, and the mean distance of all pairs
in a cluster is averaged over the clusters. High means diverse, 0 means that every image is a copy of its neighbour; it
says nothing about realism, and noise scores high.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLUSTER_CAP = 50
_BATCH = 32
_COLUMNS = 1 << 18

Describe = Callable[["Sequence[NDArray[np.uint8]]"], "NDArray[np.float32]"]


@dataclass(frozen=True)
class IntraCluster:
    """What `intra_cluster_distance` found.

    Attributes:
        value: mean over clusters of the mean distance of all pairs in a cluster; NaN if no cluster has two images.
        sd: sample standard deviation over those clusters; NaN below two of them.
        sizes: generated images that joined each reference, before the cap.
        num_described: images that went through the network.
    """

    value: float
    sd: float
    sizes: tuple[int, ...]
    num_described: int


def intra_cluster_distance(
    images: Sequence[NDArray[np.uint8]],
    references: Sequence[NDArray[np.uint8]],
    *,
    describe: Describe,
    rng: np.random.Generator,
    cap: int = CLUSTER_CAP,
    held_bytes: int = 0,
) -> IntraCluster:
    """Cluster images to their nearest reference and measure the spread inside the clusters.

    The distance of two images is the squared Euclidean distance of their descriptions, so the pairs of a cluster need
    one description per image and their mean. Descriptions are large; they are held for the references, one cluster and
    as many images as `held_bytes` allows. That costs at most images + references + clusters * cap descriptions, and
    images + references where all may be held; a network asked about every pair is asked images * references + clusters
    * cap * (cap - 1) / 2 times, twice.

    Args:
        images: generated, uint8 RGB [H, W, 3] each.
        references: the real shots.
        describe: images -> float32 [B, D].
        rng: draws which images of a crowded cluster are kept.
        cap: most images of a cluster that are compared, at least 2.
        held_bytes: memory for descriptions kept from the clustering to the comparison; 0 asks the network again.

    Raises:
        ValueError: if there is no reference, or cap is below 2.
    """
    if not references or cap < 2:
        raise ValueError(f"{len(references)} references and a cap of {cap}: at least 1 and 2 are needed")
    bank = describe(references)
    described = len(references)
    joined: list[int] = []
    held: dict[int, NDArray[np.float32]] = {}
    for start in range(0, len(images), _BATCH):
        rows = describe(images[start : start + _BATCH])
        described += len(rows)
        joined += [int(np.square(bank - row).sum(axis=1).argmin()) for row in rows]
        held |= zip(range(start, min(held_bytes // rows[0].nbytes, start + len(rows))), rows, strict=False)
    means = []
    for reference in range(len(references)):
        members = np.flatnonzero(np.asarray(joined, np.int64) == reference)
        if len(members) < 2:
            continue
        chosen = np.sort(rng.permutation(members)[:cap])
        again = [at for at in chosen if at not in held]
        fresh = dict(zip(again, describe([images[at] for at in again]), strict=True)) if again else {}
        described += len(fresh)
        means.append(_mean_pair_distance(np.stack([fresh[at] if at in fresh else held[at] for at in chosen])))
    sizes = np.bincount(joined, minlength=len(references))
    value = float(np.mean(means)) if means else float("nan")
    sd = float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")
    return IntraCluster(value, sd, tuple(int(size) for size in sizes), described)


def _mean_pair_distance(rows: NDArray[np.float32]) -> float:
    """Mean of |a - b|^2 over all pairs of rows.

    Over the n (n - 1) / 2 pairs these sum to n times the sum of squares about the mean, so no pair is ever formed.
    Columns go in blocks, because float64 copies of all would need four times the memory of the rows.
    """
    total = 0.0
    for start in range(0, rows.shape[1], _COLUMNS):
        block = rows[:, start : start + _COLUMNS]
        total += float(np.square(block.astype(np.float64) - block.mean(axis=0, dtype=np.float64)).sum())
    return 2.0 * total / (len(rows) - 1)
