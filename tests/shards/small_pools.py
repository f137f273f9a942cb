"""Small deterministic pools: what the shard tests fill stores with, in this process and in others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from anosynth.params import ComputeParams
from anosynth.samples import Pool, Provenance, Sample, SampleSpec, ShardJob
from anosynth.shards.plan import plan_shards

COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")


def make_jobs(
    n: int,
    *,
    shard_rows: int = 4,
    pool: Pool = "pairs",
    batch_size: int = 2,
    seed: int = 7,
    shape: Mapping[str, object] | None = None,
    algorithm: int = 1,
    method: str = "",
) -> tuple[ShardJob, ...]:
    """Plan a pool of washers: perlin scratches, or sampled normals."""
    return plan_shards(
        stage=f"generate_{pool}",
        pool=pool,
        category="washer",
        defect="scratch" if pool == "pairs" else None,
        method=method or ("perlin" if pool == "pairs" else "sample"),
        n=n,
        shard_rows=shard_rows,
        batch_size=batch_size,
        seed=seed,
        shape={"size_px": 32, "opacity": [0.3, 0.9]} if shape is None else shape,
        compute=COMPUTE,
        upstream={"shots": "0" * 32},
        algorithm=algorithm,
    )


def make_sample(
    spec: SampleSpec,
    *,
    size: tuple[int, int] = (24, 32),
    licence: str = "CC0-1.0",
    shot_ids: tuple[str, ...] = ("a" * 64, "b" * 64),
    parent_id: str = "c" * 64,
) -> Sample:
    """Draw a sample from its own seed: noise, with a rectangle as mask if it is a pair."""
    rng = np.random.default_rng(spec.seed)
    height, width = size
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pair = spec.pool == "pairs"
    mask = None
    if pair:
        mask = np.zeros(size, dtype=np.uint8)
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        mask[top : top + 5, left : left + 7] = 255
    return Sample(
        spec=spec,
        image=image,
        mask=mask,
        provenance=Provenance(
            shot_ids=shot_ids,
            licence=licence,
            prompt="a photo of normal steel washer" if not pair else None,
            parent_id=parent_id if pair else None,
            backbone="d" * 32,
            adapter=None,
        ),
        part=255 - image if pair and spec.index % 2 else None,
        attempt=spec.index % 3,
        mask_confidence=0.25 if pair else 1.0,
    )


def make_samples(job: ShardJob) -> Iterator[Sample]:
    """All samples of a job, in order."""
    return (make_sample(spec) for spec in job.specs())


def same_sample(first: Sample, second: Sample) -> bool:
    """True if two samples agree in every field and pixel."""
    plain = ("spec", "provenance", "attempt", "mask_confidence")
    arrays = ("image", "mask", "part")

    def same_array(a: object, b: object) -> bool:
        if a is None or b is None:
            return a is b
        return bool(np.array_equal(a, b)) and a.dtype == b.dtype  # type: ignore[attr-defined]

    return all(getattr(first, name) == getattr(second, name) for name in plain) and all(
        same_array(getattr(first, name), getattr(second, name)) for name in arrays
    )
