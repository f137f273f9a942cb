"""DualAnoDiff's quality in numbers, development only: masks, a judge's agreement, copies, realism beside the controls.

    python examples/dual_quality.py --out /tmp/dual-quality --bsdata FOLDER
    python examples/dual_quality.py --out /tmp/dual-quality --cells judge masks-pill

Cells, each one file below OUT/cells, written when it is measured and not measured again while nothing that shapes it
changes; what a cell makes (judge, adapters, shards) is kept too, so that a run that was stopped goes on:

| cell | what |
| --- | --- |
| judge | a U-Net trained on renders with exact masks, tested on other renders; in no gate |
| masks-SET | masks of real shots from their own parts after the autoencoder; also by rules that never saw their group |
| pairs-shared, pairs-apart, pairs-cutpaste | pools of a rendered object, and what the judge says of their masks; one \
adapter for all defect types against one for each; methods.dualanodiff.steps in all, for both |
| bsdata-all | 28 training shots: what the gates accept, what is nearer to a shot than shots are to each other |
| bsdata-likeness | the same nearness of real pictures: of the sound ones that pairs are made on, and of the shots |
| bsdata-fold0, bsdata-fold1 | half of the positions held out: KID-Lite of defect crops, beside both control arms |
| copies | planted copies of BSData's shots, and how many the gate refuses |

OUT/table.md has what was asked beside what was measured, OUT/*.png contact sheets.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from anosynth.errors import AnosynthError, DataError, ParamsError
from anosynth.fingerprint import digest_value
from anosynth.params import (
    ComputeParams,
    DualAnoDiffMethod,
    Params,
    load_params,
)
from anosynth.samples import Sample
from anosynth.screening.ceiling import similarity_ceiling, unlike_shots
from anosynth.screening.memorization import NearestShot

sys.path.insert(0, str(Path(__file__).parent))
from cells import at_least, read_backbone, read_cell, write_text
from dual_quality_judge import Judge, JudgeSettings, open_judge
from dual_quality_pools import Workshop, background_only, contrast, planted_copies, recovery
from dual_quality_report import report, sheet
from dual_quality_scenes import Scene, ball_screw, procedural

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 7
METHODS = ("dualanodiff", "perlin", "cutpaste")
JUDGED = "pill"
JUDGED_DEFECTS = ("stain", "hole", "missing")
MASK_SETS: Mapping[str, tuple[str, ...]] = {
    "washer": ("scratch", "dent", "stain", "missing"),
    "pill": ("crack", "stain", "hole", "missing"),
}
MIN_INSIDE = 0.1
"""A mask with less than this share on the object is one of the background alone."""
NUM_COPIES = 100


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        size_px: side of all pictures.
        shots, normals: rendered shots of each defect type, rendered sound parents.
        pairs: judged pairs of each pool, over all defect types.
        bsdata_pairs, fold_pairs: pairs of BSData.
        held_out: rendered pictures of each defect type that realism is measured against.
        mask_shots: rendered shots of each defect type whose masks are recovered.
        judge_pairs, judge_held_out, judge_steps: of the judge.
    """

    size_px: int
    shots: int
    normals: int
    pairs: int
    bsdata_pairs: int
    fold_pairs: int
    held_out: int
    mask_shots: int
    judge_pairs: int
    judge_held_out: int
    judge_steps: int


class Quality:
    """The cells and what they share."""

    def __init__(self, params: Params, workshop: Workshop, sizes: Sizes, *, bsdata_folder: str, out: Path) -> None:
        """Open nothing yet.

        Args:
            params: methods, gates, measures.
            workshop: makes adapters and pools.
            sizes: how much.
            bsdata_folder: of BSData, or empty: then its cells are not there.
            out: folder of everything.
        """
        self._params, self._workshop, self._sizes = params, workshop, sizes
        self._bsdata, self._out = bsdata_folder, out
        found = [one for one in params.methods.values() if isinstance(one, DualAnoDiffMethod)]
        if len(found) != 1:
            raise ParamsError(f"methods: {len(found)} of kind dualanodiff; this script measures exactly one")
        self._spec = found[0]

    def cells(self) -> dict[str, Callable[[], dict[str, object]]]:
        """Every cell that this machine can measure, cheap ones first."""
        cells: dict[str, Callable[[], dict[str, object]]] = {"judge": self._judge_cell}
        for name in MASK_SETS:
            cells[f"masks-{name}"] = lambda name=name: self._masks(self._rendered(name, MASK_SETS[name], masks=True))
        if self._bsdata:
            cells["masks-bsdata"] = lambda: self._masks(self._screws(None))
            cells["copies"] = self._copies
            cells["bsdata-all"] = self._acceptance
            cells["bsdata-likeness"] = self._likeness
            for fold in (0, 1):
                cells[f"bsdata-fold{fold}"] = lambda fold=fold: self._realism(fold)
        cells["pairs-cutpaste"] = lambda: self._judged("cutpaste")
        cells["pairs-shared"] = lambda: self._judged("shared")
        cells["pairs-apart"] = lambda: self._judged("apart")
        return cells

    def fingerprint(self, cell: str) -> str:
        """Digest of everything that shapes a cell's numbers, more rather than less."""
        kinds = {"methods", "screen", "measure"}
        return digest_value(
            {
                "version": VERSION,
                "cell": cell,
                "sizes": asdict(self._sizes),
                "params": {} if cell == "judge" else self._params.model_dump(mode="json", include=kinds),
                "backbone": "" if cell in ("judge", "copies") else self._workshop.identity,
                "judged": [JUDGED, list(JUDGED_DEFECTS), {name: list(one) for name, one in MASK_SETS.items()}],
            }
        )

    @cached_property
    def _judge(self) -> Judge:
        sizes = self._sizes
        settings = JudgeSettings(
            category=JUDGED,
            defects=JUDGED_DEFECTS,
            size_px=sizes.size_px,
            pairs=sizes.judge_pairs,
            held_out=sizes.judge_held_out,
            steps=sizes.judge_steps,
            batch_size=16,
            channels=16,
        )
        return open_judge(settings, self._out / "judge")

    def _judge_cell(self) -> dict[str, object]:
        return dict(self._judge.facts)

    def _rendered(self, category: str, defects: Sequence[str], *, masks: bool = False) -> Scene:
        sizes = self._sizes
        return procedural(
            category,
            defects,
            shots=sizes.mask_shots if masks else sizes.shots,
            normals=0 if masks else sizes.normals,
            held_out=0 if masks else sizes.held_out,
            size_px=sizes.size_px,
        )

    def _screws(self, fold: int | None) -> Scene:
        return ball_screw(self._bsdata, size_px=self._sizes.size_px, fold=fold)

    def _masks(self, scene: Scene) -> dict[str, object]:
        found = {
            defect: recovery(
                scene.shots[defect],
                scene.groups[defect],
                self._workshop.seen,
                key=self._spec.key,
                reading=self._spec.masks,
            )
            for defect, _ in scene.defects
        }
        return {
            "shots": sum(len(one) for one in scene.shots.values()),
            "iou": _mean([own for own, _ in found.values()]),
            "left_out_iou": _mean([honest for _, honest in found.values()]),
            "by_defect": {defect: {"iou": own, "left_out_iou": honest} for defect, (own, honest) in found.items()},
        }

    def _copies(self) -> dict[str, object]:
        scene, (defect, _) = self._screws(None), self._screws(None).defects[0]
        shots = [one.image for one in scene.shots[defect]]
        nearest = NearestShot(shots, others=[one.image for one in scene.normals])
        caught: Counter[str] = Counter()
        asked: Counter[str] = Counter()
        similarities = []
        for kind, copy in planted_copies(shots, count=NUM_COPIES):
            similarity = nearest.match(copy).similarity
            similarities.append(similarity)
            asked[kind] += 1
            caught[kind] += similarity > self._params.screen.max_shot_similarity
        return {
            "copies": asked.total(),
            "caught": caught.total(),
            "by_kind": {kind: [caught[kind], count] for kind, count in asked.items()},
            "least_similarity": min(similarities),
            "gate": self._params.screen.max_shot_similarity,
        }

    def _acceptance(self) -> dict[str, object]:
        scene = self._screws(None)
        defect, size_px = scene.defects[0][0], self._sizes.size_px
        adapter = self._workshop.adapter(scene, [defect], self._spec, size_px=size_px)
        shots, normals = [one.image for one in scene.shots[defect]], [one.image for one in scene.normals]
        kept = unlike_shots(normals, shots, scene.groups[defect])  # generate_pairs.parents of examples/bsdata
        made_on = replace(scene, normals=tuple(scene.normals[at] for at in kept))
        samples = self._workshop.pool(
            made_on, defect, self._spec, name="all", n=self._sizes.bsdata_pairs, size_px=size_px, adapter=adapter
        )
        pool = self._workshop.judged(scene, defect, samples)
        sheet(samples, pool.verdicts, shots, self._out / "bsdata.png")
        return {
            "pairs": len(samples),
            "parents": len(kept),
            "accepted_ratio": len(pool.kept) / len(samples),
            "refused": dict(Counter(one.reason for one in pool.verdicts if one.reason)),
            "memorization": pool.copies.to_json(),
            "adapter": dict(adapter.facts),
        }

    def _likeness(self) -> dict[str, object]:
        """Share above the memorization ceiling of real pictures: what a pool cannot be expected to undercut."""
        scene = self._screws(None)
        defect = scene.defects[0][0]
        shots, groups = [one.image for one in scene.shots[defect]], scene.groups[defect]
        normals = [one.image for one in scene.normals]
        ceiling = similarity_ceiling(shots, groups, others=normals)
        if ceiling is None:
            raise DataError("bsdata: the shots come from one position, so there is no ceiling")
        nearest = NearestShot(shots, others=normals)
        of_shots = []
        for group in dict.fromkeys(groups):
            rest = [shot for shot, its in zip(shots, groups, strict=True) if its != group]
            others = NearestShot(rest, others=normals)
            own = [shot for shot, its in zip(shots, groups, strict=True) if its == group]
            of_shots += [others.match(shot).similarity for shot in own]
        of_normals = [nearest.match(image).similarity for image in normals]
        return {
            "ceiling": ceiling.value,
            "normals": len(of_normals),
            "normals_above_ratio": float(np.mean(np.array(of_normals) > ceiling.value)),
            "shots": len(of_shots),
            "shots_above_ratio": float(np.mean(np.array(of_shots) > ceiling.value)),
        }

    def _realism(self, fold: int) -> dict[str, object]:
        """KID-Lite against the held-out positions, of as many accepted pairs of each method."""
        scene = self._screws(fold)
        defect, size_px = scene.defects[0][0], self._sizes.size_px
        kept: dict[str, list[Sample]] = {}
        for name in METHODS:
            spec = self._spec if name == "dualanodiff" else self._params.methods[name]
            adapter = None
            if isinstance(spec, DualAnoDiffMethod):
                adapter = self._workshop.adapter(scene, [defect], spec, size_px=size_px)
            samples = self._workshop.pool(
                scene, defect, spec, name=name, n=self._sizes.fold_pairs, size_px=size_px, adapter=adapter
            )
            kept[name] = self._workshop.judged(scene, defect, samples).kept
        count = min(len(one) for one in kept.values())
        reference = scene.held_out[defect]
        return {
            "pairs_compared": count,
            "shots": len(scene.shots[defect]),
            "held_out": len(reference.images),
            "methods": {
                name: self._workshop.realism(some[:count], reference, name=f"{fold}") for name, some in kept.items()
            },
        }

    def _judged(self, arm: str) -> dict[str, object]:
        """One pool per defect type of the judged category, and the judge's agreement with its masks."""
        scene, size_px = self._rendered(JUDGED, JUDGED_DEFECTS), self._sizes.size_px
        shared = None
        if arm == "shared":
            whole = self._spec.model_copy(update={"shared": True})
            shared = self._workshop.adapter(scene, JUDGED_DEFECTS, whole, size_px=size_px)
        by_defect: dict[str, dict[str, object]] = {}
        agreed: list[float] = []
        accepted: list[float] = []
        every: list[Sample] = []
        kept: list[Sample] = []
        for defect in JUDGED_DEFECTS:
            spec = self._params.methods["cutpaste"] if arm == "cutpaste" else self._spec
            adapter = shared
            if isinstance(spec, DualAnoDiffMethod) and shared is None:
                part = spec.model_copy(update={"steps": max(1, spec.steps // len(JUDGED_DEFECTS))})
                adapter = self._workshop.adapter(scene, [defect], part, size_px=size_px)
            count = self._sizes.pairs // len(JUDGED_DEFECTS)
            # the same name for both: their pools differ by the adapter alone
            name = "cutpaste" if arm == "cutpaste" else "dualanodiff"
            samples = self._workshop.pool(scene, defect, spec, name=name, n=count, size_px=size_px, adapter=adapter)
            pool = self._workshop.judged(scene, defect, samples)
            ious = self._judge.agreement([one.image for one in samples], _masks_of(samples))
            good = [value for value, verdict in zip(ious, pool.verdicts, strict=True) if verdict.keep]
            shots, unseen = [one.image for one in scene.shots[defect]], scene.held_out[defect]
            sheet(samples, pool.verdicts, shots, self._out / f"{JUDGED}-{arm}-{defect}.png")
            by_defect[defect] = {
                "iou": _mean(ious),
                "accepted_iou": _mean(good),
                "accepted_ratio": len(good) / len(ious),
                "refused": dict(Counter(one.reason for one in pool.verdicts if one.reason)),
                "contrast": _mean([contrast(one.image, one.mask) for one in pool.kept if one.mask is not None]),
                "real_contrast": _mean([contrast(*one) for one in zip(unseen.images, unseen.masks, strict=True)]),
                "memorization": pool.copies.to_json(),
                "realism": self._workshop.realism(pool.kept, unseen, name=defect),
            }
            agreed, accepted = agreed + ious, accepted + good
            every, kept = [*every, *samples], [*kept, *pool.kept]
        return {
            "pairs": len(every),
            "iou": _mean(agreed),
            "accepted_iou": _mean(accepted),
            "accepted_ratio": len(kept) / len(every),
            "empty_masks": sum(not mask.any() for mask in _masks_of(every)),
            "background_only_accepted": background_only(kept, scene.objects, least=MIN_INSIDE),
            "by_defect": by_defect,
        }


def measure(quality: Quality, names: Sequence[str], *, out: Path) -> dict[str, dict[str, object]]:
    """Measure the cells that are not there yet, and return all that are asked for.

    Raises:
        ParamsError: if a cell is not there.
        DataError: if a file is not a cell of this script.
    """
    there = quality.cells()
    for name in names:
        if name not in there:
            needs = "; it needs --bsdata FOLDER" if name.startswith(("bsdata", "copies", "masks-bsdata")) else ""
            raise ParamsError(f"--cells {name}: not there{needs}; there: {', '.join(there)}")
    found = {}
    for name in [one for one in there if not names or one in names]:
        path, fingerprint = out / "cells" / f"{name}.json", quality.fingerprint(name)
        values = read_cell(path, partial(_values, fingerprint=fingerprint))
        if values is None:
            started = time.process_time()
            values = there[name]()
            seconds = round(time.process_time() - started, 1)
            whole = {"version": VERSION, "fingerprint": fingerprint, "cpu_seconds": seconds, "values": values}
            write_text(path, json.dumps(whole, indent=1, sort_keys=True) + "\n")
            print(f"dual_quality: {name} measured in {seconds} CPU s", file=sys.stderr, flush=True)
            values = json.loads(json.dumps(values))
        found[name] = values
        write_text(out / "table.md", report(found))
    return found


def _values(there: Mapping[str, Any], fingerprint: str) -> dict[str, object] | None:
    """The values of a cell's file, if it is of this fingerprint."""
    return dict(there["values"]) if there["fingerprint"] == fingerprint else None


def _masks_of(samples: Sequence[Sample]) -> list[NDArray[np.uint8]]:
    return [one.mask for one in samples if one.mask is not None]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python examples/dual_quality.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of cells, table and sheets; run again to go on")
    add("--bsdata", default=os.environ.get("ANOSYNTH_BSDATA", ""), help="folder of BSData")
    add("--params", type=Path, default=Path(__file__).parent.parent / "params.yaml", help="methods, gates, measures")
    add("--backbone", default="", help="embedded, or a diffusers folder; default: the embedded one")
    add("--cells", nargs="+", default=[], help="default: all")
    add("--pairs", type=at_least(3), default=300, help="of each pool that the judge looks at")
    add("--bsdata-pairs", type=at_least(1), default=128, help="drawn from BSData's 28 training shots")
    add("--fold-pairs", type=at_least(2), default=96, help="of each method where half of the positions is held out")
    add("--shots", type=at_least(2), default=8, help="rendered shots of each defect type")
    add("--held-out", type=at_least(2), default=48, help="rendered pictures that realism is measured against")
    add("--mask-shots", type=at_least(3), default=8, help="rendered shots of each defect type in masks-SET")
    add("--judge-pairs", type=at_least(3), default=2000, help="rendered pairs that the judge learns from")
    add("--judge-held-out", type=at_least(3), default=200, help="rendered pairs that it is tested on")
    add("--judge-steps", type=at_least(1), default=2000, help="of its training")
    add("--size-px", type=at_least(64), default=128, help="side of all pictures, a multiple of 16")
    add("--threads", type=at_least(1), default=1, help="of torch")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure, write the table; wrong input ends with one sentence and exit code 2."""
    chosen = _parser().parse_args(arguments)
    try:
        if chosen.size_px % 16:
            raise ParamsError(f"--size-px {chosen.size_px}: not a multiple of 16")
        torch.set_num_threads(chosen.threads)
        params = load_params(chosen.params)
        compute = ComputeParams(threads=chosen.threads, dtype="float32", device="cpu")
        sizes = Sizes(
            size_px=chosen.size_px,
            shots=chosen.shots,
            normals=2 * chosen.shots,
            pairs=chosen.pairs,
            bsdata_pairs=chosen.bsdata_pairs,
            fold_pairs=chosen.fold_pairs,
            held_out=chosen.held_out,
            mask_shots=chosen.mask_shots,
            judge_pairs=chosen.judge_pairs,
            judge_held_out=chosen.judge_held_out,
            judge_steps=chosen.judge_steps,
        )
        workshop = Workshop(params, read_backbone(chosen.backbone or "embedded"), compute, out=chosen.out)
        quality = Quality(params, workshop, sizes, bsdata_folder=chosen.bsdata, out=chosen.out)
        found = measure(quality, chosen.cells, out=chosen.out)
    except AnosynthError as error:
        print(f"dual_quality: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    print(f"{report(found)}\ndual_quality: {len(found)} cells, in {chosen.out / 'table.md'}")


if __name__ == "__main__":
    main()
