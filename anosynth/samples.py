"""The frozen types that flow between stages: records, shots, samples, shard jobs, verdicts, predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from anosynth.errors import DataError
from anosynth.seeding import seed_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

Role = Literal["train", "val", "test"]
ROLES: tuple[Role, ...] = ("train", "val", "test")
Pool = Literal["normals", "pairs"]
POOLS: tuple[Pool, ...] = ("normals", "pairs")


@dataclass(frozen=True)
class Record:
    """One real image as the index table describes it (no pixels).

    Attributes:
        path: file path relative to the source's root, POSIX separators, any Unicode.
        category: slug of the product, for example "washer".
        defect: slug of the defect type; None for a normal image.
        mask_path: path of the mask relative to the source's root; None for a normal image, and for an anomalous one if
            its source labels whole images.
        role: "train", "val" or "test".
        group: items of one group are never split (one physical part, one position). Defaults to the path in sources.
        licence: SPDX-like licence text of the image, never empty.
        sha256: digest of the decoded RGB pixels (`fingerprint.digest_pixels`).
        phash: 64-bit perceptual hash, 16 hexadecimal characters.
        height, width: pixels.
    """

    path: str
    category: str
    defect: str | None
    mask_path: str | None
    role: Role
    group: str
    licence: str
    sha256: str
    phash: str
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.mask_path is not None and self.defect is None:
            raise DataError(f"{self.path}: a normal image has the mask {self.mask_path}; remove it or name its defect")
        if self.role not in ROLES:
            raise DataError(f"{self.path}: role is {self.role!r}; allowed are {', '.join(ROLES)}")
        if not self.licence:
            raise DataError(f"{self.path}: no licence; set source.licence in params.yaml")
        if self.height < 1 or self.width < 1:
            raise DataError(f"{self.path}: size is {self.width} x {self.height} px")

    @property
    def is_image_level(self) -> bool:
        """Whether the image is anomalous and nobody says where: it has no mask."""
        return self.defect is not None and self.mask_path is None


@dataclass(frozen=True)
class Shot:
    """One training image chosen by `select_shots`.

    Attributes:
        record: the image; its role is "train".
        rank: position in the selection order, from 0. The k-set is the ranks below k.
        kind: "normal" or "anomalous".
    """

    record: Record
    rank: int
    kind: Literal["normal", "anomalous"]

    def __post_init__(self) -> None:
        if self.record.role != "train":
            raise DataError(
                f"{self.record.path} has role {self.record.role!r} and cannot be a shot; shots come from train only"
            )
        if (self.record.defect is None) != (self.kind == "normal"):
            raise DataError(f"{self.record.path}: kind {self.kind!r} contradicts defect {self.record.defect!r}")


@dataclass(frozen=True)
class SampleSpec:
    """What one synthetic sample will be, before it is made: a pure function of params and index.

    Attributes:
        pool: "normals" or "pairs".
        category, defect, method: slugs; defect is None for the normal pool.
        index: position in the pool, from 0.
        seed: `seed_for(root, stage, category, defect, method, index)`, in [0, 2**63).
    """

    pool: Pool
    category: str
    defect: str | None
    method: str
    index: int
    seed: int

    @property
    def sample_id(self) -> str:
        """`<pool>/<category>/<defect or ->/<method>/<index:06d>`, unique over the project."""
        return f"{self.pool}/{self.category}/{self.defect or '-'}/{self.method}/{self.index:06d}"


@dataclass(frozen=True)
class Provenance:
    """Where a sample comes from; stored with every row.

    Attributes:
        shot_ids: sha256 of the real shots that shaped it (adapter training set, or the shots a texture was cut from).
        licence: the most restrictive licence of its sources.
        prompt: text the generator was given, or None.
        parent_id: sha256 of the real image, or sample_id of the sample, that it was made from; None for free samples.
        backbone, adapter: digests, or None for methods without diffusion.
    """

    shot_ids: tuple[str, ...]
    licence: str
    prompt: str | None = None
    parent_id: str | None = None
    backbone: str | None = None
    adapter: str | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """One synthetic image, with its mask if it is anomalous.

    Attributes:
        spec: what was asked for.
        image: uint8 RGB [H, W, 3].
        mask: uint8 [H, W], values {0, 255}, with foreground and background; None if and only if the pool is "normals".
        part: anomaly-part image of a dual-branch generator, uint8 [H, W, 3], or None.
        attempt: how many earlier draws of this sample were discarded, from 0.
        mask_confidence: [0, 1]; 1 where the mask is exact by construction.
    """

    spec: SampleSpec
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None
    provenance: Provenance
    part: NDArray[np.uint8] | None = None
    attempt: int = 0
    mask_confidence: float = 1.0

    def __post_init__(self) -> None:
        name = self.spec.sample_id
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            raise ValueError(f"{name}: image must be uint8 [H, W, 3], got {self.image.dtype} {list(self.image.shape)}")
        if (self.mask is None) != (self.spec.pool == "normals"):
            raise ValueError(f"{name}: a mask belongs to pairs and to pairs only")
        if self.mask is not None:
            check_mask(self.mask, self.image.shape[:2], name)
        if self.part is not None and (self.part.dtype != np.uint8 or self.part.shape != self.image.shape):
            raise ValueError(f"{name}: part must be uint8 {list(self.image.shape)}, got {list(self.part.shape)}")
        if not 0.0 <= self.mask_confidence <= 1.0:
            raise ValueError(f"{name}: mask_confidence is {self.mask_confidence}; it must lie in [0, 1]")
        for array in (self.image, self.mask, self.part):
            if array is not None:
                array.setflags(write=False)

    @property
    def sample_id(self) -> str:
        """See `SampleSpec.sample_id`."""
        return self.spec.sample_id

    @property
    def mask_area(self) -> float:
        """Share of foreground pixels, [0, 1]; 0 for normals."""
        return 0.0 if self.mask is None else float(np.count_nonzero(self.mask)) / self.mask.size


def check_mask(mask: NDArray[np.uint8], size: tuple[int, ...], name: str) -> None:
    """Check that a mask is uint8 [H, W] in {0, 255} of the given size, with foreground and background.

    Raises:
        ValueError: naming `name` and what was found.
    """
    if mask.dtype != np.uint8 or mask.shape != tuple(size):
        raise ValueError(f"{name}: mask must be uint8 {list(size)}, got {mask.dtype} {list(mask.shape)}")
    foreground = mask == 255
    if not np.all(foreground | (mask == 0)):
        raise ValueError(f"{name}: mask values must be 0 or 255, got {np.unique(mask)[:8].tolist()}")
    covered = int(np.count_nonzero(foreground))
    if covered == 0:
        raise ValueError(f"{name}: mask is empty")
    if covered == mask.size:
        raise ValueError(f"{name}: mask covers the whole image")


@dataclass(frozen=True)
class ShardJob:
    """One shard of a pool, planned: the samples [start, stop), cut into batches inside the shard.

    Attributes:
        pool, category, defect, method: as in SampleSpec.
        shard: index of the shard in its pool, from 0.
        start, stop: sample indices, start < stop.
        batch_size: samples per batch; the last batch of a shard may be shorter.
        seed: root seed.
        stage: name of the stage, first part of every sample's seed address.
        fingerprint: digest of everything that shapes the bytes of this shard (docs/architecture.md, "Shards").
        plan: digest of the plan without the shard's range, equal for all shards of a pool.
        shape: the parameter values that went into the fingerprint, for the footer.
        compute, upstream, algorithm: the rest of what went into it: threads, dtype and device; digests of what the
            samples are made from, by name; revision of the generating module.
    """

    pool: Pool
    category: str
    defect: str | None
    method: str
    shard: int
    start: int
    stop: int
    batch_size: int
    seed: int
    stage: str
    fingerprint: str
    plan: str
    shape: Mapping[str, object] = field(hash=False)
    compute: Mapping[str, object] = field(default_factory=dict, hash=False)
    upstream: Mapping[str, str] = field(default_factory=dict, hash=False)
    algorithm: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"shard {self.shard}: start {self.start} must be below stop {self.stop} and not negative")
        if self.batch_size < 1:
            raise ValueError(f"shard {self.shard}: batch_size is {self.batch_size}; it must be at least 1")

    def specs(self) -> tuple[SampleSpec, ...]:
        """The shard's samples in order; each depends on its own index alone."""
        return tuple(
            SampleSpec(
                pool=self.pool,
                category=self.category,
                defect=self.defect,
                method=self.method,
                index=index,
                seed=seed_for(self.seed, self.stage, self.category, self.defect or "-", self.method, index),
            )
            for index in range(self.start, self.stop)
        )

    def batches(self) -> tuple[tuple[SampleSpec, ...], ...]:
        """`specs()` cut into batches of at most `batch_size`, in order."""
        specs = self.specs()
        return tuple(specs[at : at + self.batch_size] for at in range(0, len(specs), self.batch_size))


@dataclass(frozen=True)
class Verdict:
    """What screening decided about one sample.

    Attributes:
        sample_id: of the sample.
        reason: "" if the sample is kept, else the name of the first gate that refused it.
        measures: every number the gates computed, by name.
    """

    sample_id: str
    reason: str
    measures: Mapping[str, float]

    @property
    def keep(self) -> bool:
        """True if no gate refused the sample."""
        return self.reason == ""


@dataclass(frozen=True, eq=False)
class Prediction:
    """A detector's answer for one image.

    Attributes:
        id: of the image (sha256 of its record).
        score: finite; higher is more anomalous.
        anomaly_map: float32 [H, W] at the size of the image it was given; higher is more anomalous.
    """

    id: str
    score: float
    anomaly_map: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.anomaly_map.dtype != np.float32 or self.anomaly_map.ndim != 2:
            raise ValueError(f"{self.id}: anomaly_map must be float32 [H, W], got {self.anomaly_map.dtype}")
        if not (np.isfinite(self.score) and np.isfinite(self.anomaly_map).all()):
            raise ValueError(f"{self.id}: score and anomaly_map must be finite")
        self.anomaly_map.setflags(write=False)


def record_to_json(record: Record) -> dict[str, object]:
    """Return a record as a JSON object."""
    return asdict(record)


def record_from_json(value: Mapping[str, object]) -> Record:
    """Rebuild a record from `record_to_json`; unknown or missing keys raise DataError."""
    try:
        return Record(**value)  # type: ignore[arg-type]
    except TypeError as error:
        raise DataError(f"a record has wrong fields: {error}") from error
