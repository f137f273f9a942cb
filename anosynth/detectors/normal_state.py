"""What One-to-Normal knows after fitting: the bundle of one category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.detectors.calibration import Usual
from anosynth.detectors.presets import BRANCHES, Branch
from anosynth.detectors.triplet import Bank
from anosynth.diffusion.adapters import Adapter, adapter_from_bytes, adapter_to_bytes
from anosynth.errors import DataError
from anosynth.features.k_center import greedy_k_center
from anosynth.fingerprint import digest_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIGEST_BYTES = 32


@dataclass(frozen=True, eq=False)
class References:
    """The normal images of a category as patches, level by level.

    Attributes:
        real: patches of the references, per level float32 [R, gh, gw, D_l]; each followed by its mirror images that
            count as normal too.
        synthetic: patches of the generated images of the bank, per level [N, gh, gw, D_l].
        parents: for every generated image the reference it resembles most, int64 [N].
        digests: of the references' pixels.
        aspects: width over height of the references, the least and the greatest.
        views: of each reference among `real`, 1 without mirror images.
    """

    real: tuple[NDArray[np.float32], ...]
    synthetic: tuple[NDArray[np.float32], ...]
    parents: NDArray[np.int64]
    digests: tuple[str, ...]
    aspects: tuple[float, float]
    views: int = 1

    @property
    def grid(self) -> tuple[int, int]:
        """Patches per column and per row."""
        rows, columns = self.real[0].shape[1:3]
        return rows, columns

    def banks(self, *, synthetic_weight: float, without: int | None = None) -> tuple[Bank, ...]:
        """The bank of every level; `without` a reference, the generated images that resemble it go as well."""
        kept = np.arange(len(self.real[0])) // self.views != (-1 if without is None else without)
        others = self.parents != (-1 if without is None else without)
        return tuple(
            Bank(_flat(real[kept]), _flat(made[others]), synthetic_weight)
            for real, made in zip(self.real, self.synthetic, strict=True)
        )

    def check_query(self, name: str, image: NDArray[np.uint8], *, aspect_tolerance: float | None) -> None:
        """Refuse a query that cannot be judged.

        Args:
            name: of the query, for errors.
            image: the query.
            aspect_tolerance: factor that its aspect ratio may leave the references' range by; None allows any.

        Raises:
            DataError: if it is no 8-bit RGB, of another aspect ratio than the references, or one of them.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DataError(
                f"{name}: a query is 8-bit RGB, [H, W, 3]; this one is {image.dtype} {list(image.shape)}, so convert it"
            )
        aspect, (least, greatest) = image.shape[1] / image.shape[0], self.aspects
        beyond = max(least / aspect, aspect / greatest)
        if aspect_tolerance is not None and beyond > aspect_tolerance:
            raise DataError(
                f"{name}: width over height is {aspect:.3f}, of the references {least:.3f} to {greatest:.3f}; squashed "
                "to one square they are not comparable, so crop the query like them, or widen aspect_tolerance"
            )
        if digest_pixels(image) in self.digests:
            raise DataError(
                f"{name}: the query is one of the references, pixel by pixel, and would judge itself; leave it out"
            )


def synthetic_choice(real: NDArray[np.float32], synthetic: NDArray[np.float32], *, count: int) -> NDArray[np.int64]:
    """Choose generated images for the bank: each the farthest from the references' mean and from those chosen.

    Args:
        real: one descriptor per reference, float32 [R, D].
        synthetic: one per generated image, float32 [N, D].
        count: how many, at most N are taken.

    Returns:
        Indices, in the order of the images.
    """
    count = min(count, len(synthetic))
    if count <= 0:
        return np.zeros(0, dtype=np.int64)
    points = np.concatenate([real.mean(axis=0, keepdims=True), synthetic]).astype(np.float32)
    return np.sort(greedy_k_center(points, k=count + 1, first=0)[1:] - 1)


def nearest_reference(
    real: Sequence[NDArray[np.float32]], synthetic: Sequence[NDArray[np.float32]]
) -> NDArray[np.int64]:
    """Index of the reference whose patches at the same places are nearest to each generated image's, int64 [N].

    Args:
        real: per level [R, gh, gw, D_l].
        synthetic: per level [N, gh, gw, D_l].
    """
    nearest = []
    for at in range(len(synthetic[0])):
        apart = [
            ((made[at][None] - own) ** 2).sum(axis=-1).mean(axis=(1, 2))
            for own, made in zip(real, synthetic, strict=True)
        ]
        nearest.append(int(np.argmin(np.sum(apart, axis=0))))
    return np.array(nearest, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class NormalState:
    """Everything that fitting decides.

    Attributes:
        references: the bank.
        prototypes: of the normal and the abnormal prompts, float32 [2, E].
        adapter: the generator's, or None if twins are not drawn.
        seed: root of the twins' noise.
        strength: r.
        place_weight: of S_N.
        positions: usual S_P per level and place, or None if it is not calibrated.
        branches: usual score of every branch that counts.
        weights: what every branch counts in the sum.
        standardized: branches are standardized before they are added.
        alone: usual sum of the branches that need no twin, for the cascade.
        threshold: a score above it is a verdict "anomalous".
    """

    references: References
    prototypes: NDArray[np.float32]
    adapter: Adapter | None
    seed: int
    strength: float
    place_weight: float
    positions: Usual | None
    branches: Mapping[Branch, Usual]
    weights: Mapping[Branch, float]
    standardized: bool
    alone: Usual
    threshold: float

    def against_usual(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """S_P's map [n, gh, gw], as a z-score per place and level if it is calibrated."""
        return maps if self.positions is None else self.positions.standardized(maps).astype(np.float32)

    def part(self, branch: Branch, value: float) -> float:
        """What a branch adds to the score: its weight times its own, standardized if the state says so."""
        factor, shift = self._line(branch)
        return factor * value + shift

    def part_map(self, branch: Branch, grid: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a branch adds to the fused map; see `part`."""
        factor, shift = self._line(branch)
        return (factor * grid + shift).astype(np.float32)

    def _line(self, branch: Branch) -> tuple[float, float]:
        weight, usual = self.weights[branch], self.branches[branch]
        if not self.standardized:
            return weight, 0.0
        return weight / float(usual.spread), -weight * float(usual.mean) / float(usual.spread)

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """The state as named arrays; `from_tensors` is the exact inverse."""
        own = self.references
        found: dict[str, NDArray[np.generic]] = {
            "prototypes": self.prototypes,
            "parents": own.parents,
            "digests": np.frombuffer(bytes.fromhex("".join(own.digests)), np.uint8).reshape(-1, DIGEST_BYTES),
            "aspects": np.array(own.aspects),
            "views": np.array([own.views], np.int64),
            "seed": np.array([self.seed], np.int64),
            "numbers": np.array([self.strength, self.alone.mean, self.alone.spread, self.threshold, self.place_weight]),
            "standardized": np.array([self.standardized]),
        }
        for level, (real, synthetic) in enumerate(zip(own.real, own.synthetic, strict=True)):
            found |= {f"real/{level}": real, f"synthetic/{level}": synthetic}
        for branch, usual in self.branches.items():
            found[f"branch/{branch}"] = np.array([usual.mean, usual.spread, self.weights[branch]])
        if self.positions is not None:
            found |= {"positions/mean": self.positions.mean, "positions/spread": self.positions.spread}
        if self.adapter is not None:
            found["adapter"] = np.frombuffer(adapter_to_bytes(self.adapter), np.uint8)
        return found

    @classmethod
    def from_tensors(cls, found: Mapping[str, NDArray[np.generic]], *, name: str) -> NormalState:
        """Rebuild a state.

        Args:
            found: what `tensors` gave.
            name: of the folder, for errors.

        Raises:
            BackboneError: if the adapter is damaged.
        """
        levels = range(sum(key.startswith("real/") for key in found))
        digests = np.asarray(found["digests"], np.uint8)
        least, greatest = (float(value) for value in np.asarray(found["aspects"], np.float64))
        numbers = np.asarray(found["numbers"], np.float64)
        strength, mean, spread, threshold, place_weight = (float(value) for value in numbers)
        own = {
            branch: np.asarray(found[f"branch/{branch}"], np.float64)
            for branch in BRANCHES
            if f"branch/{branch}" in found
        }
        positions = None
        if "positions/mean" in found:
            positions = Usual(_float32(found["positions/mean"]), _float32(found["positions/spread"]))
        return cls(
            references=References(
                tuple(_float32(found[f"real/{level}"]) for level in levels),
                tuple(_float32(found[f"synthetic/{level}"]) for level in levels),
                np.asarray(found["parents"], np.int64),
                tuple(row.tobytes().hex() for row in digests),
                (least, greatest),
                int(np.asarray(found["views"], np.int64)[0]),
            ),
            prototypes=_float32(found["prototypes"]),
            adapter=adapter_from_bytes(found["adapter"].tobytes(), name=f"{name}: adapter")
            if "adapter" in found
            else None,
            seed=int(np.asarray(found["seed"], np.int64)[0]),
            strength=strength,
            place_weight=place_weight,
            positions=positions,
            branches={branch: Usual(*row[:2]) for branch, row in own.items()},
            weights={branch: float(row[2]) for branch, row in own.items()},
            standardized=bool(found["standardized"][0]),
            alone=Usual(np.array(mean), np.array(spread)),
            threshold=threshold,
        )


def _flat(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(patches.reshape(-1, patches.shape[-1]))


def _float32(values: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)
