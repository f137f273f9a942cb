"""What each arm of a comparison trains on: real shots, and the synthetic samples that screening kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anosynth.detectors.protocol import LabelledImage
from anosynth.errors import ParamsError, ShardError
from anosynth.fingerprint import digest_bytes, digest_pixels, digest_value
from anosynth.licences import most_restrictive
from anosynth.params import ArmParams
from anosynth.samples import Sample, Verdict
from anosynth.shards.manifest import manifest_bytes, read_manifest
from anosynth.shards.read import read_rows, read_samples

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairPool:
    """One sealed pool of pairs that an arm may use.

    Attributes:
        defect, method: of the pool.
        folder: where it lies.
    """

    defect: str
    method: str
    folder: Path


@dataclass(frozen=True)
class ArmData:
    """What one arm is trained on.

    Attributes:
        normals, pairs: the images.
        counts: images by where they come from: "real_normals", "real_pairs", "synthetic_normals",
            "round_tripped_normals", and "pairs_<method>" for every method.
        digests: identity of each part, by the same names with the defect type where there is one; equal digests mean
            equal training data.
        licence: the most restrictive licence of all images used.
    """

    normals: tuple[LabelledImage, ...]
    pairs: tuple[LabelledImage, ...]
    counts: Mapping[str, int]
    digests: Mapping[str, str]
    licence: str


@dataclass(frozen=True)
class _Part:
    images: tuple[LabelledImage, ...]
    digest: str
    licences: tuple[str, ...]


class ArmReader:
    """Puts the data of arms together for one category; every pool is read once, whatever the number of arms."""

    def __init__(
        self,
        *,
        category: str,
        real_normals: Sequence[LabelledImage],
        real_pairs: Sequence[LabelledImage],
        real_licences: Sequence[str],
        normal_pool: Path,
        round_trip_pool: Path,
        pair_pools: Sequence[PairPool],
        verdicts: Mapping[str, Verdict],
    ) -> None:
        """Take the real images and note where the pools are.

        Args:
            category: slug, for messages.
            real_normals: real normal training images.
            real_pairs: real anomalous training images with masks.
            real_licences: distinct licences of the real images.
            normal_pool: folder of the synthetic normals.
            round_trip_pool: folder of the normal shots that went through the generator; copies of the shots by design,
                so screening does not judge them.
            pair_pools: the category's pools of pairs.
            verdicts: sample id -> what screening said; a sample without one is an error.
        """
        self._category = category
        self._real_normals = _real(real_normals, real_licences)
        self._real_pairs = _real(real_pairs, real_licences)
        self._normal_pool = normal_pool
        self._round_trip_pool = round_trip_pool
        self._pair_pools = tuple(pair_pools)
        self._verdicts = verdicts
        self._read: dict[Path, _Part] = {}

    def read(self, name: str, arm: ArmParams) -> ArmData:
        """Put together what an arm trains on.

        Raises:
            ParamsError: if the arm names a method that has no pool in this category, or uses nothing at all.
            ShardError: if a pool is unfinished or damaged, or screening has not seen it.
        """
        there = {pool.method for pool in self._pair_pools}
        for method in arm.methods:
            if method not in there:
                raise ParamsError(
                    f"arms.{name}: the method {method!r} has no pool of pairs for category {self._category}; "
                    f"there: {', '.join(sorted(there)) or 'none'}; add one to grid.pairs or take it out of the arm"
                )
        normals: dict[str, _Part] = {}
        pairs: dict[str, _Part] = {}
        counts: dict[str, int] = {}
        if arm.real_normals:
            normals["real_normals"] = self._real_normals
        if arm.synthetic_normals:
            normals["synthetic_normals"] = self._pool(self._normal_pool)
        if arm.round_tripped_normals:
            normals["round_tripped_normals"] = self._unscreened(self._round_trip_pool)
        if arm.real_pairs:
            pairs["real_pairs"] = self._real_pairs
        counts.update({key: len(part.images) for key, part in {**normals, **pairs}.items()})
        for pool in self._pair_pools:
            if pool.method in arm.methods:
                part = pairs[f"pairs_{pool.method}/{pool.defect}"] = self._pool(pool.folder)
                key = f"pairs_{pool.method}"
                counts[key] = counts.get(key, 0) + len(part.images)
        used = {**normals, **pairs}
        if not any(counts.values()):
            raise ParamsError(f"arms.{name}: there is no image to train on for category {self._category}")
        for key, count in counts.items():
            if count == 0:
                _log.warning("arm %s of %s: %s is empty", name, self._category, key)
        return ArmData(
            normals=tuple(image for part in normals.values() for image in part.images),
            pairs=tuple(image for part in pairs.values() for image in part.images),
            counts=counts,
            digests={key: part.digest for key, part in used.items()},
            licence=most_restrictive(licence for part in used.values() for licence in part.licences),
        )

    def _unscreened(self, folder: Path) -> _Part:
        if folder not in self._read:
            digest = digest_value({"manifest": digest_bytes(manifest_bytes(read_manifest(folder)))})
            self._read[folder] = _synthetic(list(read_samples(folder)), digest)
        return self._read[folder]

    def _pool(self, folder: Path) -> _Part:
        if folder not in self._read:
            manifest = read_manifest(folder)
            rows = read_rows(folder, ["sample_id"])["sample_id"].to_pylist()
            unseen = [sample_id for sample_id in rows if sample_id not in self._verdicts]
            if unseen:
                raise ShardError(
                    f"{folder}: screening has not seen {len(unseen)} of {len(rows)} samples, the first is {unseen[0]}; "
                    f"run: dvc repro screen@{self._category}"
                )
            kept = [sample_id for sample_id in rows if self._verdicts[sample_id].keep]
            samples = list(read_samples(folder, keep=kept)) if kept else []
            digest = digest_value({"manifest": digest_bytes(manifest_bytes(manifest)), "kept": kept})
            self._read[folder] = _synthetic(samples, digest)
        return self._read[folder]


def _synthetic(samples: Sequence[Sample], digest: str) -> _Part:
    return _Part(
        images=tuple(
            LabelledImage(
                s.sample_id,
                s.image,
                s.mask,
                synthetic=True,
                defect=s.spec.defect,
                free=s.provenance.parent_id is None,
            )
            for s in samples
        ),
        digest=digest,
        licences=tuple(sorted({s.provenance.licence for s in samples})),
    )


def _real(images: Sequence[LabelledImage], licences: Sequence[str]) -> _Part:
    said = [
        [digest_pixels(item.image), None if item.mask is None else digest_pixels(item.mask), item.defect]
        for item in images
    ]
    return _Part(tuple(images), digest_value(said), tuple(licences) if images else ())
