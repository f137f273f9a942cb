"""How close a synthetic image comes to the nearest real shot, and to its own pool.

A generator that was shown a handful of shots may hand one of them back: mirrored, cropped, a little brighter. Aligned
parts make plain correlation useless for telling that from a new part in the same pose: two pictures of different
washers correlate at 0.97. So similarity is a *partial* correlation of local structure: what the sample and the shot
have in common beyond what other real images of the category, brought into register, have in common with both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft

from anosynth.fingerprint import digest_pixels
from anosynth.screening.alignment import (
    COARSE_PX,
    FINE_PX,
    MIN_OVERLAP,
    NUM_POSES,
    Template,
    grey_square,
    halved,
    local_structure,
    partial_correlation,
    posed,
    unposed,
    zoomed,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Crops down to 0.7 of the side (1 / 1.42) are looked for, and pictures taken from a little farther away.
SCALES = (0.92, 1.0, 1.09, 1.19, 1.30, 1.42)
# Poses whose coarse correlation (at most 2) comes within the margin of the best are refined; on parts of high symmetry
# many do.
CANDIDATE_MARGIN = 0.15
MIN_CANDIDATES = 4
MAX_CANDIDATES = 32
NUM_FINALISTS = 3
ROUNDS_COARSE = 4
ROUNDS_FINE = 6
# Other real images that are regressed out per shot.
MAX_REFERENCES = 8


@dataclass(frozen=True)
class Match:
    """The shot that an image resembles most.

    Attributes:
        similarity: partial correlation in [-1, 1]; 1 for an exact copy. Pictures of different parts stay below
            0.7, mirrored, cropped (0.85 of the side and more) or brightness-changed copies lie above 0.8.
        shot: index of the shot.
    """

    similarity: float
    shot: int


class NearestShot:
    """Finds the shot that an image may be a copy of, over mirrors, quarter turns, crops, shifts and small turns.

    1. Coarse: the image is correlated with every shot in 8 poses and 6 scales at all shifts (FFT, 32 px).
    2. The best poses are refined by an affine warp (32 px) and ranked by partial correlation (64 px).
    3. The best three are refined at 64 px; the largest partial correlation counts.
    """

    def __init__(self, shots: Sequence[NDArray[np.uint8]], *, others: Sequence[NDArray[np.uint8]]) -> None:
        """Prepare the shots.

        Args:
            shots: uint8 RGB [H, W, 3] of any sizes, at least one.
            others: other real images of the same category, best normal ones; the first MAX_REFERENCES are brought into
                register with each shot and regressed out. A shot that stands among them is not its own reference.

        Raises:
            ValueError: if there are no shots.
        """
        if not shots:
            raise ValueError("there are no shots to compare with")
        self._window = _window(COARSE_PX)
        squares = [grey_square(shot, side_px=FINE_PX) for shot in shots]
        poses = [posed(square, pose) for square in squares for pose in range(NUM_POSES)]
        self._fine = [Template(local_structure(pose)) for pose in poses]
        self._coarse = [Template(local_structure(halved(pose))) for pose in poses]
        self._given = [np.zeros((0, FINE_PX * FINE_PX), dtype=np.float32) for _ in poses]
        self._spectra = np.concatenate([self._spectra_of(pose, []) for pose in poses])
        for index, shot in enumerate(shots):
            frames = self._others_in_frame(index, shot, others)
            for pose in range(index * NUM_POSES, (index + 1) * NUM_POSES) if frames else ():
                turned = [posed(frame, pose % NUM_POSES) for frame in frames]
                self._given[pose] = np.stack([local_structure(frame).ravel() for frame in turned])
                at = slice(pose * len(SCALES), (pose + 1) * len(SCALES))
                self._spectra[at] = self._spectra_of(poses[pose], turned)

    def match(self, image: NDArray[np.uint8]) -> Match:
        """Return the nearest shot of a uint8 RGB image [H, W, 3] of any size."""
        return max(
            (Match(similarity, pose // NUM_POSES) for pose, _, similarity in self._registered(image)),
            key=lambda found: found.similarity,
            default=Match(-1.0, 0),
        )

    def similarity(self, image: NDArray[np.uint8], *, shot: int) -> float:
        """Return the similarity of a uint8 RGB image [H, W, 3] to one shot, by its index, in [-1, 1]."""
        return max((similarity for _, _, similarity in self._registered(image, shot=shot)), default=-1.0)

    def _spectra_of(self, square: NDArray[np.float32], others: Sequence[NDArray[np.float32]]) -> NDArray[np.complex64]:
        """Conjugate spectra of a picture at every scale: what is correlated with an image at all shifts.

        Structure and the part of it that the others do not have, of equal weight: the first brings parts of one kind
        into register, the second tells one part from another.
        """
        spectra = []
        for scale in SCALES:
            own, *rest = (
                self._normalized(local_structure(halved(zoomed(one, scale)))).ravel() for one in (square, *others)
            )
            basis = np.linalg.qr(np.stack(rest, axis=1))[0] if rest else np.zeros((own.size, 0), dtype=np.float32)
            left = own - basis @ (basis.T @ own)
            both = own + left / (np.linalg.norm(left) + 1e-9)
            spectra.append(np.conj(fft.rfft2(both.reshape(COARSE_PX, COARSE_PX))))
        return np.stack(spectra)

    def _others_in_frame(
        self, index: int, shot: NDArray[np.uint8], others: Sequence[NDArray[np.uint8]]
    ) -> list[NDArray[np.float32]]:
        """Other images as they would look in the shot's place, grey [FINE_PX, FINE_PX]."""
        itself = digest_pixels(shot)
        frames = []
        for other in [other for other in others if digest_pixels(other) != itself][:MAX_REFERENCES]:
            found = max(self._registered(other, shot=index), key=lambda one: one[2], default=None)
            if found is not None:
                pose, warp, _ = found
                values, _ = self._fine[pose].warped(grey_square(other, side_px=FINE_PX), warp)
                frames.append(unposed(values.reshape(FINE_PX, FINE_PX), pose % NUM_POSES))
        return frames

    def _registered(
        self, image: NDArray[np.uint8], *, shot: int | None = None
    ) -> list[tuple[int, NDArray[np.float64], float]]:
        """Warps of an image onto the shots' poses, with their partial correlations; only one shot's if it is given."""
        structure = local_structure(grey_square(image, side_px=FINE_PX))
        coarse = local_structure(grey_square(image, side_px=COARSE_PX))
        ranked = []
        for pose, warp in self._candidates(coarse, shot):
            refined = self._coarse[pose].refine(coarse, warp, rounds=ROUNDS_COARSE)
            if refined is not None:
                refined = refined * [[1.0, 1.0, FINE_PX / COARSE_PX]]
                ranked.append((pose, refined, self._similarity(structure, pose, refined)))
        ranked.sort(key=lambda one: -one[2])
        finalists = ranked[:NUM_FINALISTS]
        for pose, warp, _ in ranked[:NUM_FINALISTS]:
            refined = self._fine[pose].refine(structure, warp, rounds=ROUNDS_FINE)
            if refined is not None:
                finalists.append((pose, refined, self._similarity(structure, pose, refined)))
        return finalists

    def _similarity(self, structure: NDArray[np.float32], pose: int, warp: NDArray[np.float64]) -> float:
        values, inside = self._fine[pose].warped(structure, warp)
        if inside.mean() < MIN_OVERLAP:
            return -1.0
        return partial_correlation(self._fine[pose].values, values, given=self._given[pose], where=inside)

    def _candidates(self, coarse: NDArray[np.float32], shot: int | None) -> list[tuple[int, NDArray[np.float64]]]:
        """The poses worth refining, best first, each with the scale and shift of its highest correlation."""
        spectrum = fft.rfft2(self._normalized(coarse))
        per_shot = NUM_POSES * len(SCALES)
        first = 0 if shot is None else shot * per_shot
        last = len(self._spectra) if shot is None else first + per_shot
        size = (COARSE_PX, COARSE_PX)
        correlations = fft.irfft2(spectrum * self._spectra[first:last], s=size).reshape(last - first, -1)
        shifts = correlations.argmax(axis=1)
        heights = np.take_along_axis(correlations, shifts[:, None], axis=1)[:, 0]
        found: dict[int, NDArray[np.float64]] = {}
        for variant in np.argsort(-heights, kind="stable"):
            pose, scale = divmod(int(variant) + first, len(SCALES))
            if pose in found:
                continue
            too_low = heights[variant] < heights.max() - CANDIDATE_MARGIN
            if len(found) >= (MIN_CANDIDATES if too_low else MAX_CANDIDATES):
                break
            down, right = (
                ((int(at) + COARSE_PX // 2) % COARSE_PX) - COARSE_PX // 2 for at in divmod(shifts[variant], COARSE_PX)
            )
            found[pose] = np.array([[SCALES[scale], 0.0, down], [0.0, SCALES[scale], right]])
        return list(found.items())

    def _normalized(self, structure: NDArray[np.float32]) -> NDArray[np.float32]:
        tapered = structure * self._window
        tapered = tapered - tapered.mean()
        return np.asarray(tapered / (np.linalg.norm(tapered) + 1e-9), dtype=np.float32)


class PoolSoFar:
    """The accepted samples of a pool, to find later ones that repeat them (no registration: exact repeats)."""

    def __init__(self) -> None:
        self._rows = np.zeros((64, 2 * COARSE_PX * COARSE_PX), dtype=np.float32)
        self._count = 0

    def similarity(self, image: NDArray[np.uint8], mask: NDArray[np.uint8] | None) -> float:
        """Similarity to the most similar sample so far: correlation of local structure at 32 px, in [-1, 1].

        For pairs it is the smaller one of this and of the masks' cosine similarity: defects put at different places of
        one parent make different pairs. -1 if the pool is empty.
        """
        if self._count == 0:
            return -1.0
        row, half = _row(image, mask), COARSE_PX * COARSE_PX
        images = self._rows[: self._count, :half] @ row[:half]
        if mask is None:
            return min(1.0, float(images.max()))
        return min(1.0, float(np.minimum(images, self._rows[: self._count, half:] @ row[half:]).max()))

    def add(self, image: NDArray[np.uint8], mask: NDArray[np.uint8] | None) -> None:
        """Remember an accepted sample."""
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[self._count] = _row(image, mask)
        self._count += 1


def _row(image: NDArray[np.uint8], mask: NDArray[np.uint8] | None) -> NDArray[np.float32]:
    """Unit vectors of an image's local structure and of its mask's coverage, one after the other."""
    structure = local_structure(grey_square(image, side_px=COARSE_PX)).ravel()
    structure = structure - structure.mean()
    covered = np.zeros(COARSE_PX * COARSE_PX, dtype=np.float32)
    if mask is not None:
        covered = grey_square(mask, side_px=COARSE_PX).ravel()
    parts = [part / (np.linalg.norm(part) + 1e-9) for part in (structure, covered)]
    return np.concatenate(parts).astype(np.float32)


def _window(side: int) -> NDArray[np.float32]:
    """1 in the middle, falling to 0 over a quarter of the side at each edge."""
    ramp = np.minimum(1.0, 2.5 * np.hanning(side + 2)[1:-1])
    return np.outer(ramp, ramp).astype(np.float32)
