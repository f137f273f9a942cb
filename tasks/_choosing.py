"""Which checkpoint of a pair adapter is kept: each draws a few pairs, and those too near to a shot are counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anosynth.diffusion.dual_adapters import open_dual
from anosynth.diffusion.dual_sample import two_branches
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.params import ComputeParams, DualAnoDiffMethod
from anosynth.pools import dual_fit, dual_pairs, dual_terms
from anosynth.pools.dual_fit import Candidate, Chosen, PairSubject
from anosynth.pools.dual_terms import terms_from_json
from anosynth.pools.real import RealNormal, RealPair
from anosynth.progress import track
from anosynth.screening.ceiling import Ceiling, similarity_ceiling
from anosynth.screening.checkpoints import CurvePoint, choose_checkpoint
from anosynth.screening.memorization import NearestShot
from anosynth.shards.plan import plan_shards

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from anosynth.samples import ShardJob

METHOD = "candidates"


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What the draws of one defect type are held against.

    Attributes:
        job: the draws, the same for every candidate.
        shots: of the defect type.
        nearest: finds the nearest of them.
        ceiling: how near they come to each other.
    """

    job: ShardJob
    shots: Sequence[RealPair]
    nearest: NearestShot
    ceiling: Ceiling


def named(spec: DualAnoDiffMethod, *, normals: Sequence[str]) -> dict[str, object]:
    """What a choice depends on beside the training, as JSON values; nothing where there is none.

    Args:
        spec: how pairs are drawn.
        normals: digests of the normal shots.
    """
    if spec.candidates == 1:
        return {}
    return {
        "drawing": dual_terms.drawing_values(spec),
        "algorithm": dual_terms.ALGORITHM,
        "normals": list(normals),
    }


def chooser(
    backbone: LatentDiffusion,
    subject: PairSubject,
    spec: DualAnoDiffMethod,
    *,
    parents: Sequence[RealNormal],
    shots: Mapping[str, Sequence[RealPair]],
    groups: Mapping[str, Sequence[str]],
    compute: ComputeParams,
) -> Callable[[Sequence[Candidate]], Chosen]:
    """Return what chooses one of several candidates.

    Args:
        backbone: draws with each of them.
        subject: whose adapter it is.
        spec: how pairs are drawn, and how many.
        parents: the real normal shots.
        shots: by defect, the anomalous shots.
        groups: of each of these.
        compute: for the draws' address.
    """

    def choose(candidates: Sequence[Candidate]) -> Chosen:
        yardsticks = []
        normals = [one.image for one in parents]
        for defect, _ in subject.defects:
            images = [one.image for one in shots[defect]]
            ceiling = similarity_ceiling(images, groups[defect], others=normals)
            if ceiling is not None:
                job = job_of(subject, defect, spec, compute)
                yardsticks.append(Yardstick(job, shots[defect], NearestShot(images, others=normals), ceiling))
        if not yardsticks:
            why = "the shots come from one group, so they have no ceiling; the last step is kept"
            return Chosen(candidates[-1].step, {"why": why, "curve": []})
        points = [
            CurvePoint(one.step, share_above(one, backbone, spec, parents, yardsticks))
            for one in track(candidates, total=len(candidates), doing="choosing a checkpoint", unit="candidate")
        ]
        choice = choose_checkpoint(points)
        curve = [{"step": point.step, "share_above": round(point.share_above, 6)} for point in points]
        return Chosen(choice.point.step, {"why": choice.why, "curve": curve})

    return choose


def share_above(
    candidate: Candidate,
    backbone: LatentDiffusion,
    spec: DualAnoDiffMethod,
    parents: Sequence[RealNormal],
    yardsticks: Sequence[Yardstick],
) -> float:
    """Share of a candidate's draws that come nearer to a shot than the ceiling of their defect type."""
    terms, above = terms_from_json(candidate.saved.terms), 0
    dual = open_dual(backbone.unet, candidate.saved, backbone=backbone.identity, text=backbone.text)
    with two_branches(backbone, dual):
        for one in yardsticks:
            generator = dual_pairs.prepare(
                backbone,
                parents,
                one.shots,
                adapter=candidate.saved.digest,
                terms=terms,
                defect=one.job.defect or "",
                with_backgrounds=candidate.saved.shape.background != "off",
                decoder=dual.decoder,
            )
            images = _drawn(one.job, generator, spec)
            above += sum(one.nearest.match(image).similarity > one.ceiling.value for image in images)
    return above / (spec.candidate_draws * len(yardsticks))


def _drawn(job: ShardJob, generator: dual_pairs.PairsGenerator, spec: DualAnoDiffMethod) -> list[NDArray[np.uint8]]:
    """One draw of each sample, those without a defect left out."""
    at_once = dual_terms.drawing(spec).at_once
    found = []
    for batch in job.batches():
        for at in range(0, len(batch), at_once or len(batch)):
            made = dual_pairs.draw(job, batch[at : at + (at_once or len(batch))], generator, spec, attempt=0)
            found += [judged.image for judged in made if judged is not None]
    return found


def job_of(subject: PairSubject, defect: str, spec: DualAnoDiffMethod, compute: ComputeParams) -> ShardJob:
    """The same samples for every candidate: they differ by what was learned alone."""
    (job,) = plan_shards(
        stage=dual_fit.STAGE,
        pool="pairs",
        category=subject.category,
        defect=defect,
        method=METHOD,
        n=spec.candidate_draws,
        shard_rows=spec.candidate_draws,
        batch_size=min(spec.candidate_draws, 8),
        seed=subject.seed,
        shape={},
        compute=compute,
        upstream={},
        algorithm=dual_terms.ALGORITHM,
    )
    return job
