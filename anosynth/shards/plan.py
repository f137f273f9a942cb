"""What will be made, decided before anything is made: pools cut into shard jobs, each named by a fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from anosynth.errors import ShardError
from anosynth.fingerprint import canonical_json, digest_value
from anosynth.samples import Pool, ShardJob
from anosynth.shards.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from anosynth.params import ComputeParams


def plan_shards(
    *,
    stage: str,
    pool: Pool,
    category: str,
    defect: str | None,
    method: str,
    n: int,
    shard_rows: int,
    batch_size: int,
    seed: int,
    shape: Mapping[str, object],
    compute: ComputeParams,
    upstream: Mapping[str, str],
    algorithm: int,
) -> tuple[ShardJob, ...]:
    """Cut the samples [0, n) of a pool into shards and name each by everything that shapes its bytes.

    Pure: equal arguments give equal jobs everywhere. The pool size `n` is in no fingerprint, so a larger pool has all
    full shards of a smaller one; a shorter last shard has a fingerprint of its own.

    Args:
        stage: name of the stage that makes the pool; first part of every sample's seed address.
        pool: "normals" or "pairs".
        category: slug of the product.
        defect: slug of the defect type; None if and only if the pool is "normals".
        method: slug of the way the samples are made.
        n: samples in the pool, at least 1.
        shard_rows: samples in a full shard, at least 1.
        batch_size: samples that are computed together; batches are cut inside a shard.
        seed: root seed.
        shape: every parameter value that shapes a pixel, as JSON values; not n.
        compute: threads, dtype and device class; they decide rounding.
        upstream: digests of what the samples are made from (shots, adapter, backbone, parents), by name.
        algorithm: revision of the generating module (its constant ALGORITHM).

    Returns:
        The jobs in order; job k holds the samples [k * shard_rows, min((k + 1) * shard_rows, n)).

    Raises:
        ValueError: if a number is out of range, or a defect is missing or not wanted.
        TypeError: if `shape` or `upstream` is not JSON.
    """
    for name, value in (("n", n), ("shard_rows", shard_rows), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{stage}: {name} is {value}; it must be at least 1")
    if (pool == "normals") != (defect is None):
        raise ValueError(
            f"{stage}: defect is {defect!r}, but the pool is {pool!r}; normals have none and pairs have one"
        )
    common: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "stage": stage,
        "pool": pool,
        "category": category,
        "defect": defect,
        "method": method,
        "batch_size": batch_size,
        "seed": seed,
        "shape": json.loads(canonical_json(dict(shape))),
        "compute": compute.model_dump(mode="json"),
        "upstream": dict(upstream),
        "algorithm": algorithm,
    }
    fields = {name: value for name, value in common.items() if name != "schema_version"}
    plan = digest_value(common)
    jobs = []
    for shard, start in enumerate(range(0, n, shard_rows)):
        reach = {"start": start, "stop": min(start + shard_rows, n)}
        jobs.append(
            job_from_json(
                {**fields, **reach, "shard": shard, "fingerprint": digest_value({**common, **reach}), "plan": plan}
            )
        )
    return tuple(jobs)


def fingerprint_of(job: ShardJob) -> str:
    """Recompute a job's fingerprint from its other fields, as `plan_shards` does; a footer is checked against it."""
    named = {name: value for name, value in job_to_json(job).items() if name not in ("shard", "fingerprint", "plan")}
    return digest_value({**named, "schema_version": SCHEMA_VERSION})


def shard_name(pool: Pool, shard: int) -> str:
    """File name of a shard in a sealed folder; it does not depend on how many shards there are."""
    return f"{pool}-{shard:05d}.parquet"


def stage_key(stage: str, *, category: str, defect: str | None, method: str) -> str:
    """What DVC calls the stage that makes a pool: `generate_normals@washer`, `generate_pairs@washer-scratch-perlin`."""
    return f"{stage}@{category}" if defect is None else f"{stage}@{category}-{defect}-{method}"


def job_to_json(job: ShardJob) -> dict[str, object]:
    """Return a job as a JSON object."""
    return asdict(job)


def job_from_json(value: Mapping[str, object]) -> ShardJob:
    """Rebuild a job from `job_to_json`.

    Raises:
        ShardError: if fields are missing or unknown.
    """
    try:
        return ShardJob(**value)  # type: ignore[arg-type]
    except TypeError as error:
        raise ShardError(f"a shard's footer describes a job with wrong fields ({error})") from error
