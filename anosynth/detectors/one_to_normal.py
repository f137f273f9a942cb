"""One-to-Normal: a query against its normal twin, against the bank of normals, and against text (Li et al. 2024)."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anosynth.detectors import calibration, normal_state, presets, symmetry, triplet
from anosynth.detectors.branches import Against, Branches, Seen
from anosynth.detectors.learning import Learner
from anosynth.detectors.normal_state import NormalState, References
from anosynth.detectors.personalizer import Personalizer, TwinSource
from anosynth.detectors.presets import Branch
from anosynth.detectors.protocol import LabelledImage
from anosynth.detectors.state import Settings, read_state, write_state
from anosynth.errors import DataError
from anosynth.features.aligned import AlignedFeatures, class_prototypes
from anosynth.features.prompts import normal_states
from anosynth.fingerprint import digest_pixels
from anosynth.params import OneToNormalSpec
from anosynth.samples import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

ALGORITHM = 3
QUERIES_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Explanation:
    """A prediction and what it rests on.

    Attributes:
        prediction: score and fused map.
        twin: the normal twin, uint8 RGB [S, S, 3]; None if none was drawn.
        scores: S_P, S_N, S_text as they enter the sum, before their weights.
        maps: of every branch that counts, float32 at the image's size, in the units of `scores`.
        threshold: the score above which the verdict is "anomalous", from the references alone.
        ranges: for every branch and "fused": the map values to be drawn black, and white: what would by itself be
            as unusual as the threshold.
    """

    prediction: Prediction
    twin: NDArray[np.uint8] | None
    scores: Mapping[Branch, float]
    maps: Mapping[Branch, NDArray[np.float32]]
    threshold: float
    ranges: Mapping[str, tuple[float, float]]

    @property
    def anomalous(self) -> bool:
        """The verdict."""
        return self.prediction.score > self.threshold


class OneToNormal:
    """Triplet inference on frozen features; one-class, so pairs are ignored; satisfies `protocol.Detector`."""

    def __init__(
        self,
        features: AlignedFeatures,
        source: TwinSource,
        *,
        spec: OneToNormalSpec,
        name: str,
        seed: int,
        opening: Mapping[str, str],
    ) -> None:
        """Prepare an empty detector; the generator is opened when the first twin is drawn.

        Args:
            features: the frozen encoder of images and text.
            source: opens the generator; unused if `spec.branches` leaves S_P out.
            spec: preset, switches, branches, weights.
            name: the object as said in a prompt.
            seed: root of the twins' noise while fitting; a loaded detector brings its own.
            opening: what a server needs to open features and generator again, JSON texts by name; part of the bundle.
        """
        self._features, self._source, self._spec = features, source, spec
        self._switches, self._weights = presets.switches(spec), presets.weights(spec)
        self._name, self._seed, self._opening = name, seed, dict(opening)
        self._state: NormalState | None = None
        self._personalizer: Personalizer | None = None

    def fit(self, normals: Sequence[LabelledImage], pairs: Sequence[LabelledImage]) -> None:
        """Fill the bank and learn from the references alone what is usual on them.

        Args:
            normals: real normal images are the references, at least one; synthetic ones fill the bank up.
            pairs: ignored.

        Raises:
            DataError: if there is no reference.
            ParamsError: if the object's name holds nothing that a prompt could say.
        """
        del pairs
        real = [one.image for one in normals if not one.synthetic]
        if not real:
            raise DataError(
                "One-to-Normal needs at least one real normal image as a reference and was given none; "
                "let the arm use real_normals"
            )
        made = [one for one in normals if one.synthetic]
        states = normal_states(self._name, self._spec.num_prompts)
        references = self._references(real, [one.image for one in made])
        adapter = self._source.read_adapter() if self._draws else None
        if self._spec.preset == "paper":
            bank = presets.BankCounts(len(real), len(made), sum(one.free for one in made), len(references.synthetic[0]))
            for line in presets.filled_in(
                self._spec, self._features, bank, states=states, adapter=adapter, size_px=self._source.size_px
            ):
                _log.info("one_to_normal, paper preset: %s", line)
        usual = calibration.Usual(np.array(0.0), np.array(1.0))
        self._state = NormalState(
            references=references,
            prototypes=self._prototypes(),
            adapter=adapter,
            seed=self._seed,
            strength=self._spec.strength,
            place_weight=self._counted_place(real),
            positions=None,
            branches=dict.fromkeys(self._weights, usual),
            weights=self._weights,
            standardized=self._switches.calibrate_fusion,
            alone=usual,
            threshold=0.0,
        )
        self._personalizer = None
        self._state = Learner(self._state, self._branches(), self._generator, self._spec).learn(real)

    @property
    def _draws(self) -> bool:
        return "personalized" in self._weights

    def _prototypes(self) -> NDArray[np.float32]:
        if "text" in self._weights:
            return class_prototypes(self._features, self._name)
        return np.zeros((2, 0), np.float32)

    def _references(self, real: list[NDArray[np.uint8]], made: list[NDArray[np.uint8]]) -> References:
        patches = self._compare(np.zeros((2, 0), np.float32), place_weight=0.0).patches
        mirrors = symmetry.normal_mirrors(real, patches, tolerance=self._switches.mirror_tolerance)
        if self._switches.mirror_tolerance:
            _log.info("one_to_normal: normal mirror images: %s", ", ".join(mirrors) or "none")
        views = [view for one in real for view in (one, *(symmetry.mirrored(one, mirror) for mirror in mirrors))]
        own = self._features.patch_levels(views)
        pool = tuple(level[:0] for level in own)
        count = self._spec.bank_images - len(real)
        if made and count > 0:
            pool = self._features.patch_levels(made)
            descriptors = [level[-1].mean(axis=(1, 2)) for level in (own, pool)]
            chosen = normal_state.synthetic_choice(*descriptors, count=count)
            pool = tuple(level[chosen] for level in pool)
        aspects = [image.shape[1] / image.shape[0] for image in real]
        return References(
            own,
            pool,
            normal_state.nearest_reference(own, pool) // (1 + len(mirrors)),
            tuple(digest_pixels(image) for image in real),
            (min(aspects), max(aspects)),
            1 + len(mirrors),
        )

    def predict(self, images: Iterable[tuple[str, NDArray[np.uint8]]]) -> Iterator[Prediction]:
        """Judge images; see `explain`."""
        return (found.prediction for found in self.explain(images))

    def explain(self, images: Iterable[tuple[str, NDArray[np.uint8]]]) -> Iterator[Explanation]:
        """Judge images and show why, up to eight at once; an answer depends on its image alone.

        Args:
            images: (id, uint8 RGB [H, W, 3]), of the references' aspect ratio.

        Raises:
            DataError: if a query is no 8-bit RGB, of another aspect ratio, or one of the references.
        """
        banks = self._branches().banks(self._known.references)
        waiting = iter(images)
        while chunk := list(itertools.islice(waiting, QUERIES_AT_ONCE)):
            for name, image in chunk:
                self.check(name, image)
            seen = [self._branches().see(image, banks) for _, image in chunk]
            wanted = [at for at, one in enumerate(seen) if self._draws and self._uncertain(one)]
            drawn = dict(zip(wanted, self._against_twins([seen[at] for at in wanted]), strict=True))
            for at, (name, _) in enumerate(chunk):
                yield self._explained(name, seen[at], drawn.get(at))

    def _uncertain(self, one: Seen) -> bool:
        """Whether the cascade asks for a twin: S_N + S_text are neither clearly usual nor clearly unusual."""
        if self._spec.cascade is None:
            return True
        alone = sum(self._known.part(branch, self._branches().score(maps)) for branch, maps in one.maps.items())
        low, high = self._spec.cascade
        return bool(low <= float(self._known.alone.standardized(np.array(alone))) <= high)

    def _explained(self, name: str, one: Seen, against: Against | None) -> Explanation:
        height, width = one.image.shape[:2]
        rows, columns = self._known.references.grid
        maps, scores, grids = dict(one.maps), {}, {}
        if against is not None:
            maps["personalized"] = self._known.against_usual(against.maps)
        for branch in self._weights:
            if branch in maps:
                scores[branch], grids[branch] = self._branches().score(maps[branch]), triplet.branch_map(maps[branch])
            else:  # the cascade spared the twin: S_P counts as usual
                scores[branch] = float(self._known.branches[branch].mean)
                grids[branch] = np.full((rows, columns), scores[branch], np.float32)
        score = sum(self._known.part(branch, value) for branch, value in scores.items())
        parts = [self._known.part_map(branch, grid) for branch, grid in grids.items()]
        fused = np.stack(parts).sum(axis=0)
        full = {branch: triplet.full_size(grid, size_px=(height, width)) for branch, grid in grids.items()}
        prediction = Prediction(name, score, triplet.full_size(fused, size_px=(height, width)))
        twin = None if against is None else against.twin
        return Explanation(prediction, twin, scores, full, self._known.threshold, self._ranges())

    def _ranges(self) -> dict[str, tuple[float, float]]:
        usual = self._known.branches
        white = {
            branch: float(usual[branch].mean + self._spec.threshold_sd * usual[branch].spread)
            for branch in self._weights
        }
        black = sum(self._known.part(branch, 0.0) for branch in self._weights)
        return {**{branch: (0.0, value) for branch, value in white.items()}, "fused": (black, self._known.threshold)}

    def learned(self) -> dict[str, float | dict[str, float]]:
        """What fitting decided: strength and threshold, and by branch its weight, usual score and spread."""
        known = self._known
        return {
            "strength": known.strength,
            "threshold": known.threshold,
            "place_weight": known.place_weight,
            "views": known.references.views,
            "weights": {str(branch): float(weight) for branch, weight in known.weights.items()},
            "usual": {str(branch): float(usual.mean) for branch, usual in known.branches.items()},
            "spread": {str(branch): float(usual.spread) for branch, usual in known.branches.items()},
        }

    def check(self, name: str, image: NDArray[np.uint8]) -> None:
        """Refuse a query that cannot be judged.

        Raises:
            DataError: if it is no 8-bit RGB, of another aspect ratio than the references, or one of them.
        """
        self._known.references.check_query(name, image, aspect_tolerance=self._spec.aspect_tolerance)

    def _against_twins(self, seen: Sequence[Seen]) -> list[Against]:
        if not seen:
            return []
        return self._branches().against_twins(seen, self._generator(), strength=self._known.strength, repair=True)

    def _branches(self) -> Branches:
        return self._compare(self._known.prototypes, place_weight=self._known.place_weight)

    def _compare(self, prototypes: NDArray[np.float32], *, place_weight: float) -> Branches:
        return Branches(self._features, self._spec, prototypes, place_weight=place_weight)

    def _counted_place(self, real: Sequence[NDArray[np.uint8]]) -> float:
        """The place weight, or 0 where a limit says that the references must agree on places and they do not."""
        weight, limit = self._switches.place_weight, self._switches.place_limit
        if weight == 0.0 or limit == 0.0:
            return weight
        if len(real) == 1:
            return 0.0
        patches = self._compare(np.zeros((2, 0), np.float32), place_weight=0.0).patches(real)
        found = symmetry.misalignment(patches)
        _log.info("one_to_normal: misalignment of the references %.2f, limit %g", found, limit)
        return weight if found <= limit else 0.0

    def _generator(self) -> Personalizer:
        if self._personalizer is None:
            backbone, state = self._source.open_backbone(), self._known
            assert state.adapter is not None
            self._personalizer = Personalizer(
                backbone,
                state.adapter,
                normal_states(self._name, self._spec.num_prompts),
                self._switches,
                size_px=self._source.size_px,
                micro_batch=self._spec.micro_batch,
                seed=state.seed,
                memory=self._source.memory,
            )
        return self._personalizer

    def save(self, folder: Path) -> None:
        """Write the bundle; see `protocol.Detector.save`."""
        write_state(folder, settings=self._settings(), tensors=self._known.tensors())

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; see `protocol.Detector.load`.

        Encoder and backbone are checked by identity, so that a bundle never meets other weights.
        """
        self._state = NormalState.from_tensors(read_state(folder, settings=self._settings()), name=str(folder))
        self._personalizer = None

    def _settings(self) -> Settings:
        spec = self._spec.model_dump(mode="json", exclude={"arms", "cascade"})
        return {
            "kind": "one_to_normal",
            "algorithm": ALGORITHM,
            "features": self._features.identity,
            "backbone": self._source.backbone_identity() if self._draws else "",
            "name": self._name,
            "size_px": self._source.size_px,
            "spec": json.dumps(spec, sort_keys=True),
            **{f"open_{key}": text for key, text in self._opening.items()},
        }

    @property
    def _known(self) -> NormalState:
        if self._state is None:
            raise RuntimeError("One-to-Normal is empty: call fit or load first")
        return self._state
