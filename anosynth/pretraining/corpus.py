"""The backbone's training corpus: rendered, captioned, versioned, made in resumable pieces."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anosynth.fingerprint import digest_value
from anosynth.pretraining.materials import MATERIALS
from anosynth.pretraining.rendering import DAMAGE, OBJECTS, render
from anosynth.seeding import numpy_rng

ALGORITHM = 2
"""2: a damage that is named can be seen, and brass is called brass. The shipped weights were trained on 1."""

PIECE_ROWS = 400
"""Pictures per file; one piece is the unit of resuming."""

_WEIGHTS = {"worn_steel": 2.0, "machined_ridges": 2.0, "random_relief": 2.0} | dict.fromkeys(OBJECTS, 0.7)


@dataclass(frozen=True)
class CorpusSpec:
    """Which corpus: everything that shapes its pixels and captions.

    Attributes:
        seed: root seed.
        num_images: number of pictures, a multiple of `PIECE_ROWS`.
        size_px: height and width.
        damage_ratio: share of the pictures that show damage.
    """

    seed: int
    num_images: int
    size_px: int
    damage_ratio: float

    def __post_init__(self) -> None:
        if self.num_images <= 0 or self.num_images % PIECE_ROWS:
            raise ValueError(f"num_images is {self.num_images}; it must be a positive multiple of {PIECE_ROWS}")

    @property
    def version(self) -> str:
        """Digest of all but the length, so that a longer corpus keeps the pieces of a shorter one."""
        return digest_value(
            {"algorithm": ALGORITHM, "seed": self.seed, "size_px": self.size_px, "damage_ratio": self.damage_ratio}
        )[:16]

    @property
    def num_pieces(self) -> int:
        """Number of piece files."""
        return self.num_images // PIECE_ROWS


def picture(spec: CorpusSpec, index: int) -> tuple[NDArray[np.uint8], str, str]:
    """Picture `index` of the corpus: (uint8 [size_px, size_px, 3], caption, subject)."""
    rng = numpy_rng(spec.seed, "pretrain_corpus", index)
    subjects = (*MATERIALS, *OBJECTS)
    weights = np.array([_WEIGHTS.get(subject, 1.0) for subject in subjects])
    subject = subjects[int(rng.choice(len(subjects), p=weights / weights.sum()))]
    damage = tuple(DAMAGE)[int(rng.integers(len(DAMAGE)))] if rng.random() < spec.damage_ratio else None
    image, caption = render(rng, spec.size_px, subject=subject, damage=damage)
    return image, caption, subject


def render_pieces(spec: CorpusSpec, folder: Path, *, part: int = 0, parts: int = 1) -> Iterator[int]:
    """Render the pieces of `folder` that are missing, those whose number is `part` modulo `parts`.

    A piece is two files, pixels (.npy) and captions (.json); each is renamed into place, pixels last.

    Yields:
        the number of each piece made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for piece in range(part, spec.num_pieces, parts):
        target = folder / f"{piece:04d}.npy"
        if target.exists():
            continue
        rows = [picture(spec, index) for index in range(piece * PIECE_ROWS, (piece + 1) * PIECE_ROWS)]
        words = [{"caption": caption, "subject": subject} for _, caption, subject in rows]
        temporary = folder / f".{piece:04d}.{os.getpid()}"
        temporary.write_text(json.dumps(words))
        temporary.rename(folder / f"{piece:04d}.json")
        with temporary.open("wb") as file:
            np.save(file, np.stack([image for image, _, _ in rows]))
        temporary.rename(target)
        yield piece


def render_corpus(spec: CorpusSpec, folder: Path, *, processes: int) -> None:
    """Render all pieces of `folder` that are missing, several at a time; the files do not depend on how many.

    Other processes are started afresh, so the calling module must be safe to import. One that fails only says so: what
    it leaves is rendered here in the end.
    """
    missing = sum(not (folder / f"{piece:04d}.npy").exists() for piece in range(spec.num_pieces))
    processes = max(1, min(processes, missing))
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_render_part, args=(spec, folder, part, processes), daemon=True)
        for part in range(1, processes)
    ]
    for other in others:
        other.start()
    for _ in render_pieces(spec, folder, part=0, parts=processes):
        pass
    for other in others:
        other.join()
    for _ in render_pieces(spec, folder):
        pass


def _render_part(spec: CorpusSpec, folder: Path, part: int, parts: int) -> None:
    """Work of another process; ends after its piece if the process that started it was killed."""
    parent = multiprocessing.parent_process()
    for _ in render_pieces(spec, folder, part=part, parts=parts):
        if parent is not None and not parent.is_alive():
            return


@dataclass(frozen=True)
class Corpus:
    """The finished pieces of a corpus folder, pixels memory-mapped.

    Attributes:
        pieces: uint8 [PIECE_ROWS, size, size, 3] each.
        captions: one per picture.
        subjects: one per picture.
    """

    pieces: tuple[NDArray[np.uint8], ...]
    captions: tuple[str, ...]
    subjects: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.captions)

    def image(self, index: int) -> NDArray[np.uint8]:
        """uint8 [size, size, 3]."""
        return self.pieces[index // PIECE_ROWS][index % PIECE_ROWS]


def open_corpus(spec: CorpusSpec, folder: Path) -> Corpus:
    """The unbroken run of finished pieces from number 0 on, at most `spec.num_pieces`."""
    pieces, captions, subjects = [], [], []
    for piece in range(spec.num_pieces):
        path = folder / f"{piece:04d}.npy"
        if not path.exists():
            break
        pieces.append(np.load(path, mmap_mode="r"))
        words = json.loads(path.with_suffix(".json").read_text())
        captions += [str(row["caption"]) for row in words]
        subjects += [str(row["subject"]) for row in words]
    return Corpus(tuple(pieces), tuple(captions), tuple(subjects))
