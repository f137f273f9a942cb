"""The branches of One-to-Normal on one image: from a picture to the maps of S_P, S_N and S_text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.detectors import calibration, presets, triplet
from anosynth.detectors.normal_state import References
from anosynth.detectors.personalizer import Drawn, Personalizer
from anosynth.detectors.presets import Branch
from anosynth.detectors.triplet import Bank
from anosynth.features.aligned import AlignedFeatures
from anosynth.features.ssim import lowest
from anosynth.params import OneToNormalSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Seen:
    """One image and what needs no twin.

    Attributes:
        image: uint8 RGB [H, W, 3].
        banks: the normal patches it is compared with, from `Branches.banks`.
        maps: S_N's and S_text's [levels, gh, gw], if those branches count.
    """

    image: NDArray[np.uint8]
    banks: tuple[Bank, ...]
    maps: dict[Branch, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Against:
    """One image against its normal twin.

    Attributes:
        maps: S_P's, not calibrated, float32 [n, gh, gw].
        twin: the twin to show, uint8 RGB [S, S, 3].
    """

    maps: NDArray[np.float32]
    twin: NDArray[np.uint8]


class Branches:
    """Computes maps with frozen parts; knows nothing of calibration and fusion."""

    def __init__(
        self,
        features: AlignedFeatures,
        spec: OneToNormalSpec,
        prototypes: NDArray[np.float32],
        *,
        place_weight: float,
    ) -> None:
        """Keep the parts.

        Args:
            features: the frozen encoder.
            spec: which branches count, and the switches.
            prototypes: of the normal and the abnormal prompts, float32 [2, E]; unused without the text branch.
            place_weight: of S_N; see `triplet.nearest_normal`.
        """
        self._place_weight = place_weight
        self._features, self._spec, self._prototypes = features, spec, prototypes
        self._switches = presets.switches(spec)
        everywhere = self._switches.visual_levels == "all"
        self._visual = tuple(range(features.levels)) if everywhere else features.local_levels

    def banks(self, references: References, *, without: int | None = None) -> tuple[Bank, ...]:
        """The bank as S_N looks at it; see `References.banks`."""
        banks = references.banks(synthetic_weight=self._switches.synthetic_weight, without=without)
        real, made = (self._compared([getattr(bank, kind) for bank in banks]) for kind in ("real", "synthetic"))
        return tuple(Bank(*pair, banks[0].synthetic_weight) for pair in zip(real, made, strict=True))

    def patches(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Patches of images as S_P and S_N look at them, per level float32 [B, gh, gw, D_l]."""
        return self._compared(self._features.patch_levels(images))

    def see(self, image: NDArray[np.uint8], banks: tuple[Bank, ...]) -> Seen:
        """Compare an image with the bank and with text.

        Args:
            image: uint8 RGB [H, W, 3].
            banks: from `banks`.
        """
        maps: dict[Branch, NDArray[np.float32]] = {}
        if set(self._spec.branches) != {"personalized"}:
            patches = [level[0] for level in self._features.patch_levels([image])]
            if "normal" in self._spec.branches:
                maps["normal"] = self._against_bank(self._compared(patches), banks)
            if "text" in self._spec.branches:
                maps["text"] = triplet.text_probability(patches, self._prototypes, self._features)
        return Seen(image, banks, maps)

    def against_twins(
        self, seen: Sequence[Seen], generator: Personalizer, *, strength: float, repair: bool
    ) -> list[Against]:
        """Draw the twins of images and compare.

        Args:
            seen: the images.
            generator: draws.
            strength: r.
            repair: whether the second pass may run, if its switch is on.
        """
        drawn = generator.draw([one.image for one in seen], strength=strength)
        bases = [self.patches([one.base]) for one in drawn]
        found = [self._first_pass(*triple) for triple in zip(seen, drawn, bases, strict=True)]
        if not (repair and self._switches.second_pass):
            return found
        cells = [self._suspicious(first.maps, one) for first, one in zip(found, seen, strict=True)]
        repaired = generator.repair(drawn, cells, strength=self._spec.second_strength)
        again = []
        for base, picture in zip(bases, repaired, strict=True):
            own, twins = [level[0] for level in base], self.patches([picture])
            again.append(Against(triplet.same_position(own, twins, tolerance=self._switches.tolerance), picture))
        return again

    def score(self, maps: NDArray[np.float32]) -> float:
        """Score of a branch from its maps [n, gh, gw]."""
        return triplet.branch_score(maps, top_ratio=self._switches.top_ratio)

    def _against_bank(self, patches: Sequence[NDArray[np.float32]], banks: tuple[Bank, ...]) -> NDArray[np.float32]:
        return triplet.nearest_normal(patches, banks, place_weight=self._place_weight)

    def _compared(self, levels: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Of patches per level, those of the levels that S_P and S_N look at, joined to one if the switch says so."""
        chosen = [levels[level] for level in self._visual]
        if self._switches.visual_levels != "joint":
            return chosen
        return [np.concatenate(chosen, axis=-1) / np.float32(len(chosen) ** 0.5)]

    def _first_pass(self, one: Seen, drawn: Drawn, base: Sequence[NDArray[np.float32]]) -> Against:
        twins = self.patches(list(drawn.twins))
        at = self._choice(drawn, twins, one.banks)
        if self._switches.select != "patch_min":
            twins = [level[at : at + 1] for level in twins]
        own = [level[0] for level in base]
        return Against(triplet.same_position(own, twins, tolerance=self._switches.tolerance), drawn.twins[at])

    def _choice(self, drawn: Drawn, twins: Sequence[NDArray[np.float32]], banks: tuple[Bank, ...]) -> int:
        match self._switches.select:
            case "ssim_loss" | "patch_min":
                return drawn.likest
            case "ssim_min":
                return drawn.unlikest
            case "bank":
                return lowest(
                    np.array(
                        [
                            self.score(self._against_bank([level[at] for level in twins], banks))
                            for at in range(len(drawn.twins))
                        ]
                    )
                )

    def _suspicious(self, against: NDArray[np.float32], one: Seen) -> NDArray[np.bool_]:
        """The patches that the first maps of S_P and S_N, each by its own mean, find most unusual, bool [gh, gw]."""
        first = triplet.branch_map(against)
        total = first / max(float(first.mean()), calibration.MIN_SPREAD)
        if "normal" in one.maps:
            other = triplet.branch_map(one.maps["normal"])
            total = total + other / max(float(other.mean()), calibration.MIN_SPREAD)
        count = max(1, round(self._spec.second_ratio * total.size))
        marked = np.zeros(total.size, dtype=bool)
        marked[np.argsort(-total.ravel(), kind="stable")[:count]] = True
        return marked.reshape(total.shape)
