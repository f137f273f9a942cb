"""What One-to-Normal learns from its references alone: strength, usual values, weights, the threshold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from anosynth.detectors import calibration, presets, triplet
from anosynth.detectors.branches import Against, Branches, Seen
from anosynth.detectors.normal_state import NormalState
from anosynth.detectors.personalizer import Personalizer
from anosynth.detectors.presets import Branch
from anosynth.fingerprint import digest_pixels
from anosynth.imaging import resize_mask
from anosynth.params import OneToNormalSpec
from anosynth.seeding import seed_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

PLANTED_PER_REFERENCE = 2


@dataclass(frozen=True, eq=False)
class Planted:
    """A held-out reference with a planted defect.

    Attributes:
        seen: the spoiled picture.
        cells: where the defect is on the grid, bool [gh, gw].
    """

    seen: Seen
    cells: NDArray[np.bool_]


class Learner:
    """Fills in a state; every reference is judged by a bank without itself.

    S_P's usual values are not wholly left out: the generator was trained on these very references, so it may draw them
    better than a query.
    """

    def __init__(
        self, state: NormalState, branches: Branches, open_generator: Callable[[], Personalizer], spec: OneToNormalSpec
    ) -> None:
        """Start from a state that knows the references and nothing that is usual on them.

        Args:
            state: references, prototypes, adapter, seed, weights.
            branches: compares.
            open_generator: gives what draws; not called without S_P.
            spec: switches.
        """
        self._state, self._branches, self._open_generator = state, branches, open_generator
        self._spec, self._switches = spec, presets.switches(spec)
        self._weights = presets.weights(spec)
        self._draws = "personalized" in self._weights

    def learn(self, real: Sequence[NDArray[np.uint8]]) -> NormalState:
        """Choose the strength, then learn what is usual, what the branches are worth and where the threshold lies.

        Args:
            real: the references, uint8 RGB [H, W, 3] each, in the order of the state.
        """
        held_out = self._held_out(real)
        planted = self._planted(held_out) if self._switches.strengths or self._switches.weigh_text else []
        if self._draws and self._switches.strengths:
            self._set(strength=self._best_strength(planted))
        self._calibrate(held_out, planted)
        return self._state

    def _held_out(self, real: Sequence[NDArray[np.uint8]]) -> list[Seen]:
        """Every reference beside a bank without it; a single reference is stood in for by shifted views of it."""
        references = self._state.references
        if len(real) == 1:
            banks = self._branches.banks(references)
            return [self._branches.see(view, banks) for view in calibration.held_out_views(real[0])]
        return [
            self._branches.see(image, self._branches.banks(references, without=at)) for at, image in enumerate(real)
        ]

    def _planted(self, held_out: list[Seen]) -> list[Planted]:
        """Defects pasted into the held-out references: what the choices of fitting are made by."""
        found = []
        for one in held_out:
            for at in range(PLANTED_PER_REFERENCE):
                seed = seed_for(self._state.seed, digest_pixels(one.image), at)
                spoiled, where = calibration.planted_defect(one.image, seed=seed)
                cells = resize_mask(np.where(where, 255, 0).astype(np.uint8), size_px=self._state.references.grid)
                found.append(Planted(self._branches.see(spoiled, one.banks), cells > 0))
        return found

    def _calibrate(self, held_out: list[Seen], planted: list[Planted]) -> None:
        """Usual values of S_P by place, of every branch, of their sum; each reference is judged without itself."""
        maps = [dict(one.maps) for one in held_out]
        if self._draws:
            drawn = np.stack([found.maps for found in self._against_twins(held_out)])
            if self._switches.calibrate_positions:
                self._set(positions=calibration.usual_map(drawn))
            for at, own in enumerate(maps):
                own["personalized"] = drawn[at]
                if self._switches.calibrate_positions:
                    others = np.delete(drawn, at, axis=0)
                    own["personalized"] = calibration.usual_map(others).standardized(drawn[at]).astype(np.float32)
        scores = {branch: [self._branches.score(own[branch]) for own in maps] for branch in self._weights}
        self._set(branches={branch: calibration.usual_score(values) for branch, values in scores.items()})
        if self._switches.weigh_text and "text" in self._weights:
            self._set(weights={**self._weights, "text": self._weights["text"] * self._earned_by_text(planted, scores)})
        parts = {branch: [self._state.part(branch, value) for value in values] for branch, values in scores.items()}
        alone = [branch for branch in self._weights if branch != "personalized"]
        self._set(alone=self._usual_sum(parts, alone))
        whole = self._usual_sum(parts, list(self._weights))
        self._set(threshold=float(whole.mean + self._spec.threshold_sd * whole.spread))

    def _earned_by_text(self, planted: list[Planted], clean: Mapping[Branch, list[float]]) -> float:
        """How much better than chance S_text tells spoiled references from clean ones: 2 AUROC - 1, not below 0.

        Text alone is asked: what it knows of a category is uncertain. S_P and S_N compare with the references and keep
        their weights; pasted pieces are no measure of them, the generator draws some of them again.
        """
        if set(self._weights) == {"text"}:
            return 1.0
        spoiled = [self._branches.score(one.seen.maps["text"]) for one in planted]
        values = np.array([*spoiled, *clean["text"]])
        earned = max(0.0, 2.0 * calibration.separation(values, np.arange(len(values)) < len(spoiled)) - 1.0)
        _log.info("one_to_normal: S_text earns %.2f", earned)
        return earned

    def _usual_sum(self, parts: Mapping[Branch, list[float]], branches: Sequence[Branch]) -> calibration.Usual:
        if not branches:
            return calibration.Usual(np.array(0.0), np.array(1.0))
        sums = np.sum([parts[branch] for branch in branches], axis=0)
        spreads = [self._state.weights[branch] * float(self._state.branches[branch].spread) for branch in branches]
        if self._switches.calibrate_fusion:
            spreads = [self._state.weights[branch] for branch in branches]
        return calibration.usual_score(sums.tolist(), prior_spread=max(sum(spreads), calibration.MIN_SPREAD))

    def _best_strength(self, planted: list[Planted]) -> float:
        """The strength under which planted defects stand out most from their surroundings, on the references only."""
        found: dict[float, float] = {}
        for strength in self._switches.strengths:
            self._set(strength=strength)
            drawn = self._against_twins([one.seen for one in planted], repair=False)
            told = [
                calibration.separation(triplet.branch_map(one.maps), where.cells)
                for one, where in zip(drawn, planted, strict=True)
            ]
            found[strength] = float(np.mean(told))
        best = max(found, key=lambda strength: (found[strength], -abs(strength - self._spec.strength)))
        _log.info(
            "one_to_normal: strength %g of %s",
            best,
            ", ".join(f"{strength:g} (separation {value:.3f})" for strength, value in found.items()),
        )
        return best

    def _against_twins(self, seen: Sequence[Seen], *, repair: bool = True) -> list[Against]:
        strength = self._state.strength
        return self._branches.against_twins(seen, self._open_generator(), strength=strength, repair=repair)

    def _set(self, **values: object) -> None:
        self._state = replace(self._state, **values)  # type: ignore[arg-type]
