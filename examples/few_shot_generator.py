"""The generator of examples/few_shot.py: a backbone taught the references of one draw, its twins and its pool."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from few_shot_sets import Part, Picture, Unit
from pydantic import TypeAdapter

from anosynth.detectors.personalizer import TwinSource
from anosynth.detectors.protocol import LabelledImage
from anosynth.diffusion.adapters import Adapter
from anosynth.diffusion.decoder import personalized
from anosynth.diffusion.latent import LatentDiffusion, backbone_identity, open_backbone
from anosynth.diffusion.personalize import Subject, personalize, stored_adapter
from anosynth.diffusion.views import NormalViews
from anosynth.fingerprint import digest_file, digest_value
from anosynth.imaging import resize_image
from anosynth.params import (
    BackboneSpec,
    ComputeParams,
    DetectorSpec,
    GenerateNormalsParams,
    OneToNormalSpec,
    PersonalizeNormalsParams,
)
from anosynth.pools import normals
from anosynth.pools.real import RealNormal
from anosynth.samples import ShardJob
from anosynth.seeding import seed_for
from anosynth.shards.plan import plan_shards
from anosynth.shards.store import ShardStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 2
GENERATOR_PX = 128


@dataclass(frozen=True)
class Settings:
    """Everything but the cell that decides a number.

    Attributes:
        compute: threads, device.
        encoder_px: side of the encoders' input.
        backbone: draws twins and pools; None: neither.
        adapting: how the backbone learns the references.
        pool: of generated normals; None: cells without a pool only.
        projection: file of tasks.train_projection; None: the encoders' closed form.
    """

    compute: ComputeParams
    encoder_px: int
    backbone: BackboneSpec | None
    adapting: PersonalizeNormalsParams
    pool: GenerateNormalsParams | None
    projection: str | None = None

    def digest(self, spec: DetectorSpec, *, part: Part, pool: bool) -> str:
        """Of all that shapes a cell of a detector beside its pictures and the revisions of the code."""
        draws = isinstance(spec, OneToNormalSpec) and "personalized" in spec.branches
        generating = (self.adapting, self.backbone) if draws or pool else ()
        every = (self.compute, spec, *generating, *((self.pool,) if pool else ()))
        identity = backbone_identity(self.backbone) if generating and self.backbone is not None else ""
        return digest_value(
            {
                "version": VERSION,
                "part": part,
                "encoder_px": self.encoder_px,
                "backbone": identity,
                "settings": [one.model_dump(mode="json") if one is not None else None for one in every],
                **({} if self.projection is None else {"projection": digest_file(Path(self.projection))}),
            }
        )


class StoredTwins:
    """Keeps twins in the store, so that detectors of one draw share them; satisfies `personalizer.TwinMemory`."""

    def __init__(self, store: ShardStore, compute: ComputeParams) -> None:
        """Keep twins of one arithmetic apart from those of another.

        Args:
            store: holds the pictures.
            compute: of the arithmetic.
        """
        self._store, self._compute = store, digest_value(compute.model_dump(mode="json"))

    def get(self, key: str) -> NDArray[np.uint8] | None:
        """See `personalizer.TwinMemory.get`."""
        data = self._store.get_blob(self._name(key))
        if data is None:
            return None
        values = np.frombuffer(zlib.decompress(data), np.uint8)
        return values.reshape(-1, GENERATOR_PX, GENERATOR_PX, 3)

    def put(self, key: str, pictures: NDArray[np.uint8]) -> None:
        """See `personalizer.TwinMemory.put`."""
        self._store.put_blob(self._name(key), zlib.compress(np.ascontiguousarray(pictures).tobytes(), level=1))

    def _name(self, key: str) -> str:
        return f"twins/{self._compute}/{key}"


class Generator:
    """The backbone, taught the references of one draw."""

    def __init__(
        self, settings: Settings, unit: Unit, references: Sequence[Picture], seed: int, *, store: ShardStore
    ) -> None:
        """Train nothing yet.

        Args:
            settings: backbone and how it learns.
            unit: whose references they are.
            references: the k shots.
            seed: of training and of the pool.
            store: keeps adapters.
        """
        self._settings, self._unit, self._store = settings, unit, store
        self._slug, self._seed = f"{unit.set_name}-{unit.name}", seed_for(seed, "few_shot", "generator", unit.part)
        size_px = (GENERATOR_PX, GENERATOR_PX)
        self._shots = [
            RealNormal(resize_image(one.image, size_px=size_px), one.digest, unit.licence) for one in references
        ]
        self.source = TwinSource(
            open_backbone=cache(self._open),
            backbone_identity=cache(lambda: backbone_identity(self._spec)),
            read_adapter=cache(self._adapter),
            size_px=GENERATOR_PX,
            memory=StoredTwins(store, settings.compute),
        )
        self.pool = cache(self._pool)

    @property
    def _spec(self) -> BackboneSpec:
        assert self._settings.backbone is not None, "a detector without a backbone asked for a twin"
        return self._settings.backbone

    def _open(self) -> LatentDiffusion:
        return _opened(self._spec.model_dump_json(), self._settings.compute.model_dump_json())

    def _adapter(self) -> Adapter:
        subject = Subject(
            category=self._slug,
            name=self._unit.object_name,
            allowed=NormalViews(),
            shot_ids=tuple(shot.sha256 for shot in self._shots),
            size_px=GENERATOR_PX,
            backbone=self.source.backbone_identity(),
            seed=self._seed,
        )
        adapting, compute = self._settings.adapting, self._settings.compute
        found = stored_adapter(subject.fingerprint(adapting, compute), self._store)
        if found is not None:
            return found
        images = [shot.image for shot in self._shots]
        return personalize(self.source.open_backbone(), images, subject, adapting, compute=compute, store=self._store)

    def jobs(self) -> tuple[ShardJob, ...]:
        """The plan of the pool; its fingerprints name everything that shapes it."""
        pool = self._settings.pool
        assert pool is not None, "a cell with a pool was asked for without one"
        return plan_shards(
            stage="few_shot",
            pool="normals",
            category=self._slug,
            defect=None,
            method=normals.METHOD,
            n=pool.n,
            shard_rows=pool.shard_rows,
            batch_size=pool.batch_size,
            seed=self._seed,
            shape={"size_px": GENERATOR_PX, "name": self._unit.object_name, **pool.model_dump(mode="json")},
            compute=self._settings.compute,
            upstream={
                "shots": digest_value([shot.sha256 for shot in self._shots]),
                "backbone": self.source.backbone_identity(),
                "adapter": self.source.read_adapter().digest,
            },
            algorithm=normals.ALGORITHM,
        )

    def _pool(self) -> tuple[LabelledImage, ...]:
        pool, adapter, backbone = self._settings.pool, self.source.read_adapter(), self.source.open_backbone()
        assert pool is not None
        with personalized(backbone, adapter):
            prepared = normals.prepare(
                backbone, self._shots, adapter=adapter.digest, name=self._unit.object_name, settings=pool
            )
            found = [sample for job in self.jobs() for sample in normals.samples(job, prepared, pool)]
        return tuple(
            LabelledImage(one.spec.sample_id, one.image, None, synthetic=True, free=one.provenance.parent_id is None)
            for one in found
        )


@cache
def _opened(backbone: str, compute: str) -> LatentDiffusion:
    spec: BackboneSpec = TypeAdapter(BackboneSpec).validate_json(backbone)
    return open_backbone(spec, compute=ComputeParams.model_validate_json(compute))
