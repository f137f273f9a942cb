"""Few shots: detectors on k = 1, 2, 4, 8 references, with and without a generated pool of normals.

    python examples/few_shot.py --out /tmp/few-shot --k 4 --seeds 2 --sets tile washer --detectors patchcore padim
    python examples/few_shot.py --out /tmp/few-shot --part final --bsdata FOLDER --backbone embedded

Each cell (set, unit, k, seed, detector, pool) is one file below OUT/cells, written when it is measured; a cell whose
file says the same fingerprint is not fitted again. Twins and adapters are drawn once and kept in OUT/store for every
detector that asks for the same. OUT/table.md has mean ± sd over seeds, and One-to-Normal against PatchCore, paired by
seed. What needs twins or a pool runs with --backbone only. The pool is not screened.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError

from anosynth.detectors.build import DetectorParts, build_detector, shaping_values
from anosynth.detectors.one_to_normal import OneToNormal
from anosynth.detectors.protocol import Detector, LabelledImage
from anosynth.errors import AnosynthError, ParamsError
from anosynth.features.aligned import AlignedFeatures, build_aligned
from anosynth.features.encoder import PatchFeatures, build_features
from anosynth.fingerprint import digest_value
from anosynth.metrics.detection import image_metrics, pixel_metrics
from anosynth.params import (
    ComputeParams,
    DetectorSpec,
    EmbeddedAligned,
    EmbeddedFeatures,
    GenerateNormalsParams,
    OneToNormalSpec,
    PaDiMSpec,
    PatchCoreSpec,
    PersonalizeNormalsParams,
    WinClipSpec,
)
from anosynth.progress import track
from anosynth.seeding import seed_for
from anosynth.shards.store import ShardStore

sys.path.insert(0, str(Path(__file__).parent))
from cells import at_least, read_backbone, read_cell, write_cell, write_text
from few_shot_encoders import LocalLevels, RememberedLevels, RememberedPatches
from few_shot_generator import VERSION, Generator, Settings
from few_shot_report import Row, report
from few_shot_sets import REAL_SETS, Part, Set, Unit, available_sets, chosen_sets

ARM = ["few_shot"]
Pool = Literal["without", "with"]


@dataclass(frozen=True)
class Contender:
    """A detector of the table.

    Attributes:
        spec: its settings.
        aligned_patches: PatchCore on the aligned encoder's levels, which One-to-Normal compares.
    """

    spec: DetectorSpec
    aligned_patches: bool = False

    @property
    def draws_twins(self) -> bool:
        """Whether it cannot do without a backbone."""
        return isinstance(self.spec, OneToNormalSpec) and "personalized" in self.spec.branches


def _one_to_normal(changes: Mapping[str, object]) -> Contender:
    given = {"kind": "one_to_normal", "arms": ARM, "preset": "best", **changes}
    return Contender(OneToNormalSpec.model_validate(given))


# The paper leaves the sampler open; with that of `best` both presets look at the same twins.
_PAPER = {"preset": "paper", "solver": "dpm_solver", "steps": 20, "guidance": 1.0}
_LONG = {"solver": "ddim", "steps": 50}
_OFF: Mapping[str, Mapping[str, object]] = {
    "joint": {"visual_levels": "local"},
    "place": {"place_weight": 0.0},
    "place_limit": {"place_limit": 0.0},
    "mirrors": {"mirror_tolerance": 0.0},
    "top": {"top_ratio": 0.0},
    "patch_min": {"select": "ssim_loss"},
    "tolerance": {"tolerance": 0},
    "round_trip": {"round_trip": False},
    "positions": {"calibrate_positions": False},
    "fusion": {"calibrate_fusion": False, "weigh_text": False},
    "weighing": {"weigh_text": False},
    "twin_weight": {"twin_weight": 1.0},
}
_ON: Mapping[str, Mapping[str, object]] = {
    "strengths": {"strengths": (0.2, 0.3, 0.5)},
    "second_pass": {"second_pass": True},
    "twin_half": {"twin_weight": 0.5},
}


# A coreset thins out the many patches of a whole training set; k images have few, and PatchCore keeps them all.
_PATCHCORE = PatchCoreSpec(kind="patchcore", arms=ARM, coreset_ratio=1.0)
CONTENDERS: Mapping[str, Contender] = {
    "patchcore": Contender(_PATCHCORE),
    "patchcore_aligned": Contender(_PATCHCORE, aligned_patches=True),
    "padim": Contender(PaDiMSpec(kind="padim", arms=ARM)),
    "winclip": Contender(WinClipSpec(kind="winclip", arms=ARM)),
    "one_to_normal_paper": _one_to_normal(_PAPER),
    "one_to_normal_best": _one_to_normal({}),
    "one_to_normal_twinless": _one_to_normal({"branches": ["normal", "text"]}),
    "one_to_normal_personalized": _one_to_normal({"branches": ["personalized"]}),
    "one_to_normal_normal": _one_to_normal({"branches": ["normal"]}),
    "one_to_normal_text": _one_to_normal({"branches": ["text"]}),
}
EXTRAS: Mapping[str, Contender] = {
    "one_to_normal_15": _one_to_normal(_LONG),
    "one_to_normal_personalized_15": _one_to_normal({"branches": ["personalized"], **_LONG}),
    "one_to_normal_paper_15": _one_to_normal({"preset": "paper"}),
    **{f"one_to_normal_no_{name}": _one_to_normal(changes) for name, changes in _OFF.items()},
    **{f"one_to_normal_plus_{name}": _one_to_normal(changes) for name, changes in _ON.items()},
}
"""Asked for by name: twins in 15 evaluations of DDIM in place of 6 (`paper` with its own guidance of 3, which doubles
them), and `best` with one extra changed."""
EVERY: Mapping[str, Contender] = {**CONTENDERS, **EXTRAS}


class Encoders:
    """Opens each encoder once."""

    def __init__(self, settings: Settings) -> None:
        """Open nothing yet."""
        compute, side = settings.compute, settings.encoder_px
        aligned = EmbeddedAligned(kind="embedded", size_px=side, projection=settings.projection)
        self.patches: Callable[[], PatchFeatures] = cache(
            lambda: build_features(EmbeddedFeatures(kind="embedded", size_px=side), compute=compute)
        )
        self.aligned: Callable[[], AlignedFeatures] = cache(lambda: build_aligned(aligned, compute=compute))


@dataclass(frozen=True, eq=False)
class Cell:
    """One number of the table, before it is averaged.

    Attributes:
        unit, k, seed: the references and the queries.
        name: of the detector.
        pool: whether generated normals are among what it is fitted on.
    """

    unit: Unit
    k: int
    seed: int
    name: str
    pool: Pool

    @property
    def draw_seed(self) -> int:
        """Of everything drawn while fitting; equal for all detectors."""
        return seed_for(self.seed, "few_shot", "fit", self.unit.part, self.unit.set_name, self.unit.name)

    def fingerprint(
        self, spec: DetectorSpec, parts: DetectorParts, generator: Generator, compute: ComputeParams
    ) -> str:
        """Digest of everything that shapes the number."""
        return digest_value(
            {
                "version": VERSION,
                "detector": shaping_values(spec, parts=parts),
                "references": [one.digest for one in self.unit.references(self.k, self.seed)],
                "queries": [[one.digest, one.anomalous] for one in self.unit.queries],
                "pool": [job.fingerprint for job in generator.jobs()] if self.pool == "with" else [],
                "seed": self.draw_seed,
                "compute": compute.model_dump(mode="json"),
            }
        )

    def measured(self, detector: Detector, made: Sequence[LabelledImage]) -> tuple[Row, dict[str, object]]:
        """Fit, ask, and compare with the labels.

        Args:
            detector: not fitted.
            made: generated normals.

        Returns:
            The cell, and what its file says beside.
        """
        started, unit = time.monotonic(), self.unit
        references = unit.references(self.k, self.seed)
        real = [LabelledImage(one.name, one.image, None, synthetic=False) for one in references]
        detector.fit([*real, *made], [])
        asked = [(one.name, one.image) for one in unit.queries]
        told: dict[str, object] = {}
        if isinstance(detector, OneToNormal):
            explained = list(detector.explain(asked))
            answers = [one.prediction for one in explained]
            told = {"learned": detector.learned(), "branches": {one.prediction.id: one.scores for one in explained}}
        else:
            answers = list(detector.predict(asked))
        scores = np.array([answer.score for answer in answers])
        found = image_metrics(scores, np.array([one.anomalous for one in unit.queries]))
        places = (None, None)
        if unit.masks:
            none = [np.zeros(one.image.shape[:2], np.uint8) if one.mask is None else one.mask for one in unit.queries]
            pixels = pixel_metrics([answer.anomaly_map for answer in answers], none)
            places = (pixels.auroc, pixels.aupro)
        row = Row(unit.set_name, unit.name, self.k, self.seed, self.name, self.pool, found.auroc, found.ap, *places)
        return row, {
            "anomalous": [one.name for one in unit.queries if one.anomalous],
            "references": [one.name for one in references],
            "scores": {one.name: float(score) for one, score in zip(unit.queries, scores, strict=True)},
            "pool_images": len(made),
            **told,
            "seconds": round(time.monotonic() - started, 3),
        }


def measure(
    settings: Settings,
    sets: Iterable[Set],
    *,
    ks: Sequence[int],
    seeds: Sequence[int],
    contenders: Mapping[str, Contender],
    out: Path,
) -> tuple[list[Row], int]:
    """Measure every cell that is not there yet.

    Args:
        settings: encoders and generator.
        sets: what to measure on.
        ks: numbers of references.
        seeds: of references and noise.
        contenders: detectors by name; those that draw twins are passed over without a backbone.
        out: folder of the cells.

    Returns:
        All cells asked for, and how many of them were fitted now.
    """
    rows, fitted, encoders, store = [], 0, Encoders(settings), ShardStore(out / "store")
    pools: tuple[Pool, ...] = ("without",) if settings.pool is None else ("without", "with")
    for unit in (unit for one in sets for unit in one.units()):
        pictures = {one.digest for k in ks for seed in seeds for one in unit.references(k, seed)}
        digests = frozenset(pictures | {one.digest for one in unit.queries})
        patches = cache(lambda digests=digests: RememberedPatches(encoders.patches(), digests))
        levels = cache(lambda digests=digests: RememberedLevels(encoders.aligned(), digests))
        todo = [(k, seed, name, pool) for k in ks for seed in seeds for name in contenders for pool in pools]
        draw = cache(lambda k, seed, unit=unit: Generator(settings, unit, unit.references(k, seed), seed, store=store))
        for k, seed, name, pool in track(todo, total=len(todo), doing=f"{unit.set_name} {unit.name}", unit="cell"):
            contender, generator = contenders[name], draw(k, seed)
            aligned_patches = cache(lambda levels=levels: LocalLevels(levels()))
            parts = DetectorParts(
                open_features=aligned_patches if contender.aligned_patches else patches,
                open_aligned=levels,
                twins=generator.source,
                object_name=unit.object_name,
                opening={},
            )
            cell = Cell(unit, k, seed, name, pool)
            path = out / "cells" / unit.set_name / unit.name / f"k{k}-seed{seed}" / f"{name}-{pool}.json"
            fingerprint = cell.fingerprint(contender.spec, parts, generator, settings.compute)
            row = read_cell(path, partial(_row, wanted=fingerprint))
            if row is None:
                detector = build_detector(
                    contender.spec, parts=parts, compute=settings.compute, draw_seed=cell.draw_seed, name=name
                )
                row, values = cell.measured(detector, generator.pool() if pool == "with" else ())
                values |= {"settings": settings.digest(contender.spec, part=unit.part, pool=pool == "with")}
                write_cell(path, {"version": VERSION, "fingerprint": fingerprint, "cell": asdict(row), **values})
                fitted += 1
            rows.append(row)
    return rows, fitted


def cells_there(
    settings: Settings, *, part: Part, ks: Sequence[int], seeds: Sequence[int], names: Sequence[str], out: Path
) -> list[Row]:
    """Return the cells that were measured with these settings, without looking at a picture or a weight.

    Args:
        settings: encoders and generator, as they were measured with.
        part: of the sets.
        ks: numbers of references.
        seeds: of references and noise.
        names: sets; none names all.
        out: folder of the cells.

    Raises:
        DataError: if a file is no cell.
    """
    pools: tuple[Pool, ...] = ("without",) if settings.pool is None else ("without", "with")
    wanted = {
        (name, pool): settings.digest(contender.spec, part=part, pool=pool == "with")
        for name, contender in EVERY.items()
        for pool in pools
    }
    rows = []
    for path in sorted((out / "cells").rglob("*.json")):
        row = read_cell(path, partial(_row, wanted=wanted, key="settings"))
        if row is not None and row.k in ks and row.seed in seeds and row.set_name in (names or [row.set_name]):
            rows.append(row)
    order = list(EVERY)
    return sorted(rows, key=lambda row: (row.set_name not in REAL_SETS, row.set_name, order.index(row.detector)))


def _row(there: Mapping[str, Any], wanted: str | Mapping[tuple[str, str], str], key: str = "fingerprint") -> Row | None:
    """The row of a cell's file, if it says under `key` what is wanted (of its detector)."""
    row = Row(**there["cell"])
    right = wanted if isinstance(wanted, str) else wanted.get((row.detector, row.pool))
    return row if there[key] == right else None


def chosen_contenders(names: Sequence[str], *, backbone: bool) -> dict[str, Contender]:
    """Return the detectors of these names, or all that can run.

    Raises:
        ParamsError: if a name is unknown, or one that draws twins is asked for without a backbone.
    """
    for name in names:
        if name not in EVERY:
            raise ParamsError(f"--detectors {name}: not there; there: {', '.join(EVERY)}")
        if EVERY[name].draws_twins and not backbone:
            raise ParamsError(f"--detectors {name}: it draws twins; add --backbone embedded, or a folder")
    return {name: EVERY[name] for name in dict.fromkeys(names or CONTENDERS) if backbone or not EVERY[name].draws_twins}


def read_settings(chosen: argparse.Namespace) -> Settings:
    """Turn the command line into settings.

    Raises:
        ParamsError: if the backbone is no folder, the projection no file, or the adapter cannot be trained like that.
    """
    backbone = read_backbone(chosen.backbone)
    if chosen.projection and not Path(chosen.projection).is_file():
        raise ParamsError(
            f"--projection {chosen.projection}: no such file; python -m tasks.train_projection writes one"
        )
    pool = None
    if backbone is not None and chosen.pool:
        pool = GenerateNormalsParams(
            n=chosen.pool, shard_rows=chosen.pool, batch_size=8, solver="dpm_solver", steps=10, guidance=1.0
        )
    try:
        adapting = PersonalizeNormalsParams(
            target_layers=chosen.adapting_layers,
            rank=chosen.adapting_rank,
            alpha=float(chosen.adapting_rank),
            lr=chosen.adapting_lr,
            steps=chosen.adapting_steps,
            falling=chosen.adapting_falling,
            planted_variants=chosen.adapting_planted,
            decoder_steps=chosen.decoder_steps,
            prior_images=0,
            prior_weight=0.0,
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        raise ParamsError(f"--adapting-{wrong['loc'][0]} {wrong['input']}: {wrong['msg'].lower()}") from None
    return Settings(
        compute=ComputeParams(threads=chosen.threads, dtype=chosen.dtype, device="cpu"),
        encoder_px=chosen.encoder_px,
        backbone=backbone,
        adapting=adapting,
        pool=pool,
        projection=chosen.projection or None,
    )


def _digits(text: str) -> str:
    if not text or not set(text) <= set("0123456789") or len(set(text)) != len(text):
        raise argparse.ArgumentTypeError(f"{text!r} must name digits, each once, like 02468")
    return text


def add_settings(parser: argparse.ArgumentParser, *, bsdata: str) -> None:
    """Add what `read_settings` and `available_sets` read.

    Args:
        parser: of a command line.
        bsdata: default folder of BSData, or empty.
    """
    parser.add_argument("--bsdata", default=bsdata, help="folder of BSData; default: ANOSYNTH_BSDATA")
    parser.add_argument(
        "--part", choices=("development", "final"), default="development", help="choices are made on development"
    )
    parser.add_argument("--digits", type=_digits, default="0123456789", help="which of the digits are units")
    parser.add_argument("--queries", type=at_least(1), default=40, help="most normal, and most anomalous, of a unit")
    parser.add_argument("--size-px", type=at_least(64, multiple_of=8), default=128, help="of rendered pictures")
    parser.add_argument("--backbone", default="", help="embedded, or a diffusers folder; without it no twins, no pool")
    parser.add_argument("--pool", type=at_least(0), default=26, help="generated normals in cells with a pool; 0: none")
    parser.add_argument("--adapting-steps", type=at_least(1), default=40, help="of training on the references")
    parser.add_argument(
        "--adapting-layers", choices=("attention", "blocks"), default="attention", help="what the adapter changes"
    )
    parser.add_argument("--adapting-rank", type=int, default=8, help="rank and alpha of the adapter")
    parser.add_argument("--adapting-lr", type=float, default=1e-4, help="learning rate of the adapter's training")
    parser.add_argument("--adapting-falling", action="store_true", help="the adapter's learning rate falls to zero")
    parser.add_argument(
        "--adapting-planted", type=at_least(0), default=0, help="variants with planted defects, of each reference"
    )
    parser.add_argument("--decoder-steps", type=at_least(0), default=0, help="of training the decoder on them")
    parser.add_argument("--encoder-px", type=at_least(64, multiple_of=32), default=224, help="input of the encoders")
    parser.add_argument(
        "--projection", default="", help="file of tasks.train_projection, trained on none of the sets; default: none"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of frozen weights")
    parser.add_argument("--threads", type=at_least(1), default=2, help="of torch")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python examples/few_shot.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of cells and table; run again to go on")
    parser.add_argument("--k", type=at_least(1), nargs="+", default=[1, 2, 4, 8], help="numbers of references")
    parser.add_argument("--seeds", type=at_least(1), default=5, help="how many")
    parser.add_argument("--first-seed", type=at_least(0), default=0, help="the first of them")
    parser.add_argument(
        "--sets", nargs="+", default=[], help="procedural categories, bsdata, digits, elpv; default: all"
    )
    parser.add_argument(
        "--detectors", nargs="+", default=[], help=f"of {', '.join(CONTENDERS)} (the default), or {', '.join(EXTRAS)}"
    )
    parser.add_argument("--there", action="store_true", help="measure nothing, report the cells that are there")
    add_settings(parser, bsdata=os.environ.get("ANOSYNTH_BSDATA", ""))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure, write the table; wrong input ends with one sentence and exit code 2."""
    chosen = _parser().parse_args(arguments)
    try:
        torch.set_num_threads(chosen.threads)
        settings = read_settings(chosen)
        contenders = chosen_contenders(chosen.detectors, backbone=settings.backbone is not None)
        seeds, ks = range(chosen.first_seed, chosen.first_seed + chosen.seeds), sorted(set(chosen.k))
        if chosen.there:
            rows = cells_there(settings, part=chosen.part, ks=ks, seeds=seeds, names=chosen.sets, out=chosen.out)
            rows, fitted = [row for row in rows if row.detector in contenders], 0
        else:
            there = available_sets(
                part=chosen.part,
                bsdata_folder=chosen.bsdata,
                queries=chosen.queries,
                size_px=chosen.size_px,
                digits=chosen.digits,
            )
            units = chosen_sets(chosen.sets, there)
            rows, fitted = measure(settings, units, ks=ks, seeds=seeds, contenders=contenders, out=chosen.out)
    except AnosynthError as error:
        print(f"few_shot: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    passed_over = [name for name in CONTENDERS if name not in contenders and not chosen.detectors]
    text = report(rows, part=chosen.part, passed_over=passed_over)
    write_text(chosen.out / "table.md", text)
    print(f"{text}\nfew_shot: {len(rows)} cells ({fitted} fitted now), in {chosen.out / 'table.md'}")


if __name__ == "__main__":
    main()
