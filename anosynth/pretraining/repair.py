"""Does image-to-image repair a scratched part and leave the rest alone? A part of the backbone's evaluation.

The first pass re-noises the whole picture. The second one, as in One-to-Normal, draws only suspicious cells again, more
strongly and from what the first pass made of them, and leaves all other cells to the picture itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from anosynth.diffusion.adapters import Adapter
from anosynth.diffusion.decoder import personalized
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.personalize import Subject, personalize
from anosynth.diffusion.sample import draw_again
from anosynth.diffusion.solver import SamplerSettings
from anosynth.diffusion.views import NormalViews
from anosynth.features.encoder import PatchFeatures
from anosynth.features.patch_distances import nearest
from anosynth.params import ComputeParams, PersonalizeNormalsParams
from anosynth.pretraining.sheets import MEMORY, SIZE_PX, Image8, round_trip
from anosynth.seeding import seed_for, torch_generators
from anosynth.shards.store import ShardStore
from anosynth.sources.procedural.render import render_pair

ROWS_AT_ONCE = 24


@dataclass(frozen=True)
class SecondPass:
    """Drawing suspicious cells again.

    Attributes:
        ratio: share of the latent cells that counts as suspicious.
        strength: of their re-noising.
        steps: of a whole run of the sampler.
    """

    ratio: float
    strength: float
    steps: int


@dataclass(frozen=True)
class Repair:
    """How a part is drawn again.

    Attributes:
        strength: of the re-noising.
        sampler: solver, steps of a whole run, guidance.
        draws: independent draws, of whose pixels the median is taken: what they disagree on is guessed detail.
        adapting: how the model learns sound parts of the category first; None: it does not.
        second: the second pass; None: there is none.
        sound_parts: that the model learns, and that suspicious cells are compared with.
    """

    strength: float
    sampler: SamplerSettings
    draws: int
    adapting: PersonalizeNormalsParams | None
    second: SecondPass | None = None
    sound_parts: int = 8


def scratch_removal(
    backbone: LatentDiffusion,
    *,
    categories: Mapping[str, str],
    per_category: int,
    repair: Repair,
    features: PatchFeatures,
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
        features: compare a part with sound ones, to find suspicious cells; unused without a second pass.
        compute: of training the adapters.
        seed: root of the renders' and the noise's seeds.

    Returns:
        (figures, rows of scratched | its round trip | output | clean for the first four cases of every category).
    """
    cases: list[Case] = []
    rows: list[Image8] = []
    strength_0 = 0.0
    for category, name in categories.items():
        seeds = [seed_for(seed, "evaluate_scratch", category, index) for index in range(per_category)]
        pairs = [render_pair(category, defect="scratch", seed=one, size_px=SIZE_PX) for one in seeds]
        scratched, sound = [pair.defective.image for pair in pairs], [pair.sound.image for pair in pairs]
        shots = _sound_parts(category, count=repair.sound_parts, seed=seed)
        adapter = _adapter(backbone, category, name, shots, repair, compute=compute, seed=seed)
        with personalized(backbone, adapter) if adapter else nullcontext():
            redraw = Redraw(backbone, f"a photo of normal {name}", repair, features, shots)
            outputs, kept = (redraw.median(images, seeds) for images in (scratched, sound))
            still = replace(redraw, repair=replace(repair, strength=0.0, second=None)).median(scratched[:8], seeds[:8])
        trips = round_trip(backbone, scratched), round_trip(backbone, sound)
        strength_0 = max(strength_0, float(np.abs(still - trips[0][:8]).max()))
        for pair, *images in zip(pairs, outputs, kept, *trips, strict=True):
            cases.append(Case.of(pair.defective.mask > 0, pair.sound.image, *images))
        rows += [
            np.concatenate([scratched[row], trips[0][row], np.rint(outputs[row]).astype(np.uint8), sound[row]], axis=1)
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
        "repaired_within_25_percent": round(float(np.mean((residues <= 0.5) & (growth <= 0.25))), 3),
        "repaired_by_category": {
            category: round(float(np.mean(residues[row * per_category : (row + 1) * per_category] <= 0.5)), 3)
            for row, category in enumerate(categories)
        },
        "strength": repair.strength,
        "second_pass": asdict(repair.second) if repair.second else None,
        "strength_0_max_difference": strength_0,
        "draws": repair.draws,
        "sampler": asdict(repair.sampler),
        "adapter_steps": repair.adapting.steps if repair.adapting else 0,
        "sound_parts": repair.sound_parts,
    }
    return figures, np.concatenate(rows)


@dataclass(frozen=True)
class Case:
    """One part: error inside the mask relative to doing nothing, the same for a sound part, growth outside.

    Inside, errors are to the round trip of the clean render. Growth outside is that of the error to the clean render
    itself, over the error that the round trip of the scratched render has there already: from the round trip of the
    clean render it hardly differs there, and no growth of next to nothing could be stated.

    Attributes:
        residue: inside, |output - round trip of the clean render| over the same for the scratched render's round trip.
        floor: the same for the clean render drawn again.
        growth: outside, |output - clean render| over |round trip of the scratched render - clean render|, less 1.
    """

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


@dataclass(frozen=True, eq=False)
class Redraw:
    """A backbone that carries a category's adapter, and all that drawing its parts again needs.

    Attributes:
        backbone: what draws.
        prompt: of a sound part.
        repair: how.
        features: as in `scratch_removal`.
        shots: sound parts, uint8 RGB.
    """

    backbone: LatentDiffusion
    prompt: str
    repair: Repair
    features: PatchFeatures
    shots: Sequence[Image8]

    def median(self, images: Sequence[Image8], seeds: Sequence[int]) -> NDArray[np.float64]:
        """Median of the last pass's draws, value by value, [B, H, W, 3] in [0, 255].

        Args:
            images: uint8 RGB [H, W, 3] each, one size.
            seeds: of each image's noise.
        """
        latents = self.backbone.encode(images)
        sampler, second = self.repair.sampler, self.repair.second
        drawn = self.draws(latents, seeds, "draw", strength=self.repair.strength, sampler=sampler)
        if second is not None:
            first = drawn.mean(dim=0)
            cells = self.suspicious(images, latents, first, ratio=second.ratio)
            start = torch.where(cells > 0, first, latents)
            again = replace(sampler, steps=second.steps)
            drawn = self.draws(start, seeds, "second", strength=second.strength, sampler=again, redraw=cells)
        return np.asarray(np.median([self.backbone.decode(one) for one in drawn], axis=0))

    def suspicious(self, images: Sequence[Image8], latents: Tensor, first: Tensor, *, ratio: float) -> Tensor:
        """The latent cells that look least like sound parts and that the first pass changed most.

        A cell's suspicion is d^2 e, both over their mean in the picture: d the distance of its features to the nearest
        patch of the sound parts and their mirror images, e the squared change of its latents, averaged over 3 x 3.

        Args:
            images: as in `median`.
            latents: of the images, [B, C, h, w].
            first: what the first pass made of them, same shape.
            ratio: share of the cells.

        Returns:
            1 where a cell is suspicious, else 0, [B, 1, h, w].
        """
        height, width = latents.shape[-2:]
        patches = self.features.patches(
            [view for one in self.shots for view in (one, np.ascontiguousarray(one[:, ::-1]))]
        )
        asked = self.features.patches(images)
        found, _ = nearest(asked.reshape(-1, asked.shape[-1]), patches.reshape(-1, patches.shape[-1]))
        distance = torch.from_numpy(found.reshape(len(images), 1, *asked.shape[1:3]))
        unlike = functional.interpolate(distance, (height, width), mode="bilinear").to(latents)
        changed = (first - latents).square().mean(dim=1, keepdim=True)
        smooth = functional.avg_pool2d(functional.pad(changed, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        suspicion = _relative(unlike).square() * _relative(smooth)
        least = torch.quantile(suspicion.flatten(1), 1.0 - ratio, dim=1).reshape(-1, 1, 1, 1)
        return (suspicion >= least).to(latents)

    def draws(
        self,
        start: Tensor,
        seeds: Sequence[int],
        what: str,
        *,
        strength: float,
        sampler: SamplerSettings,
        redraw: Tensor | None = None,
    ) -> Tensor:
        """Independent draws of every row; one draw where nothing is left to chance.

        Args:
            start: clean latents, [B, C, h, w].
            seeds: of each row's noise.
            what: names the pass; other noise for another one.
            strength: share of T that rows are re-noised by.
            sampler: solver, steps, guidance.
            redraw: 1 where cells are drawn, 0 where they stay, [B, 1, h, w]; None: all are drawn.

        Returns:
            [draws, B, C, h, w].
        """
        text, blank = self.backbone.embed([self.prompt]), self.backbone.embed([""])
        rows = [(draw, row) for draw in range(self.repair.draws if strength else 1) for row in range(len(start))]
        drawn = []
        for at in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[at : at + ROWS_AT_ONCE]
            chosen = [row for _, row in part]
            drawn.append(
                draw_again(
                    self.backbone,
                    start[chosen],
                    text,
                    strengths=[strength] * len(part),
                    settings=sampler,
                    generators=torch_generators([seed_for(seeds[row], what, draw) for draw, row in part]),
                    blank=blank,
                    redraw=None if redraw is None else redraw[chosen],
                )
            )
        return torch.cat(drawn).reshape(-1, *start.shape)


def _relative(values: Tensor) -> Tensor:
    return values / values.mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)


def _sound_parts(category: str, *, count: int, seed: int) -> list[Image8]:
    seeds = [seed_for(seed, "evaluate_sound", category, index) for index in range(count)]
    return [render_pair(category, defect="scratch", seed=one, size_px=SIZE_PX).sound.image for one in seeds]


def _adapter(
    backbone: LatentDiffusion,
    category: str,
    name: str,
    shots: Sequence[Image8],
    repair: Repair,
    *,
    compute: ComputeParams,
    seed: int,
) -> Adapter | None:
    if repair.adapting is None:
        return None
    ids = tuple(str(seed_for(seed, "evaluate_sound", category, index)) for index in range(len(shots)))
    subject = Subject("evaluation", name, NormalViews(mirror=True), ids, SIZE_PX, backbone.identity, seed)
    return personalize(backbone, shots, subject, repair.adapting, compute=compute, store=ShardStore(MEMORY))
