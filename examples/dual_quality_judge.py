"""The judge of examples/dual_quality.py: a segmenter that learned from exact masks and is asked about drawn ones.

It is a U-Net trained on rendered parts whose masks are exact, in no gate and in no training of a generator. What it
says about a drawn pair is only worth something as far as it finds the defects of renders that it never saw.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from anosynth.detectors.batches import Augmentation
from anosynth.detectors.protocol import LabelledImage
from anosynth.detectors.unet import ALGORITHM, UNetLocalizer
from anosynth.fingerprint import digest_value
from anosynth.pools.masks import iou
from anosynth.progress import track
from anosynth.seeding import seed_for
from anosynth.sources.procedural import Rendered, render

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEVELOPMENT_SEED = 7
"""Root of every rendered picture here; no pipeline's params.yaml has it."""
VERSION = 1
LR = 2e-3
NORMAL_RATIO = 0.125
AUGMENTATION = Augmentation(flip=True, quarter_turns=True, brightness=0.1, contrast=0.1)


@dataclass(frozen=True)
class JudgeSettings:
    """What a judge is trained on, and for how long.

    Attributes:
        category, defects: procedural slugs.
        size_px: side of the pictures.
        pairs: rendered pairs that it learns from, the defects in turn.
        held_out: rendered pairs that it is tested on.
        steps, batch_size, channels: of the U-Net.
    """

    category: str
    defects: tuple[str, ...]
    size_px: int
    pairs: int
    held_out: int
    steps: int
    batch_size: int
    channels: int

    @property
    def digest(self) -> str:
        """Of everything that shapes the judge, threads left out: rounding moves no verdict on a method."""
        constants = [VERSION, ALGORITHM, LR, NORMAL_RATIO, vars(AUGMENTATION), DEVELOPMENT_SEED]
        return digest_value({**asdict(self), "defects": list(self.defects), "constants": constants})


def rendered(settings: JudgeSettings, use: str, index: int, *, sound: bool = False) -> Rendered:
    """Render picture `index` of a use ("train", "held_out", ...); uses share no seed, defects come in turn."""
    defect = None if sound else settings.defects[index % len(settings.defects)]
    kind = "sound" if sound else "pair"
    seed = seed_for(DEVELOPMENT_SEED, "dual_quality", settings.category, use, kind, index)
    return render(settings.category, defect=defect, seed=seed, size_px=settings.size_px)


class Judge:
    """A trained segmenter; a pixel is defective where it says so with more than even odds."""

    def __init__(self, network: UNetLocalizer, facts: dict[str, object]) -> None:
        """Take a fitted network and what its file says about it."""
        self._network = network
        self.facts = facts

    def masks(self, images: Iterable[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """Where each image, uint8 RGB [H, W, 3], is defective: uint8 [H, W] in {0, 255}."""
        answers = self._network.predict((str(at), image) for at, image in enumerate(images))
        return [np.where(answer.anomaly_map > 0.0, 255, 0).astype(np.uint8) for answer in answers]

    def agreement(self, images: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]]) -> list[float]:
        """IoU of each mask with what the judge sees in its image."""
        return [iou(found, mask) for found, mask in zip(self.masks(images), masks, strict=True)]


def open_judge(settings: JudgeSettings, folder: Path) -> Judge:
    """Read the judge of these settings below a folder, or train and test it and write it there.

    Args:
        settings: what it learns from; part of its folder's name.
        folder: where judges are kept; a judge is there whole or not at all.
    """
    there = folder / settings.digest[:16]
    network = _network(settings)
    if not there.exists():
        _train(network, settings)
        judge = Judge(network, {})
        tests = [rendered(settings, "held_out", index) for index in range(settings.held_out)]
        agreed = judge.agreement([one.image for one in tests], [one.mask for one in tests])
        by_defect = {
            defect: float(np.mean(agreed[at :: len(settings.defects)])) for at, defect in enumerate(settings.defects)
        }
        facts = {**asdict(settings), "held_out_iou": float(np.mean(agreed)), "by_defect": by_defect}
        fresh = folder / f".{settings.digest[:16]}"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        network.save(fresh)
        (fresh / "judge.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        fresh.replace(there)
    network.load(there)
    return Judge(network, json.loads((there / "judge.json").read_text(encoding="utf-8")))


def _network(settings: JudgeSettings) -> UNetLocalizer:
    return UNetLocalizer(
        channels=settings.channels,
        size_px=settings.size_px,
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=LR,
        normal_ratio=NORMAL_RATIO,
        synthetic_ratio=0.0,
        synthetic_until=1.0,
        augmentation=AUGMENTATION,
        init_seed=seed_for(DEVELOPMENT_SEED, "dual_quality", "judge", "init"),
        draw_seed=seed_for(DEVELOPMENT_SEED, "dual_quality", "judge", "draw"),
        dtype=torch.float32,
        device=torch.device("cpu"),
        name=f"judge of {settings.category}",
    )


def _train(network: UNetLocalizer, settings: JudgeSettings) -> None:
    indices = track(range(settings.pairs), total=settings.pairs, doing="rendering for the judge", unit="pair")
    pairs = []
    for index in indices:
        one = rendered(settings, "train", index)
        pairs.append(LabelledImage(f"pair {index}", one.image, one.mask, synthetic=False))
    normals = [
        LabelledImage(f"sound {index}", rendered(settings, "train", index, sound=True).image, None, synthetic=False)
        for index in range(max(1, settings.pairs // 10))
    ]
    network.fit(normals, pairs)
