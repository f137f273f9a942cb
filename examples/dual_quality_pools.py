"""From a scene of examples/dual_quality.py to adapters, pools and their verdicts, by the pipeline's own code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from dual_quality_scenes import Scene
from scipy import ndimage

from anosynth.diffusion.dual_adapters import SavedDual
from anosynth.diffusion.latent import LatentDiffusion, backbone_identity, open_backbone
from anosynth.features import foreground
from anosynth.features.lite import LiteFeatures
from anosynth.fingerprint import digest_pixels
from anosynth.imaging import resize_image
from anosynth.params import BackboneSpec, ComputeParams, DualAnoDiffMethod, MethodSpec, Params
from anosynth.pools import dual_fit, dual_terms, masks, pairs
from anosynth.pools.real import RealPair
from anosynth.samples import Sample, Verdict
from anosynth.screening.ceiling import Copies, count_copies, similarity_ceiling
from anosynth.screening.judge import judge_pairs
from anosynth.screening.memorization import NearestShot
from anosynth.screening.objects import ObjectMasks
from anosynth.screening.realism import Pictures, Realism
from anosynth.seeding import numpy_rng
from anosynth.shards.manifest import seal
from anosynth.shards.plan import plan_shards
from anosynth.shards.read import read_samples
from anosynth.shards.store import ShardStore
from tasks import _choosing, _dual

if TYPE_CHECKING:
    from numpy.typing import NDArray

See = Callable[[Sequence["NDArray[np.uint8]"]], Sequence["NDArray[np.uint8]"]]
SEED = 0
SHARD_ROWS = 25
BATCH_SIZE = 8
MAX_ATTEMPTS = 32
COPY_KINDS = ("mirrored", "cropped", "brighter", "darker")
BRIGHTNESS = 0.1
SMALLEST_CROP = 0.85


@dataclass(frozen=True, eq=False)
class Pool:
    """A pool and what screening says of it.

    Attributes:
        samples, verdicts: in order, one each.
        copies: of shots, over the whole pool.
    """

    samples: tuple[Sample, ...]
    verdicts: tuple[Verdict, ...]
    copies: Copies

    @property
    def kept(self) -> list[Sample]:
        """The accepted samples."""
        return [sample for sample, verdict in zip(self.samples, self.verdicts, strict=True) if verdict.keep]


class Workshop:
    """The backbone, a store of adapters and shards, and the judge of realism, opened when they are first needed."""

    def __init__(self, params: Params, backbone: BackboneSpec, compute: ComputeParams, *, out: Path) -> None:
        """Open nothing yet.

        Args:
            params: methods, gates and measures.
            backbone: what draws.
            compute: threads.
            out: folder of the store and of sealed pools.
        """
        self.params, self.compute = params, compute
        self._backbone, self._out = backbone, out
        self._store = ShardStore(out / "store")

    @cached_property
    def identity(self) -> str:
        """Digest of the backbone."""
        return backbone_identity(self._backbone)

    @cached_property
    def backbone(self) -> LatentDiffusion:
        """The backbone, open."""
        return open_backbone(self._backbone, compute=self.compute)

    @cached_property
    def _realism(self) -> Realism:
        spec = self.params.measure.features
        lite = LiteFeatures(spec.model, size_px=spec.size_px, levels=spec.levels, device=self.compute.device)
        return Realism(lite, self.params.measure)

    def adapter(self, scene: Scene, defects: Sequence[str], spec: DualAnoDiffMethod, *, size_px: int) -> SavedDual:
        """Train one adapter for some defect types of a scene, or find it in the store."""
        normals = [one.sha256 for one in scene.normals]
        subject = dual_fit.PairSubject(
            category=scene.category,
            name=scene.name,
            defects=tuple(one for one in scene.defects if one[0] in defects),
            mirror=scene.mirror,
            max_turn_deg=scene.max_turn_deg,
            shot_ids={defect: tuple(shot.sha256 for shot in scene.shots[defect]) for defect in defects},
            size_px=size_px,
            backbone=self.identity,
            seed=SEED,
            chosen_by=_choosing.named(spec, normals=normals),
        )
        found = dual_fit.stored_dual(subject.fingerprint(spec, self.compute), self._store)
        if found is not None:
            return found
        choose = _choosing.chooser(
            self.backbone,
            subject,
            spec,
            parents=scene.normals,
            shots=scene.shots,
            groups=scene.groups,
            compute=self.compute,
        )
        shots = {defect: scene.shots[defect] for defect in defects}
        return dual_fit.fit(self.backbone, shots, subject, spec, compute=self.compute, store=self._store, choose=choose)

    def pool(
        self, scene: Scene, defect: str, spec: MethodSpec, *, name: str, n: int, size_px: int, adapter: SavedDual | None
    ) -> tuple[Sample, ...]:
        """Make n pairs of one defect type by a method, or find them in the store.

        Args:
            scene: parents and shots.
            defect: slug.
            spec: of the method.
            name: of the pool, a part of every seed's address.
            n: pairs.
            size_px: side of the pairs.
            adapter: of `dualanodiff`; None for the control arms.
        """
        drawn = isinstance(spec, DualAnoDiffMethod)
        shape = dual_terms.drawing_values(spec) if isinstance(spec, DualAnoDiffMethod) else spec.model_dump(mode="json")
        jobs = plan_shards(
            stage="dual_quality",
            pool="pairs",
            category=scene.category,
            defect=defect,
            method=name,
            n=n,
            shard_rows=min(n, SHARD_ROWS),
            batch_size=BATCH_SIZE,
            seed=SEED,
            shape={"size_px": size_px, **shape},
            compute=self.compute,
            upstream={
                "scene": scene.digest,
                "foreground": str(foreground.ALGORITHM),
                **({"adapter": adapter.digest} if adapter is not None else {}),
            },
            algorithm=pairs.algorithm(spec),
        )
        missing = [job for job in jobs if job.fingerprint not in self._store]
        if missing and isinstance(spec, DualAnoDiffMethod) and adapter is not None:
            _dual.draw(
                missing,
                scene.normals,
                scene.shots[defect],
                adapter,
                spec,
                store=self._store,
                max_attempts=MAX_ATTEMPTS,
                compute=self.compute,
                backbone=self._backbone,
                root=Path.cwd(),
            )
        elif not isinstance(spec, DualAnoDiffMethod):
            for job in missing:
                made = pairs.samples(
                    job,
                    spec=spec,
                    parents=scene.normals,
                    shots=scene.shots[defect],
                    max_attempts=MAX_ATTEMPTS,
                    size_px=size_px,
                )
                self._store.put(job, made)
        assert drawn == (adapter is not None), "an adapter goes with dualanodiff and with nothing else"
        folder = self._out / "pools" / jobs[0].plan[:16]
        seal(jobs, self._store, folder)
        return tuple(read_samples(folder))

    def judged(self, scene: Scene, defect: str, samples: Sequence[Sample]) -> Pool:
        """Ask the gates, and hold the pool against the shots' own likeness."""
        parents = {one.sha256: one.image for one in scene.normals}
        normals, shots = list(parents.values()), [one.image for one in scene.shots[defect]]
        verdicts = tuple(
            judge_pairs(
                samples,
                foreground_of=ObjectMasks(parents.get).mask,
                shots=NearestShot(shots, others=normals),
                limits=self.params.screen,
            )
        )
        copies = count_copies(
            verdicts,
            measure="shot_similarity",
            gate=self.params.screen.max_shot_similarity,
            duplicate_gate=self.params.screen.max_duplicate_similarity,
            ceiling=similarity_ceiling(shots, scene.groups[defect], others=normals),
        )
        return Pool(tuple(samples), verdicts, copies)

    def realism(self, samples: Sequence[Sample], reference: Pictures, *, name: str) -> dict[str, object]:
        """KID-Lite of defect crops, and what else stage `measure` says, against pictures that no generator saw."""
        pictures = Pictures([one.image for one in samples], [one.mask for one in samples if one.mask is not None])
        rng = numpy_rng(SEED, "dual_quality", "measure", name)
        return self._realism.compare(pictures, reference=reference, shots=(), rng=rng)

    def seen(self, parts: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """What the autoencoder makes of parts."""
        return list(self.backbone.decode(self.backbone.encode(parts)))


def recovery(
    shots: Sequence[RealPair],
    groups: Sequence[str],
    see: See,
    *,
    key: Literal["chosen", "grey"],
    reading: Literal["learned", "threshold"],
) -> tuple[float, float]:
    """How well masks are found again in the shots' own parts, after the autoencoder.

    Args:
        shots: of one defect type, of one size.
        groups: of each shot.
        see: what the autoencoder makes of parts.
        key: "chosen" or "grey", as of `dual_fit.mask_rule`.
        reading: "learned" or "threshold", as of `dual_fit.mask_rule`.

    Returns:
        Mean IoU of the rule calibrated on these shots, and of rules calibrated without the group they are asked about.
    """
    remembered: dict[str, NDArray[np.uint8]] = {}

    def remembering(parts: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        names = [digest_pixels(part) for part in parts]
        new = {name: part for name, part in zip(names, parts, strict=True) if name not in remembered}
        if new:
            remembered.update(zip(new, see(list(new.values())), strict=True))
        return [remembered[name] for name in names]

    def found(rule: masks.MaskRule, asked: Sequence[RealPair]) -> Iterator[float]:
        parts = remembering([masks.neutral_part(one.image, one.mask, key=rule.key) for one in asked])
        for part, one in zip(parts, asked, strict=True):
            yield masks.iou(masks.part_mask(part, rule), one.mask)

    own = list(found(dual_fit.mask_rule(shots, key=key, reading=reading, see=remembering, seed=SEED), shots))
    honest: list[float] = []
    for group in dict.fromkeys(groups):
        rest = [one for one, its in zip(shots, groups, strict=True) if its != group]
        left_out = [one for one, its in zip(shots, groups, strict=True) if its == group]
        honest += found(dual_fit.mask_rule(rest, key=key, reading=reading, see=remembering, seed=SEED), left_out)
    return float(np.mean(own)), float(np.mean(honest))


def planted_copies(shots: Sequence[NDArray[np.uint8]], *, count: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Copies of shots in turn, each kind in turn: mirrored, cropped to 0.85 to 1 of the side, 10 % brighter, darker."""
    for at in range(count):
        shot, kind = shots[at % len(shots)], COPY_KINDS[(at // len(shots) + at % len(shots)) % len(COPY_KINDS)]
        rng = numpy_rng(SEED, "dual_quality", "copy", at)
        height, width = shot.shape[:2]
        match kind:
            case "mirrored":
                copy = shot[:, ::-1] if rng.random() < 0.5 else shot[::-1]
            case "cropped":
                ratio = rng.uniform(SMALLEST_CROP, 1.0)
                rows, columns = round(ratio * height), round(ratio * width)
                top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
                copy = resize_image(shot[top : top + rows, left : left + columns], size_px=(height, width))
            case _:
                factor = 1.0 + (BRIGHTNESS if kind == "brighter" else -BRIGHTNESS)
                copy = np.clip(np.rint(shot * factor), 0, 255).astype(np.uint8)
        yield kind, np.ascontiguousarray(copy)


def contrast(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> float:
    """How far a defect stands out, in 8-bit levels: medians inside the mask against a ring around it, largest plane.

    The ring is 6 px wide; the 2 px next to the mask are left out.
    """
    inside = mask > 0
    ring = ndimage.binary_dilation(inside, iterations=8) & ~ndimage.binary_dilation(inside, iterations=2)
    return float(np.abs(np.median(image[inside], axis=0) - np.median(image[ring], axis=0)).max())


def background_only(samples: Sequence[Sample], objects: Mapping[str, NDArray[np.uint8]], *, least: float) -> int:
    """How many masks lie with less than a share `least` of their pixels on their parent's exact outline."""
    count = 0
    for sample in samples:
        assert sample.mask is not None
        inside = sample.mask > 0
        on_object = objects[sample.provenance.parent_id or ""][inside] > 0
        count += float(on_object.mean()) < least
    return count
