"""Where does synthetic data begin to help, and where does it end? Gain over real shots alone against their number.

    python examples/gain_curve.py --out /tmp/gain                            # everything but dualanodiff
    python examples/gain_curve.py --out /tmp/gain --backbone embedded        # the whole curve
    python examples/gain_curve.py --out /tmp/gain --task types --backbone embedded

Task `curve` fits the U-Net localizer, task `types` the classifier of defect types, on m real shots and a screened pool
of pairs made of these shots; tested on other rendered parts. Shots, pools, weights and batches change with the seed; an
arm differs by its data alone. Each cell (parts, m, seed, arm) is one file below OUT/TASK/cells, written when it is
measured; run again to go on. OUT/TASK has table.md and gain.svg. Development pictures only.

Two arms are no methods but bounds, with real pictures in the place of synthetic ones: bound_others has pictures that no
shot was taken from, as a generator would draw that draws the real thing; bound_test has the very pictures of the test.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from anosynth.detectors import defect_types, unet
from anosynth.detectors.batches import Augmentation
from anosynth.detectors.defect_types import DefectDescriber, LinearClassifier
from anosynth.detectors.protocol import LabelledImage
from anosynth.detectors.unet import UNetLocalizer
from anosynth.errors import AnosynthError, ParamsError
from anosynth.features.encoder import build_features
from anosynth.fingerprint import digest_value
from anosynth.metrics.classification import accuracy, confusion, macro_f1
from anosynth.metrics.evaluation import Evaluation, json_numbers
from anosynth.params import (
    AugmentParams,
    ClassifyParams,
    ComputeParams,
    CutPasteMethod,
    DualAnoDiffMethod,
    EmbeddedFeatures,
    PerlinMethod,
    ScreenParams,
    UNetSpec,
)
from anosynth.seeding import numpy_rng, seed_for
from anosynth.shards.store import ShardStore

sys.path.insert(0, str(Path(__file__).parent))
from cells import at_least, read_backbone, read_cell, write_cell, write_text
from gain_curve_parts import Counts, Parts, Place, read_place
from gain_curve_pools import Draw, Generators, Pool, PoolError, PoolSettings
from gain_curve_report import BASE, Row, report
from gain_curve_svg import picture

VERSION = 1
MAX_FPR = 0.3
HISTOGRAM_BITS = 16
Task = Literal["curve", "types"]
PLACES: Mapping[Task, tuple[str, ...]] = {
    "curve": ("tile-crack", "cast_metal-dent", "fabric-stain"),
    "types": ("wood-crack-dent-scratch",),
}
METRICS: Mapping[Task, tuple[str, ...]] = {
    "curve": ("pixel_ap", "image_auroc", "aupro"),
    "types": ("accuracy", "macro_f1"),
}
ONLY = "only_"
OTHERS, TEST = "bound_others", "bound_test"
BOUNDS = (OTHERS, TEST)


@dataclass(frozen=True)
class Settings:
    """Everything but the cell that decides a number.

    Attributes:
        task: what is fitted.
        counts: of the pictures.
        pools: how pools are made.
        localizer: of task `curve`.
        classifier, features: of task `types`.
    """

    task: Task
    counts: Counts
    pools: PoolSettings
    localizer: UNetSpec
    classifier: ClassifyParams
    features: EmbeddedFeatures

    def shaping(self, *, quarter_turns: bool) -> dict[str, object]:
        """What of this shapes a number beside the pools, as JSON values."""
        compute = self.pools.compute.model_dump(mode="json")
        if self.task == "curve":
            fitted = self.localizer.model_dump(mode="json", exclude={"arms"})
            fitted["augment"]["quarter_turns"] = quarter_turns
            return {"compute": compute, "unet": fitted, "algorithm": unet.ALGORITHM, "bits": HISTOGRAM_BITS}
        return {
            "compute": compute,
            "classifier": self.classifier.model_dump(mode="json", exclude={"arms"}),
            "features": self.features.model_dump(mode="json"),
            "algorithm": defect_types.ALGORITHM,
        }


@dataclass(frozen=True)
class Arm:
    """What an arm trains on beside the real normals.

    Attributes:
        name: `real`, a method (with the real shots), `only_` and a method (without), or one of BOUNDS (with).
    """

    name: str

    @property
    def method(self) -> str | None:
        """Whose pool; None for `real` and for bounds."""
        return None if self.name in (BASE, *BOUNDS) else self.name.removeprefix(ONLY)

    @property
    def with_shots(self) -> bool:
        """Whether the real shots are in it."""
        return not self.name.startswith(ONLY)


class Bench:
    """Fits and measures cells on one category; what cells share is computed once.

    Attributes:
        parts: the category.
    """

    def __init__(self, settings: Settings, parts: Parts) -> None:
        """Open nothing yet."""
        self._settings, self.parts = settings, parts
        self._describer = cache(self._describe_normals)

    def fingerprint(self, draw: Draw, arm: Arm) -> str:
        """Digest of everything that shapes the cell's numbers."""
        jobs = [draw.job(arm.method, defect) for defect in self.parts.defects] if arm.method else []
        return digest_value(
            {
                "version": VERSION,
                "task": self._settings.task,
                "settings": self._settings.shaping(quarter_turns=self.parts.quarter_turns),
                "parts": self.parts.digest,
                "shots": [one.name for one in draw.real_pairs()] if arm.with_shots else [],
                "pools": [*(job.fingerprint for job in jobs), *(one.name for one in self._stand_ins(draw, arm))],
                "screen": self._settings.pools.screen.model_dump(mode="json") if jobs else {},
                "seed": [draw.seed, draw.m],
                "arm": arm.name,
            }
        )

    def measure(self, draw: Draw, arm: Arm) -> tuple[dict[str, float | None], dict[str, object]]:
        """Fit one arm and ask it; returns its metrics, and what its file says beside.

        Raises:
            PoolError: if these shots give the arm nothing to learn from.
        """
        pools: list[Pool] = [draw.pool(arm.method, one) for one in self.parts.defects] if arm.method else []
        made = [*(image for pool in pools for image in pool.kept), *self._stand_ins(draw, arm)]
        pairs = [*(draw.real_pairs() if arm.with_shots else ()), *made]
        started = time.process_time()
        if arm.name in BOUNDS and not made:
            raise PoolError(f"{self.parts.slug}, m = {draw.m}: every picture is a shot; {arm.name} has no other")
        if not pairs:
            raise PoolError(f"{self.parts.slug}, m = {draw.m}, arm {arm.name}: no pair was kept; look at the pool")
        found = self._localize(draw, arm, pairs) if self._settings.task == "curve" else self._tell_types(draw, pairs)
        refused = [f"{reason}: {count}" for pool in pools for reason, count in pool.refused.items()]
        return found, {
            "pairs": {"real": len(pairs) - len(made), "drawn": sum(pool.drawn for pool in pools), "kept": len(made)},
            "refused": refused,
            "cpu_s": round(time.process_time() - started, 2),
        }

    def _stand_ins(self, draw: Draw, arm: Arm) -> list[LabelledImage]:
        """Real pictures of a bound, called synthetic, so that batches mix them as those of a pool."""
        found: Sequence[LabelledImage] = ()
        if arm.name == OTHERS:
            found = draw.other_pairs()
        elif arm.name == TEST:
            found = [one for one in self.parts.test if one.defect is not None]
        return [replace(one, synthetic=True) for one in found]

    def _localize(self, draw: Draw, arm: Arm, pairs: Sequence[LabelledImage]) -> dict[str, float | None]:
        spec, compute = self._settings.localizer, self._settings.pools.compute
        address = ("gain_curve", self.parts.slug, draw.m)
        detector = UNetLocalizer(
            channels=spec.channels,
            size_px=spec.size_px,
            steps=spec.steps,
            batch_size=spec.batch_size,
            lr=spec.lr,
            normal_ratio=spec.normal_ratio,
            synthetic_ratio=spec.synthetic_ratio,
            synthetic_until=spec.synthetic_until,
            augmentation=Augmentation(**{**spec.augment.model_dump(), "quarter_turns": self.parts.quarter_turns}),
            init_seed=seed_for(draw.seed, *address, "init"),
            draw_seed=seed_for(draw.seed, *address, "batches", arm.name),
            dtype=getattr(torch, compute.dtype),
            device=torch.device(compute.device),
            name=f"{self.parts.slug}, m = {draw.m}, seed {draw.seed}, {arm.name}",
        )
        detector.fit(draw.normals(), pairs)
        found = Evaluation(bits=HISTOGRAM_BITS)
        answers = detector.predict((one.name, one.image) for one in self.parts.test)
        for one, answer in zip(self.parts.test, answers, strict=True):
            mask = np.zeros(one.image.shape[:2], np.uint8) if one.mask is None else one.mask
            found.add(defect=one.defect, score=answer.score, anomaly_map=answer.anomaly_map, mask=mask)
        return json_numbers(found.metrics(max_fpr=MAX_FPR))

    def _tell_types(self, draw: Draw, pairs: Sequence[LabelledImage]) -> dict[str, float | None]:
        settings, classes = self._settings.classifier, self.parts.defects
        classifier = LinearClassifier(
            self._describer(),
            classes,
            l2=settings.l2,
            views=settings.views,
            synthetic_ratio=settings.synthetic_ratio,
            rng=numpy_rng(draw.seed, "gain_curve", "views", self.parts.slug, draw.m),
        )
        classifier.fit(pairs)
        asked = [one for one in self.parts.test if one.defect is not None]
        given = classifier.predict_proba((one.name, one.image) for one in asked)
        counts = confusion(
            np.array([classes.index(str(one.defect)) for one in asked]),
            np.array([int(one.argmax()) for one in given]),
            num_classes=len(classes),
        )
        return json_numbers({"accuracy": float(accuracy(counts)), "macro_f1": float(macro_f1(counts))})

    def _describe_normals(self) -> DefectDescriber:
        features = build_features(self._settings.features, compute=self._settings.pools.compute)
        normals = [one.image for one in self.parts.normals]
        return DefectDescriber(features, normals, patch_ratio=self._settings.classifier.patch_ratio)


def measure(
    settings: Settings,
    places: Sequence[Place],
    *,
    ms: Sequence[int],
    seeds: Sequence[int],
    arms: Sequence[Arm],
    out: Path,
) -> tuple[list[Row], int]:
    """Measure every cell that is not there yet, seed by seed, so that a stopped run has whole seeds.

    Args:
        settings: of the task.
        places: categories with their defect types.
        ms: numbers of shots.
        seeds: of shots and noise.
        arms: those that cannot be had (`PoolSettings.can_make`) are passed over.
        out: folder of the task.

    Returns:
        All cells asked for, and how many of them were fitted now.
    """
    rows, fitted = [], 0
    store, generators = ShardStore(out / "store"), Generators(settings.pools)
    benches = cache(lambda parts: Bench(settings, parts))
    for seed, place, m in itertools.product(seeds, places, ms):
        bench: Bench = benches(place.parts(seed))
        draw = Draw(bench.parts, m, seed, settings=settings.pools, generators=generators, store=store)
        for arm in arms:
            if arm.method and not settings.pools.can_make(arm.method):
                continue
            path = out / "cells" / place.name / f"m{m}-seed{seed}" / f"{arm.name}.json"
            fingerprint = bench.fingerprint(draw, arm)
            row = read_cell(path, partial(_row, fingerprint=fingerprint))
            if row is None:
                reason = ""
                try:
                    values, beside = bench.measure(draw, arm)
                except PoolError as error:
                    values, beside, reason = dict.fromkeys(METRICS[settings.task]), {}, str(error)
                row = Row(place.name, m, seed, arm.name, values, reason)
                value = {
                    "version": VERSION,
                    "fingerprint": fingerprint,
                    "cell": asdict(row),
                    "parts": bench.parts.slug,
                    **beside,
                }
                write_cell(path, value)
                fitted += 1
                print(f"{place.name}, m = {m}, seed {seed}, {arm.name}: {reason or dict(row.values)}", flush=True)
            rows.append(row)
    return rows, fitted


def _row(there: Mapping[str, Any], fingerprint: str) -> Row | None:
    """The row of a cell's file, if it is of this fingerprint."""
    return Row(**there["cell"]) if there["fingerprint"] == fingerprint else None


def read_settings(chosen: argparse.Namespace) -> Settings:
    """Turn the command line into settings; methods are those of params.yaml with shorter training.

    Raises:
        ParamsError: if the backbone is no folder.
    """
    compute = ComputeParams(threads=chosen.threads, dtype=chosen.dtype, device="cpu")
    return Settings(
        task=chosen.task,
        counts=Counts(size_px=chosen.size_px, normals=chosen.normals, test=chosen.test),
        pools=PoolSettings(
            compute=compute,
            methods={
                "perlin": PerlinMethod(kind="perlin", threshold=0.5, opacity=(0.3, 0.9), max_octave=4),
                "cutpaste": CutPasteMethod(
                    kind="cutpaste", source="shots", scale=(0.7, 1.4), max_turn_deg=180.0, feather_px=1.0
                ),
                "dualanodiff": DualAnoDiffMethod(
                    kind="dualanodiff",
                    steps=chosen.adapter_steps,
                    lr=2e-3,
                    batch_size=chosen.adapter_batch,
                    min_snr_gamma=5.0,
                    views=4,
                    profile="fast",
                    strength=0.3,
                    decoder_steps=chosen.decoder_steps,
                ),
            },
            backbone=read_backbone(chosen.backbone),
            num_pairs=chosen.pairs,
            batch_size=8,
            screen=ScreenParams(),
        ),
        localizer=UNetSpec(
            kind="unet",
            arms=[BASE],
            channels=16,
            steps=chosen.steps,
            batch_size=chosen.batch,
            lr=2e-3,
            normal_ratio=0.5,
            size_px=chosen.unet_px,
            synthetic_ratio=chosen.synthetic_ratio,
            synthetic_until=chosen.synthetic_until,
            augment=AugmentParams(flip=True, quarter_turns=True, brightness=0.1, contrast=0.1),
        ),
        classifier=ClassifyParams(
            arms=[BASE], patch_ratio=0.02, l2=0.01, views=chosen.views, synthetic_ratio=chosen.synthetic_ratio
        ),
        features=EmbeddedFeatures(kind="embedded", size_px=chosen.encoder_px),
    )


def read_places(chosen: argparse.Namespace, settings: Settings) -> list[Place]:
    """Return what to measure on.

    Raises:
        ParamsError: if something is not there, or there is one type to tell apart.
    """
    names = dict.fromkeys(chosen.parts or PLACES[settings.task])
    places = [read_place(name, settings.counts, bsdata_folder=chosen.bsdata) for name in names]
    for place in places:
        if settings.task == "types" and len(place.defects) < 2:
            raise ParamsError(f"--parts {place.name}: one defect type; there is nothing to tell apart")
    return places


def read_arms(names: Sequence[str], settings: PoolSettings) -> list[Arm]:
    """Return the arms of these names, or of all methods, the base arm first.

    Raises:
        ParamsError: if there is no such arm, or it needs a backbone and none was named.
    """
    arms = [Arm(name) for name in dict.fromkeys([BASE, *(names or settings.methods)])]
    for arm in arms:
        if arm.method is not None and arm.method not in settings.methods:
            there = ", ".join([BASE, *settings.methods, *(ONLY + one for one in settings.methods), *BOUNDS])
            raise ParamsError(f"--arms {arm.name}: not there; there: {there}")
        if names and arm.method and not settings.can_make(arm.method):
            raise ParamsError(f"--arms {arm.name}: it draws with a backbone; add --backbone embedded, or a folder")
    return arms


def _share(text: str) -> float:
    """A type for argparse: numbers from 0 to 1."""
    value = _number(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share in [0, 1]")
    return value


def _share_above_zero(text: str) -> float:
    """A type for argparse: numbers from 0, but not 0 itself, to 1."""
    value = _number(text)
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share in (0, 1]")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python examples/gain_curve.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of cells and tables; run again to go on")
    parser.add_argument("--task", choices=["curve", "types"], default="curve")
    parser.add_argument("--parts", nargs="+", default=[], help="category-defect-defect..., or bsdata")
    parser.add_argument("--bsdata", default=os.environ.get("ANOSYNTH_BSDATA", ""), help="folder of BSData")
    parser.add_argument("--shots", type=at_least(1), nargs="+", default=[1, 3, 10], help="of each defect type")
    parser.add_argument("--seeds", type=at_least(1), default=5, help="how many, from 0")
    parser.add_argument("--arms", nargs="+", default=[], help="default: real, all methods; or only_METHOD, bound_...")
    parser.add_argument("--backbone", default="", help="embedded, or a diffusers folder; without it no dualanodiff")
    parser.add_argument("--pairs", type=at_least(1), default=48, help="of a pool, before screening")
    parser.add_argument("--adapter-steps", type=at_least(1), default=100, help="of dualanodiff's training")
    parser.add_argument("--decoder-steps", type=at_least(0), default=100, help="of its decoder's")
    parser.add_argument("--adapter-batch", type=at_least(1), default=4, help="pairs of a step of it")
    parser.add_argument("--steps", type=at_least(1), default=200, help="of the U-Net's training")
    parser.add_argument("--batch", type=at_least(1), default=8, help="images of a step of it")
    parser.add_argument("--unet-px", type=at_least(32, multiple_of=16), default=96, help="input of the U-Net")
    parser.add_argument("--synthetic-ratio", type=_share, default=0.5, help="share of synthetic pairs in a batch")
    parser.add_argument("--synthetic-until", type=_share_above_zero, default=1.0, help="share of the steps with them")
    parser.add_argument("--views", type=at_least(1), default=2, help="types: of every training image, up to 8")
    parser.add_argument("--encoder-px", type=at_least(64, multiple_of=32), default=160, help="types: encoder's input")
    parser.add_argument("--size-px", type=at_least(64, multiple_of=8), default=128, help="of the pictures")
    parser.add_argument("--normals", type=at_least(1), default=24, help="real normals, the same in every arm")
    parser.add_argument("--test", type=at_least(1), default=24, help="normal test pictures, and of each defect type")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="of networks' passes")
    parser.add_argument("--threads", type=at_least(1), default=1, help="of torch")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure, write table and picture; wrong input ends with one sentence and exit code 2."""
    chosen = _parser().parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    out = chosen.out / chosen.task
    try:
        settings = read_settings(chosen)
        arms = read_arms(chosen.arms, settings.pools)
        rows, fitted = measure(
            settings,
            read_places(chosen, settings),
            ms=sorted(set(chosen.shots)),
            seeds=range(chosen.seeds),
            arms=arms,
            out=out,
        )
    except AnosynthError as error:
        print(f"gain_curve: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    metrics = METRICS[settings.task]
    text = report(rows, metrics=metrics)
    write_text(out / "table.md", text)
    write_text(out / "gain.svg", picture(rows, metric=metrics[0]))
    print(f"{text}\ngain_curve: {len(rows)} cells ({fitted} fitted now), in {out / 'table.md'}")


if __name__ == "__main__":
    main()
