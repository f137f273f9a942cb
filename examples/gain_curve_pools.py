"""The pools of pairs of examples/gain_curve.py: made of one draw of shots and screened, as the stages do it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from anosynth.detectors.protocol import LabelledImage
from anosynth.diffusion.dual_adapters import SavedDual, open_dual
from anosynth.diffusion.dual_sample import two_branches
from anosynth.diffusion.latent import LatentDiffusion, backbone_identity, open_backbone
from anosynth.errors import DataError
from anosynth.features import foreground
from anosynth.params import BackboneSpec, ComputeParams, DualAnoDiffMethod, MethodSpec, ScreenParams
from anosynth.pools import dual_pairs, dual_terms, pairs
from anosynth.pools.dual_fit import PairSubject, fit, stored_dual
from anosynth.pools.real import RealPair
from anosynth.samples import Sample, ShardJob
from anosynth.screening.judge import judge_pairs
from anosynth.screening.memorization import NearestShot
from anosynth.screening.objects import ObjectMasks
from anosynth.seeding import seed_for
from anosynth.shards.plan import plan_shards
from anosynth.shards.store import ShardStore
from anosynth.sources.procedural.demo_defects import PHRASES

sys.path.insert(0, str(Path(__file__).parent))
from gain_curve_parts import Parts

MAX_ATTEMPTS = 32


@dataclass(frozen=True)
class PoolSettings:
    """How pools are made.

    Attributes:
        compute: threads, device, number format of backbone and training.
        methods: by name.
        backbone: what dualanodiff draws with; None: its arms are left out.
        num_pairs: pairs of a pool before screening.
        batch_size: pairs drawn together.
        screen: the gates.
    """

    compute: ComputeParams
    methods: Mapping[str, MethodSpec]
    backbone: BackboneSpec | None
    num_pairs: int
    batch_size: int
    screen: ScreenParams

    def can_make(self, method: str) -> bool:
        """Whether a pool can be made: dualanodiff needs a backbone."""
        return not isinstance(self.methods[method], DualAnoDiffMethod) or self.backbone is not None


class PoolError(DataError):
    """The shots give no pool: a result of the arm, which the table names, and no end of the run."""


@dataclass(frozen=True, eq=False)
class Pool:
    """A screened pool.

    Attributes:
        kept: what an arm may train on.
        drawn: pairs before screening.
        refused: reason -> pairs.
    """

    kept: tuple[LabelledImage, ...]
    drawn: int
    refused: Mapping[str, int]


def _labelled(one: RealPair, defect: str) -> LabelledImage:
    return LabelledImage(one.sha256, one.image, one.mask, synthetic=False, defect=defect)


class Generators:
    """Opens the backbone once, when it is first needed."""

    def __init__(self, settings: PoolSettings) -> None:
        """Open nothing yet."""
        spec = settings.backbone
        if spec is not None:
            self.identity = cache(lambda: backbone_identity(spec))
            self.open = cache(lambda: open_backbone(spec, compute=settings.compute))


class Draw:
    """The shots of one number and one seed, and the pools made of them; a pool is made once."""

    def __init__(
        self, parts: Parts, m: int, seed: int, *, settings: PoolSettings, generators: Generators, store: ShardStore
    ) -> None:
        """Draw the shots.

        Args:
            parts: of the category.
            m: shots of each defect type.
            seed: of the draw, and of everything drawn afterwards.
            settings: how pools are made.
            generators: opens the backbone.
            store: keeps adapters.
        """
        self.parts, self.m, self.seed = parts, m, seed
        self.shots = {defect: parts.shots(defect, m, seed) for defect in parts.defects}
        self._root = seed_for(seed, "gain_curve", "pools", parts.category, m)
        self._settings, self._generators, self._store = settings, generators, store
        self.pool = cache(self._pool)
        self._adapter = cache(self._train)

    def real_pairs(self) -> tuple[LabelledImage, ...]:
        """The shots as training images."""
        return tuple(_labelled(one, defect) for defect, shots in self.shots.items() for one in shots)

    def other_pairs(self) -> tuple[LabelledImage, ...]:
        """Pictures that might have been shots and are not, of each defect type at most as many as a pool has pairs."""
        return tuple(
            _labelled(one, defect)
            for defect, candidates in self.parts.candidates.items()
            for one in self.parts.shots(defect, len(candidates), self.seed)[self.m :][: self._settings.num_pairs]
        )

    def normals(self) -> tuple[LabelledImage, ...]:
        """The real normals as training images."""
        return tuple(LabelledImage(one.sha256, one.image, None, synthetic=False) for one in self.parts.normals)

    def job(self, method: str, defect: str) -> ShardJob:
        """The plan of a pool; its fingerprint names everything that shapes it, and nothing is trained for it."""
        settings, spec = self._settings, self._settings.methods[method]
        upstream = {
            "parents": self.parts.digest,
            "shots": "-".join(one.sha256 for one in self.shots[defect]),
            "foreground": str(foreground.ALGORITHM),
        }
        shape: dict[str, object] = {"size_px": self.parts.size_px}
        if isinstance(spec, DualAnoDiffMethod):
            shape |= dual_terms.drawing_values(spec)
            upstream["adapter"] = self._subject(spec).fingerprint(spec, settings.compute)
        else:
            shape |= spec.model_dump(mode="json")
        return plan_shards(
            stage="gain_curve",
            pool="pairs",
            category=self.parts.category,
            defect=defect,
            method=method,
            n=settings.num_pairs,
            shard_rows=settings.num_pairs,
            batch_size=settings.batch_size,
            seed=self._root,
            shape=shape,
            compute=settings.compute,
            upstream=upstream,
            algorithm=pairs.algorithm(spec),
        )[0]

    def _pool(self, method: str, defect: str) -> Pool:
        spec, job = self._settings.methods[method], self.job(method, defect)
        try:
            if isinstance(spec, DualAnoDiffMethod):
                made = self._drawn(job, spec, self._adapter(method))
            else:
                made = list(
                    pairs.samples(
                        job,
                        spec=spec,
                        parents=self.parts.normals,
                        shots=self.shots[defect],
                        max_attempts=MAX_ATTEMPTS,
                        size_px=self.parts.size_px,
                    )
                )
        except DataError as error:
            raise PoolError(str(error)) from error
        return self._screened(made, defect)

    def _drawn(self, job: ShardJob, spec: DualAnoDiffMethod, saved: SavedDual) -> list[Sample]:
        opened = self._generators.open()
        dual = open_dual(opened.unet, saved, backbone=opened.identity, text=opened.text)
        assert job.defect is not None
        with two_branches(opened, dual):
            prepared = dual_pairs.prepare(
                opened,
                self.parts.normals,
                self.shots[job.defect],
                adapter=saved.digest,
                terms=dual_terms.terms_from_json(saved.terms),
                defect=job.defect,
                decoder=dual.decoder,
            )
            return list(dual_pairs.samples(job, prepared, spec, max_attempts=MAX_ATTEMPTS))

    def _train(self, method: str) -> SavedDual:
        spec, settings = self._settings.methods[method], self._settings
        assert isinstance(spec, DualAnoDiffMethod)
        subject = self._subject(spec)
        found = stored_dual(subject.fingerprint(spec, settings.compute), self._store)
        if found is not None:
            return found
        opened: LatentDiffusion = self._generators.open()
        return fit(opened, self.shots, subject, spec, compute=settings.compute, store=self._store)

    def _subject(self, spec: DualAnoDiffMethod) -> PairSubject:
        """One adapter for all defect types of the draw."""
        assert spec.background == "off"
        return PairSubject(
            category=self.parts.category,
            name=self.parts.name,
            defects=tuple((one, PHRASES.get((self.parts.category, one), one)) for one in self.parts.defects),
            mirror=self.parts.mirror,
            max_turn_deg=self.parts.max_turn_deg,
            shot_ids={defect: tuple(one.sha256 for one in shots) for defect, shots in self.shots.items()},
            size_px=self.parts.size_px,
            backbone=self._generators.identity(),
            seed=self._root,
        )

    def _screened(self, made: list[Sample], defect: str) -> Pool:
        real = {one.sha256: one.image for one in self.parts.normals}
        shots: Iterable[RealPair] = self.shots[defect]
        verdicts = list(
            judge_pairs(
                made,
                foreground_of=ObjectMasks(real.get).mask,
                shots=NearestShot([one.image for one in shots], others=list(real.values())),
                limits=self._settings.screen,
            )
        )
        refused = Counter(verdict.reason for verdict in verdicts if not verdict.keep)
        prefix = f"m{self.m}-seed{self.seed}"
        kept = tuple(
            LabelledImage(f"{prefix}-{one.sample_id}", one.image, one.mask, synthetic=True, defect=defect)
            for one, verdict in zip(made, verdicts, strict=True)
            if verdict.keep
        )
        return Pool(kept, len(made), dict(sorted(refused.items())))
