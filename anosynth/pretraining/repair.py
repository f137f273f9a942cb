"""Does image-to-image repair a scratched part and leave the rest alone? A part of the backbone's evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from anosynth.diffusion.adapters import Adapter
from anosynth.diffusion.decoder import personalized
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.personalize import Subject, personalize
from anosynth.diffusion.sample import image_to_image
from anosynth.diffusion.solver import SamplerSettings
from anosynth.params import ComputeParams, PersonalizeNormalsParams
from anosynth.pretraining.sheets import MEMORY, SIZE_PX, Image8, round_trip
from anosynth.seeding import seed_for, torch_generators
from anosynth.shards.store import ShardStore
from anosynth.sources.procedural.render import render_pair


@dataclass(frozen=True)
class Repair:
    """How a part is drawn again.

    Attributes:
        strength: of the re-noising.
        sampler: solver, steps of a whole run, guidance.
        draws: independent draws whose pixels are averaged: what they disagree on is guessed detail.
        adapting: how the model learns eight sound parts of the category first; None: it does not.
    """

    strength: float
    sampler: SamplerSettings
    draws: int
    adapting: PersonalizeNormalsParams | None


def scratch_removal(
    backbone: LatentDiffusion,
    *,
    categories: Mapping[str, str],
    per_category: int,
    repair: Repair,
    compute: ComputeParams,
    seed: int,
) -> tuple[dict[str, object], Image8]:
    """Image-to-image on procedural parts with a planted scratch.

    A case is repaired if inside the exact mask the mean |output - round trip of the clean render| is at most half of
    the same for the round trip of the scratched render. `sound_floor_median` is that ratio for the clean render put
    through the same process: what is left where there is nothing to repair.

    Args:
        backbone: what draws.
        categories: category -> name as said in the prompt.
        per_category: cases of each.
        repair: how.
        compute: of training the adapters.
        seed: root of the renders' and the noise's seeds.

    Returns:
        (figures, rows of scratched | output | clean for the first four cases of every category).
    """
    cases: list[Case] = []
    rows: list[Image8] = []
    strength_0 = 0.0
    for category, name in categories.items():
        seeds = [seed_for(seed, "evaluate_scratch", category, index) for index in range(per_category)]
        pairs = [render_pair(category, defect="scratch", seed=one, size_px=SIZE_PX) for one in seeds]
        scratched, sound = [pair.defective.image for pair in pairs], [pair.sound.image for pair in pairs]
        adapter = _adapter(backbone, category, name, repair, compute=compute, seed=seed)
        with personalized(backbone, adapter) if adapter else nullcontext():
            outputs, kept = (_redrawn(backbone, images, name, repair, seeds) for images in (scratched, sound))
            still = _redrawn(backbone, scratched[:8], name, replace(repair, strength=0.0), seeds[:8])
        trips = round_trip(backbone, scratched), round_trip(backbone, sound)
        strength_0 = max(strength_0, float(np.abs(still - trips[0][:8]).max()))
        for pair, *images in zip(pairs, outputs, kept, *trips, strict=True):
            cases.append(Case.of(pair.defective.mask > 0, pair.sound.image, *images))
        rows += [
            np.concatenate([scratched[row], np.rint(outputs[row]).astype(np.uint8), sound[row]], axis=1)
            for row in range(min(4, per_category))
        ]
    residues, growth = np.array([case.residue for case in cases]), np.array([case.growth for case in cases])
    figures: dict[str, object] = {
        "cases": len(cases),
        "repaired": round(float(np.mean(residues <= 0.5)), 3),
        "residue_median": round(float(np.median(residues)), 3),
        "sound_floor_median": round(float(np.median([case.floor for case in cases])), 3),
        "outside_growth_median": round(float(np.median(growth)), 3),
        "outside_growth_within_25_percent": round(float(np.mean(growth <= 0.25)), 3),
        "repaired_by_category": {
            category: round(float(np.mean(residues[row * per_category : (row + 1) * per_category] <= 0.5)), 3)
            for row, category in enumerate(categories)
        },
        "strength": repair.strength,
        "strength_0_max_difference": strength_0,
        "draws": repair.draws,
        "sampler": asdict(repair.sampler),
        "adapter_steps": repair.adapting.steps if repair.adapting else 0,
    }
    return figures, np.concatenate(rows)


@dataclass(frozen=True)
class Case:
    """One part: error inside the mask relative to doing nothing, the same for a sound part, growth outside."""

    residue: float
    floor: float
    growth: float

    @classmethod
    def of(
        cls,
        inside: NDArray[np.bool_],
        sound: Image8,
        output: NDArray[np.float64],
        kept: NDArray[np.float64],
        scratched_trip: Image8,
        sound_trip: Image8,
    ) -> Case:
        """Measure one part.

        Args:
            inside: the exact mask, [H, W].
            sound: clean render, uint8 [H, W, 3], as all the following.
            output: the scratched render drawn again; float64.
            kept: the clean render drawn again; float64.
            scratched_trip: round trip of the scratched render.
            sound_trip: round trip of the clean render.
        """

        def distance(one: NDArray[np.generic], other: NDArray[np.generic]) -> NDArray[np.float64]:
            return np.asarray(np.abs(one.astype(np.float64) - other.astype(np.float64)).mean(axis=2))

        scar = distance(scratched_trip, sound_trip)[inside].mean()
        before = distance(scratched_trip, sound)[~inside].mean()
        return cls(
            float(distance(output, sound_trip)[inside].mean() / scar),
            float(distance(kept, sound_trip)[inside].mean() / scar),
            float(distance(output, sound)[~inside].mean() / before - 1.0),
        )


def _adapter(
    backbone: LatentDiffusion, category: str, name: str, repair: Repair, *, compute: ComputeParams, seed: int
) -> Adapter | None:
    if repair.adapting is None:
        return None
    seeds = [seed_for(seed, "evaluate_sound", category, index) for index in range(8)]
    shots = [render_pair(category, defect="scratch", seed=one, size_px=SIZE_PX).sound.image for one in seeds]
    subject = Subject("evaluation", name, True, tuple(map(str, seeds)), SIZE_PX, backbone.identity, seed)
    return personalize(backbone, shots, subject, repair.adapting, compute=compute, store=ShardStore(MEMORY))


def _redrawn(
    backbone: LatentDiffusion, images: Sequence[Image8], name: str, repair: Repair, seeds: Sequence[int]
) -> NDArray[np.float64]:
    """Mean over the draws, [B, H, W, 3] in [0, 255]."""
    prompt, blank = backbone.embed([f"a photo of normal {name}"]), backbone.embed([""])
    parts = []
    for start in range(0, len(images), 8):
        part = images[start : start + 8]
        draws = [
            image_to_image(
                backbone,
                part,
                prompt,
                strengths=[repair.strength] * len(part),
                settings=repair.sampler,
                generators=torch_generators([seed_for(one, "draw", draw) for one in seeds[start : start + 8]]),
                blank=blank,
            ).astype(np.float64)
            for draw in range(repair.draws if repair.strength > 0.0 else 1)
        ]
        parts.append(np.mean(draws, axis=0))
    return np.concatenate(parts)
