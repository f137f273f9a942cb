"""WinCLIP+ on aligned features: windows of patches against text and against normal windows (Jeong et al. 2023).

Differs: WinCLIP runs its transformer once per window, on the window's tokens alone. Here a window is the mean of its
patches' features, one pass for all windows, because our embedded encoder is convolutional and a pass per window would
cost hundreds; and the distances to normal windows are averaged over all levels of the encoder, not taken from one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anosynth.detectors.protocol import LabelledImage
from anosynth.detectors.state import read_state, write_state
from anosynth.detectors.triplet import Bank, full_size, nearest_normal, text_probability
from anosynth.errors import DataError
from anosynth.features.aligned import AlignedFeatures, class_prototypes
from anosynth.features.ridge_map import normalize_rows
from anosynth.samples import Prediction
from anosynth.seeding import numpy_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALGORITHM = 1
_LEAST = 1e-6


class WinClip:
    """Text scores and few-shot association over windows of several sizes; satisfies `protocol.Detector`.

    One-class, so pairs are ignored.
    """

    def __init__(
        self,
        features: AlignedFeatures,
        *,
        name: str,
        windows: Sequence[int],
        max_rows: int,
        text_weight: float,
        synthetic_weight: float,
        seed: int,
    ) -> None:
        """Prepare an unfitted detector.

        Args:
            features: the frozen encoders.
            name: what the object is called in prompts.
            windows: sides of the windows in patches, each above 1; single patches are always compared too.
            max_rows: at most so many windows of real, and of generated, images are kept per level and size.
            text_weight: [0, 1], of text beside association; 0.5 is the paper.
            synthetic_weight: (0, 1]; a generated window counts as 1 / weight times as far away.
            seed: of the choice where there are more than `max_rows`, [0, 2**63).
        """
        self._features = features
        self._name = name
        self._sides = (1, *windows)
        self._max_rows = max_rows
        self._text_weight = text_weight
        self._synthetic_weight = synthetic_weight
        self._seed = seed
        self._state: dict[str, NDArray[np.float32]] = {}

    def fit(self, normals: Sequence[LabelledImage], pairs: Sequence[LabelledImage]) -> None:
        """Embed the prompts and keep the windows of the normal images.

        Where there are generated images only, they count as real ones.

        Raises:
            DataError: if there is no normal image, or windows are larger than the grid.
            ParamsError: if the object's name says nothing.
        """
        del pairs
        if not normals:
            raise DataError("WinCLIP+ needs normal images and was given none; let the arm use real_normals")
        levels = self._features.patch_levels([labelled.image for labelled in normals])
        if max(self._sides) > min(levels[0].shape[1:3]):
            raise DataError(
                f"WinCLIP+: a window of {max(self._sides)} patches is larger than the grid of {levels[0].shape[1:3]}; "
                "make windows smaller or aligned.size_px larger"
            )
        made = np.array([labelled.synthetic for labelled in normals])
        if made.all():
            made[:] = False
        state = {"prototypes": class_prototypes(self._features, self._name)}
        for at, level in enumerate(levels):
            for side in self._sides:
                for kind, which in (("real", ~made), ("synthetic", made)):
                    rows = [window_means(patches, side) for patches in level[which]]
                    flat = np.concatenate([np.empty((0, level.shape[3]), np.float32), *map(_flat, rows)])
                    if len(flat) > self._max_rows:
                        rng = numpy_rng(self._seed, "windows", at, side, kind)
                        flat = flat[np.sort(rng.choice(len(flat), self._max_rows, replace=False))]
                    state[_key(kind, at, side)] = flat
        self._state = state

    def predict(self, images: Iterable[tuple[str, NDArray[np.uint8]]]) -> Iterator[Prediction]:
        """Score images by text and association.

        1. A(w) = min over normal windows of (1 - cosine) / 2, for every size of window; a patch gets the harmonic mean
           of the windows around it, and the mean over sizes (and levels).
        2. T(w) = softmax at "anomalous" of every window and of the whole image; a patch gets the harmonic mean of the
           windows around it, then the harmonic mean over sizes and the whole.
        3. score = (1 - c) max A + c T(whole), map = (1 - c) A + c T, with c the weight of text.
        """
        state = self._filled()
        for name, image in images:
            levels = [level[0] for level in self._features.patch_levels([image])]
            whole = self._whole(image, state["prototypes"])
            near, told = [], [np.full(levels[0].shape[:2], whole)]
            for side in self._sides:
                windows = [window_means(level, side) for level in levels]
                distances = nearest_normal(windows, [self._bank(at, side) for at in range(len(levels))]) / 2.0
                near += [spread_harmonically(one, side) for one in distances]
                if side > 1:
                    chances = text_probability(windows, state["prototypes"], self._features)
                    told.append(spread_harmonically(chances.mean(axis=0), side))
            association = np.mean(near, axis=0)
            text = len(told) / sum(1.0 / np.maximum(one, _LEAST) for one in told)
            weight = self._text_weight
            score = (1.0 - weight) * float(association.max()) + weight * whole
            grid = ((1.0 - weight) * association + weight * text).astype(np.float32)
            yield Prediction(name, score, full_size(grid, size_px=(image.shape[0], image.shape[1])))

    def save(self, folder: Path) -> None:
        """Write windows, prototypes and settings; see `protocol.Detector.save`."""
        write_state(folder, settings=self._settings(), tensors=self._filled())

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; see `protocol.Detector.load`."""
        read = read_state(folder, settings=self._settings())
        self._state = {name: np.array(tensor, dtype=np.float32) for name, tensor in read.items()}

    def _whole(self, image: NDArray[np.uint8], prototypes: NDArray[np.float32]) -> float:
        cosines = prototypes.astype(np.float64) @ self._features.embed_images([image])[0]
        return float(1.0 / (1.0 + np.exp(np.clip(self._features.temperature * (cosines[0] - cosines[1]), -500, 500))))

    def _bank(self, level: int, side: int) -> Bank:
        state = self._filled()
        real, made = (state[_key(kind, level, side)] for kind in ("real", "synthetic"))
        return Bank(real, made, self._synthetic_weight)

    def _settings(self) -> dict[str, str | int | float | bool]:
        return {
            "kind": "winclip",
            "algorithm": ALGORITHM,
            "features": self._features.identity,
            "name": self._name,
            "sides": " ".join(map(str, self._sides)),
            "max_rows": self._max_rows,
            "text_weight": self._text_weight,
            "synthetic_weight": self._synthetic_weight,
        }

    def _filled(self) -> dict[str, NDArray[np.float32]]:
        if not self._state:
            raise RuntimeError("WinCLIP+ is empty: call fit or load first")
        return self._state


def window_means(patches: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Mean of the patches of every window of side x side, scaled to length 1.

    Args:
        patches: float32 [gh, gw, D].
        side: at least 1, at most the grid's shorter side.

    Returns:
        float32 [gh - side + 1, gw - side + 1, D].
    """
    windows = np.lib.stride_tricks.sliding_window_view(patches, (side, side), axis=(0, 1))
    return np.asarray(normalize_rows(windows.mean(axis=(3, 4))), np.float32)


def spread_harmonically(values: NDArray[np.floating], side: int) -> NDArray[np.float64]:
    """Give every patch the harmonic mean of the windows that cover it; values below 1e-6 count as 1e-6.

    Args:
        values: of the windows, [gh - side + 1, gw - side + 1], not negative.
        side: of the windows.

    Returns:
        float64 [gh, gw].
    """
    rows, columns = (length + side - 1 for length in values.shape)
    total, count = np.zeros((rows, columns)), np.zeros((rows, columns))
    inverse = 1.0 / np.maximum(values.astype(np.float64), _LEAST)
    for down in range(side):
        for right in range(side):
            total[down : down + values.shape[0], right : right + values.shape[1]] += inverse
            count[down : down + values.shape[0], right : right + values.shape[1]] += 1.0
    return count / total


def _flat(grid: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(grid.reshape(-1, grid.shape[-1]))


def _key(kind: str, level: int, side: int) -> str:
    return f"{kind}_{level}_{side}"
