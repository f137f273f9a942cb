"""Pairs by DualAnoDiff: both branches draw an image and its part, the part becomes the mask (Jin et al. 2025).

Differs from the paper where the strength is below 1: both branches start from a real normal in which a shot's defect is
planted, turned and scaled (`cutpaste`), where the object looks as it did around that defect, and from that defect's own
part, both re-noised in part; outside of the mask the normal's own pixels return, and inside it the light of the place
and a share of the detail that the autoencoder cannot show. So pose, surroundings and light are real, what changed lies
where the mask says, and even a backbone that draws no fine surface from noise has a defect to draw anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from torch import Tensor

from anosynth.diffusion.background import background_image
from anosynth.diffusion.decoder import decoding
from anosynth.diffusion.dual import draws_pairs
from anosynth.diffusion.dual_sample import DualPrompts, draw_pairs
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.solver import SamplerSettings
from anosynth.errors import BackboneError, DataError
from anosynth.features.foreground import segment_object
from anosynth.licences import most_restrictive
from anosynth.params import CutPasteMethod, DualAnoDiffMethod
from anosynth.pools.cutpaste import draft_from_shot
from anosynth.pools.draft import MIN_CHANGE, blend, change, turn
from anosynth.pools.dual_terms import DualTerms, drawing
from anosynth.pools.masks import neutral_part, part_mask, part_shown, places_agree
from anosynth.pools.real import RealNormal, RealPair, resize_normals, resize_pairs
from anosynth.samples import Provenance, Sample, SampleSpec, ShardJob
from anosynth.seeding import numpy_rng, seed_for, torch_generators

if TYPE_CHECKING:
    from numpy.typing import NDArray


SCALE = (0.7, 1.4)
FEATHER_PX = 1.0
"""How shots' defects are scaled and pasted before they are drawn anew."""

LIGHT_PX = (2.0, 8.0)
"""Ring around a mask that the light is taken from, distances in pixels of a 128 px picture."""


@dataclass(frozen=True, eq=False)
class PairsGenerator:
    """A backbone with a defect's adapter and what it starts from, computed once for all shards.

    Attributes:
        backbone: inside `dual_sample.two_branches`.
        adapter: digest of the adapter that it carries.
        terms: of that adapter.
        defect: which of its defect types is drawn.
        prompts: embedded.
        normals: real normals, [size_px, size_px, 3] each, in a fixed order.
        seen: the same after the autoencoder has been through them once, uint8 [k, size_px, size_px, 3].
        foregrounds: where the object is in each of them, uint8 [k, size_px, size_px] in {0, 255}.
        shots: anomalous shots of the defect, of that size, in a fixed order.
        shot_foregrounds: where the object is in each of them, as `foregrounds`.
        backgrounds: encoded normals with their objects painted over, [k, C, h, w], or None without compensation.
        decoder: weights of the subject's decoder, which whole images are seen by; none: the backbone's own.
    """

    backbone: LatentDiffusion
    adapter: str
    terms: DualTerms
    defect: str
    prompts: DualPrompts
    normals: tuple[RealNormal, ...]
    seen: NDArray[np.uint8]
    foregrounds: NDArray[np.uint8]
    shots: tuple[RealPair, ...]
    shot_foregrounds: NDArray[np.uint8]
    backgrounds: Tensor | None
    decoder: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Judged:
    """One draw that may become a sample.

    Attributes:
        image, part: uint8 RGB [H, W, 3].
        mask: uint8 [H, W] in {0, 255}, with foreground and background.
        confidence: how sure the mask is, [0, 1].
        parent: the real normal it was made on, or None if it was drawn from noise.
        attempt: number of this draw.
    """

    image: NDArray[np.uint8]
    part: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    confidence: float
    parent: RealNormal | None
    attempt: int


def prepare(
    backbone: LatentDiffusion,
    parents: Sequence[RealNormal],
    shots: Sequence[RealPair],
    *,
    adapter: str,
    terms: DualTerms,
    defect: str,
    with_backgrounds: bool = False,
    decoder: Mapping[str, Tensor] | None = None,
) -> PairsGenerator:
    """Encode the normals and the prompts.

    Args:
        backbone: what draws, inside `dual_sample.two_branches`: prompts are embedded as the adapter reads them.
        parents: real normals of any size, at least one.
        shots: anomalous shots of the defect, of any size, at least one.
        adapter: digest of the adapter.
        terms: what goes with it.
        defect: which of its defect types is drawn.
        with_backgrounds: the adapter compensates the background: pose and surroundings come from the normals' own.
        decoder: weights of the subject's decoder, if the adapter has one.

    Raises:
        BackboneError: if the adapter was not trained on this defect.
        ValueError: outside of `dual_sample.two_branches`.
    """
    if not draws_pairs(backbone.unet):
        raise ValueError("prompts of pairs are embedded inside dual_sample.two_branches, as the adapter reads them")
    if defect not in terms.prompts:
        raise BackboneError(
            f"the pair adapter draws {', '.join(terms.prompts)} and not {defect}; run personalize_pairs again"
        )
    size_px = terms.size_px
    normals = resize_normals(parents, size_px=size_px)
    whole, part = terms.prompts[defect]
    sized = resize_pairs(shots, size_px=size_px)
    with decoding(backbone, decoder or {}):
        seen = backbone.decode(backbone.encode([normal.image for normal in normals]))
    return PairsGenerator(
        backbone=backbone,
        adapter=adapter,
        terms=terms,
        defect=defect,
        prompts=DualPrompts(backbone.embed([whole]), backbone.embed([part]), backbone.embed([""])),
        normals=normals,
        seen=seen,
        foregrounds=np.stack([segment_object(normal.image) for normal in normals]),
        shots=sized,
        shot_foregrounds=np.stack([segment_object(shot.image) for shot in sized]),
        backgrounds=backbone.encode([_without_object(normal) for normal in normals]) if with_backgrounds else None,
        decoder=decoder or {},
    )


def samples(
    job: ShardJob, generator: PairsGenerator, spec: DualAnoDiffMethod, *, max_attempts: int
) -> Iterator[Sample]:
    """Draw the samples of one shard, batch by batch.

    Attempt a of a sample draws from (seed of the sample, "attempt", a). A draw without a mask, with a mask everywhere,
    or whose defect cannot be seen is discarded; one whose mask is not sure enough is drawn again at most
    `spec.redraws` times, and the surest is kept with its `mask_confidence`, for a gate to judge.

    Args:
        job: which samples.
        generator: from `prepare`.
        spec: how they are drawn.
        max_attempts: draws per sample, at least 1.

    Raises:
        DataError: if a sample has no visible defect in all its draws.
    """
    at_once = drawing(spec).at_once
    for batch in job.batches():
        for at in range(0, len(batch), at_once or len(batch)):
            yield from _batch(job, batch[at : at + (at_once or len(batch))], generator, spec, max_attempts=max_attempts)


def _batch(
    job: ShardJob,
    specs: Sequence[SampleSpec],
    generator: PairsGenerator,
    spec: DualAnoDiffMethod,
    *,
    max_attempts: int,
) -> Iterator[Sample]:
    best: dict[int, Judged] = {}
    waiting = list(specs)
    for attempt in range(max_attempts):
        for sample, judged in zip(waiting, draw(job, waiting, generator, spec, attempt=attempt), strict=True):
            if judged is not None and (sample.index not in best or judged.confidence > best[sample.index].confidence):
                best[sample.index] = judged
        waiting = [one for one in waiting if not _is_done(best.get(one.index), spec, attempt=attempt)]
        if not waiting:
            break
    for sample in specs:
        if sample.index not in best:
            raise DataError(
                f"{sample.sample_id}: no visible defect in {max_attempts} draws; the adapter draws too little: raise "
                f"methods.{job.method}.steps or strength, or generate_pairs.max_attempts"
            )
        yield _sample(sample, best[sample.index], generator)


def _is_done(best: Judged | None, spec: DualAnoDiffMethod, *, attempt: int) -> bool:
    return best is not None and (best.confidence >= spec.min_confidence or attempt >= spec.redraws)


def draw(
    job: ShardJob, specs: Sequence[SampleSpec], generator: PairsGenerator, spec: DualAnoDiffMethod, *, attempt: int
) -> Iterator[Judged | None]:
    """One draw of each sample, all in one batch; None where it holds no usable defect.

    Args:
        job: whose samples.
        specs: of the samples.
        generator: from `prepare`.
        spec: how they are drawn.
        attempt: number of this draw.
    """
    how, starts = (
        drawing(spec),
        [turn(len(generator.normals), job=job, index=one.index, what="parent") for one in specs],
    )
    from_noise = spec.strength == 1.0
    planted = (
        None
        if from_noise
        else [
            _planted(job, one, generator, spec, start=start, attempt=attempt)
            for one, start in zip(specs, starts, strict=True)
        ]
    )
    begun = None if planted is None else generator.backbone.encode([whole for whole, _ in planted])
    details = [None] * len(specs) if planted is None or begun is None else _details(generator, planted, begun)
    wholes, parts = draw_pairs(
        generator.backbone,
        generator.prompts,
        size_px=generator.terms.size_px,
        settings=SamplerSettings(how.solver, how.steps, how.guidance),
        generators=torch_generators([seed_for(one.seed, "attempt", attempt) for one in specs]),
        parents=begun,
        strength=spec.strength,
        parent_parts=None if planted is None else generator.backbone.encode([part for _, part in planted]),
        backgrounds=None if generator.backgrounds is None else generator.backgrounds[starts],
        decoder=generator.decoder,
    )
    for start, whole, part, detail in zip(starts, wholes, parts, details, strict=True):
        mask = part_mask(part, generator.terms.rules[generator.defect])
        if not mask.any() or mask.all():
            yield None
        elif detail is None:
            yield Judged(whole, part, mask, part_shown(whole, part, mask), None, attempt)
        else:
            parent, changed = generator.normals[start], change(generator.seen[start], whole)
            confidence = min(part_shown(whole, part, mask), places_agree(changed, mask))
            fine = whole + spec.detail * detail
            image = (
                np.rint(np.clip(fine, 0.0, 255.0)).astype(np.uint8)
                if spec.blend_px is None
                else returned(parent.image, fine, mask, seam_px=spec.blend_px)
            )
            seen = change(parent.image, image)[mask > 0].mean() >= MIN_CHANGE
            yield Judged(image, part, mask, confidence, parent, attempt) if seen else None


def _details(
    generator: PairsGenerator, planted: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]], begun: Tensor
) -> list[NDArray[np.float64]]:
    """What the autoencoder loses of each picture that drawing starts from, [H, W, 3] each, grey levels."""
    with decoding(generator.backbone, generator.decoder):
        seen = generator.backbone.decode(begun)
    return [whole.astype(np.float64) - one for (whole, _), one in zip(planted, seen, strict=True)]


def _planted(
    job: ShardJob,
    sample: SampleSpec,
    generator: PairsGenerator,
    spec: DualAnoDiffMethod,
    *,
    start: int,
    attempt: int,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Where both branches start: a normal with a shot's defect pasted in, and the part of that.

    A defect that fits nowhere leaves the normal as it is and its part empty.
    """
    terms = generator.terms
    shot = (turn(len(generator.shots), job=job, index=sample.index, what="shot") + attempt) % len(generator.shots)
    made = draft_from_shot(
        generator.normals[start],
        generator.shots[shot],
        foreground=generator.foregrounds[start],
        spec=CutPasteMethod(
            kind="cutpaste", source="shots", scale=SCALE, max_turn_deg=terms.max_turn_deg, feather_px=FEATHER_PX
        ),
        rng=numpy_rng(sample.seed, "attempt", attempt, "planted"),
        mirror=terms.mirror,
        shot_foreground=generator.shot_foregrounds[shot] if spec.place == "matched" else None,
    )
    image = generator.normals[start].image if made is None else made.image
    mask = np.zeros(image.shape[:2], dtype=np.uint8) if made is None else made.mask
    return image, neutral_part(image, mask, key=terms.rules[generator.defect].key)


def _without_object(normal: RealNormal) -> NDArray[np.uint8]:
    return background_image(normal.image, segment_object(normal.image))


def returned(
    parent: NDArray[np.uint8], drawn: NDArray[np.float64], mask: NDArray[np.uint8], *, seam_px: float
) -> NDArray[np.uint8]:
    """The parent's own pixels outside of the mask, the drawn ones inside, a smooth seam of `seam_px` around it.

    The drawn ones are shifted to the light of the place: each colour plane by what its mean lacks of the parent's in a
    ring around the mask.

    Args:
        parent: uint8 RGB [H, W, 3].
        drawn: [H, W, 3] on the scale of uint8.
        mask: uint8 [H, W] in {0, 255}, not empty.
        seam_px: width of the seam.
    """
    outside = np.asarray(ndimage.distance_transform_edt(mask == 0))
    near, far = (reach * max(mask.shape) / 128.0 for reach in LIGHT_PX)
    ring = (outside > near) & (outside <= far)
    light = (parent[ring] - drawn[ring]).mean(axis=0) if ring.any() else np.zeros(3)
    away = np.clip(outside / seam_px, 0.0, 1.0) if seam_px else (outside > 0.0).astype(np.float64)
    return blend(parent, drawn + light, alpha=0.5 + 0.5 * np.cos(np.pi * away))


def _sample(spec: SampleSpec, judged: Judged, generator: PairsGenerator) -> Sample:
    terms, parent = generator.terms, judged.parent
    licences = (terms.licence,) if parent is None else (terms.licence, parent.licence)
    provenance = Provenance(
        shot_ids=terms.shot_ids[generator.defect],
        licence=most_restrictive(licences),
        prompt=terms.prompts[generator.defect][0],
        parent_id=None if parent is None else parent.sha256,
        backbone=generator.backbone.identity,
        adapter=generator.adapter,
    )
    return Sample(
        spec,
        judged.image,
        judged.mask,
        provenance,
        part=judged.part,
        attempt=judged.attempt,
        mask_confidence=judged.confidence,
    )
