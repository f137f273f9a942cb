"""Pools of anomaly pairs by the control arms: from a shard job to its samples, by whichever method the spec names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, assert_never

import numpy as np

from anosynth.errors import DataError
from anosynth.features.foreground import segment_object
from anosynth.licences import most_restrictive
from anosynth.params import CutPasteMethod, DualAnoDiffMethod, MethodSpec, PerlinMethod
from anosynth.pools import cutpaste, dual_terms, perlin
from anosynth.pools.draft import MIN_CHANGE, Draft, change, turn
from anosynth.pools.real import RealNormal, RealPair, resize_normals, resize_pairs
from anosynth.samples import Provenance, Sample, SampleSpec, ShardJob
from anosynth.seeding import numpy_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

ControlSpec = PerlinMethod | CutPasteMethod
"""Methods that need neither training nor a network."""


def algorithm(spec: MethodSpec) -> int:
    """Revision of the method's module, for fingerprints."""
    match spec:
        case PerlinMethod():
            return perlin.ALGORITHM
        case CutPasteMethod():
            return cutpaste.ALGORITHM
        case DualAnoDiffMethod():
            return dual_terms.ALGORITHM
        case _:
            assert_never(spec)


def samples(
    job: ShardJob,
    *,
    spec: ControlSpec,
    parents: Sequence[RealNormal],
    shots: Sequence[RealPair],
    max_attempts: int,
    size_px: int,
) -> Iterator[Sample]:
    """Make the samples of one shard, in order.

    Sample i is made on parent `turn(..., i)`, whatever the method: arms of one index share their parent. Its draws come
    from (seed of the sample, "attempt", a); a draw whose mask is empty, whose defect fits nowhere or cannot be seen is
    discarded and the next attempt drawn.

    Args:
        job: which samples.
        spec: the method.
        parents: real normal images that defects are put into, at least one, in a fixed order.
        shots: real anomalous shots of the job's defect, in a fixed order.
        max_attempts: draws per sample, at least 1.
        size_px: height and width of the samples; everything real is brought to it first.

    Raises:
        DataError: if there are no parents, no shots for a method that needs them, or a sample fails all attempts.
    """
    if not parents:
        raise DataError(f"{job.category}: no real normal images to put defects into; raise select_shots.normal")
    if not shots and isinstance(spec, CutPasteMethod) and spec.source == "shots":
        raise DataError(
            f"{job.category}, {job.defect}: method {job.method!r} cuts real defects and there are no anomalous shots; "
            f"raise select_shots.anomalous or set methods.{job.method}.source to self"
        )
    normals = resize_normals(parents, size_px=size_px)
    pairs = resize_pairs(shots, size_px=size_px)
    foregrounds: dict[str, NDArray[np.uint8]] = {}
    for sample in job.specs():
        parent = normals[turn(len(normals), job=job, index=sample.index, what="parent")]
        if parent.sha256 not in foregrounds:
            foregrounds[parent.sha256] = segment_object(parent.image)
        yield _sample(
            job,
            sample,
            spec=spec,
            parent=parent,
            foreground=foregrounds[parent.sha256],
            normals=normals,
            pairs=pairs,
            max_attempts=max_attempts,
        )


def _sample(
    job: ShardJob,
    sample: SampleSpec,
    *,
    spec: ControlSpec,
    parent: RealNormal,
    foreground: NDArray[np.uint8],
    normals: Sequence[RealNormal],
    pairs: Sequence[RealPair],
    max_attempts: int,
) -> Sample:
    for attempt in range(max_attempts):
        draft = _draft(
            job,
            sample,
            spec=spec,
            parent=parent,
            foreground=foreground,
            normals=normals,
            pairs=pairs,
            attempt=attempt,
        )
        if draft is None or not draft.mask.any() or draft.mask.all():
            continue
        if change(parent.image, draft.image)[draft.mask > 0].mean() >= MIN_CHANGE:
            licence = most_restrictive((parent.licence, *draft.licences))
            provenance = Provenance(shot_ids=draft.shot_ids, licence=licence, parent_id=parent.sha256)
            return Sample(sample, draft.image, draft.mask, provenance, attempt=attempt)
    raise DataError(
        f"{sample.sample_id}: no visible defect on parent {parent.sha256[:12]} in {max_attempts} draws; look at that "
        f"image and at methods.{job.method} in params.yaml, or raise generate_pairs.max_attempts"
    )


def _draft(
    job: ShardJob,
    sample: SampleSpec,
    *,
    spec: ControlSpec,
    parent: RealNormal,
    foreground: NDArray[np.uint8],
    normals: Sequence[RealNormal],
    pairs: Sequence[RealPair],
    attempt: int,
) -> Draft | None:
    rng = numpy_rng(sample.seed, "attempt", attempt)
    match spec:
        case PerlinMethod():
            sources: list[RealNormal | RealPair] = [*normals, *pairs]
            return perlin.draft(parent, foreground=foreground, spec=spec, sources=sources, rng=rng)
        case CutPasteMethod(source="self"):
            return cutpaste.draft_from_itself(parent, foreground=foreground, spec=spec, rng=rng)
        case CutPasteMethod():
            first = turn(len(pairs), job=job, index=sample.index, what="shot")
            shot = pairs[(first + attempt) % len(pairs)]
            return cutpaste.draft_from_shot(parent, shot, foreground=foreground, spec=spec, rng=rng)
        case _:
            assert_never(spec)
