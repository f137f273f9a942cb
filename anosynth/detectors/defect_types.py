"""Which type of defect an image shows: a classifier for a handful of labelled shots.

Differs from the published protocol (a ResNet-34 trained whole on hundreds of generated images): with 3 to 30 real shots
a network's last layer is what can be learned, so the features stay frozen and a linear head is fitted to its optimum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.optimize import minimize

from anosynth.detectors.protocol import LabelledImage
from anosynth.detectors.state import read_state, write_state
from anosynth.errors import DataError
from anosynth.features.encoder import PatchFeatures
from anosynth.features.patch_distances import nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALGORITHM = 1
_MAX_ITERATIONS = 500
_LEAST_SPREAD = 1e-6
_MAX_BANK = 20_000


class Classifier(Protocol):
    """The sibling of `protocol.Detector` for labelled anomalous images: which defect, not whether there is one."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Defect types in the order of the probabilities."""
        ...

    def fit(self, pairs: Sequence[LabelledImage]) -> None:
        """Learn from anomalous images whose `defect` is named.

        Raises:
            DataError: if a class has no image.
        """
        ...

    def predict_proba(self, images: Iterable[tuple[str, NDArray[np.uint8]]]) -> Iterator[NDArray[np.float64]]:
        """Probabilities of the classes, float64 [C] that sum to 1, for each (id, uint8 RGB [H, W, 3]) in order."""
        ...

    def save(self, folder: Path) -> None:
        """Write the fitted state into an existing folder."""
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; probabilities are then equal to the last bit."""
        ...


class DefectDescriber:
    """Describes an image by its least normal patches: the mean feature of those farthest from the normal images.

    A defect covers a few of several hundred patches, so a mean over the whole image describes the part, not the defect.
    The patches are chosen without a mask, in training as in use.
    """

    def __init__(self, features: PatchFeatures, normals: Sequence[NDArray[np.uint8]], *, patch_ratio: float) -> None:
        """Describe the normal images' patches.

        Args:
            features: frozen encoder.
            normals: real normal images, uint8 RGB [H, W, 3]; they say where to look and teach no class.
            patch_ratio: share of an image's patches that describe it, (0, 1]; at least one patch.

        Raises:
            DataError: if there is no normal image.
        """
        if not normals:
            raise DataError("a defect-type classifier needs at least one normal image to see what is not normal")
        patches = features.patches(normals)
        rows = patches.reshape(-1, patches.shape[-1])
        self._bank = rows[:: max(1, -(-len(rows) // _MAX_BANK))]
        self._features = features
        self._patch_ratio = patch_ratio
        self._known: dict[tuple[str, int], NDArray[np.float64]] = {}

    def describe(self, name: str, image: NDArray[np.uint8], *, view: int = 0) -> NDArray[np.float64]:
        """Describe one view of an image, float64 [D]; a training image of the same name is described once a view.

        Args:
            name: unique among the images that are asked for.
            image: uint8 RGB [H, W, 3].
            view: 0 to 7: turned by view % 4 quarter turns, mirrored from 4 on.
        """
        if (name, view) not in self._known:
            turned = np.rot90(image[:, ::-1] if view >= 4 else image, view % 4)
            patches = self._features.patches([np.ascontiguousarray(turned)])[0]
            rows = patches.reshape(-1, patches.shape[-1])
            distances = nearest(rows, self._bank)[0][:, 0]
            count = max(1, round(self._patch_ratio * len(rows)))
            chosen = np.argsort(-distances, kind="stable")[:count]
            self._known[name, view] = rows[chosen].mean(axis=0, dtype=np.float64)
        return self._known[name, view]


class LinearClassifier:
    """Multinomial logistic regression on standardized descriptions; satisfies `Classifier`.

    Minimizes the mean cross-entropy, every class weighing alike, plus l2 / 2 |W|^2: convex, so there is one answer and
    no seed. Chance enters through the views of the training images alone.
    """

    def __init__(
        self,
        describer: DefectDescriber,
        classes: Sequence[str],
        *,
        l2: float,
        views: int,
        synthetic_ratio: float,
        rng: np.random.Generator,
    ) -> None:
        """Take the settings.

        Args:
            describer: of the category.
            classes: defect types, at least two.
            l2: weight of the penalty, > 0.
            views: of every training image, 1 (as it is) to 8 (all turns and mirror images).
            synthetic_ratio: share of a class's weight that its synthetic images carry, where it has both kinds.
            rng: draws the views.
        """
        if len(set(classes)) < 2:
            raise ValueError(f"a classifier needs two classes, got {list(classes)}")
        self._describer = describer
        self._classes = tuple(classes)
        self._l2 = l2
        self._views = views
        self._synthetic_ratio = synthetic_ratio
        self._rng = rng
        self._weights = np.zeros((len(self._classes), 0))
        self._bias = np.zeros(len(self._classes))
        self._mean, self._scale = np.zeros(0), np.zeros(0)

    @property
    def classes(self) -> tuple[str, ...]:
        """Defect types in the order of the probabilities."""
        return self._classes

    def fit(self, pairs: Sequence[LabelledImage]) -> None:
        """Fit to the optimum; see `Classifier.fit`."""
        labelled = [(item, self._classes.index(item.defect)) for item in pairs if item.defect in self._classes]
        missing = [name for at, name in enumerate(self._classes) if all(label != at for _, label in labelled)]
        if missing:
            raise DataError(f"no training image shows {', '.join(missing)}; give the arm pairs of every defect type")
        rows, labels, synthetic = [], [], []
        for item, label in labelled:
            for view in [0, *(1 + self._rng.permutation(7))][: self._views]:
                rows.append(self._describer.describe(item.name, item.image, view=int(view)))
                labels.append(label)
                synthetic.append(item.synthetic)
        x, y = np.stack(rows), np.array(labels)
        self._mean, self._scale = x.mean(axis=0), np.maximum(x.std(axis=0), _LEAST_SPREAD)
        shares = _shares(y, np.array(synthetic), ratio=self._synthetic_ratio)
        self._weights, self._bias = _optimum((x - self._mean) / self._scale, y, shares, l2=self._l2)

    def predict_proba(self, images: Iterable[tuple[str, NDArray[np.uint8]]]) -> Iterator[NDArray[np.float64]]:
        """Judge images one at a time, as they are; see `Classifier.predict_proba`."""
        for name, image in images:
            row = (self._describer.describe(name, image) - self._mean) / self._scale
            yield _softmax((self._weights @ row + self._bias)[None])[0]

    def save(self, folder: Path) -> None:
        """Write weights and settings; see `Classifier.save`."""
        tensors = {"weights": self._weights, "bias": self._bias, "mean": self._mean, "scale": self._scale}
        write_state(folder, settings=self._settings(), tensors=tensors)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; see `Classifier.load`."""
        tensors = read_state(folder, settings=self._settings())
        self._weights, self._bias, self._mean, self._scale = (
            tensors[name].astype(np.float64) for name in ("weights", "bias", "mean", "scale")
        )

    def _settings(self) -> dict[str, str | int | float | bool]:
        return {"kind": "defect_types", "algorithm": ALGORITHM, "classes": ",".join(self._classes)}


def _shares(labels: NDArray[np.int64], synthetic: NDArray[np.bool_], *, ratio: float) -> NDArray[np.float64]:
    """Weight of every row; each class sums to 1 / C, and its synthetic rows to `ratio` of that where it has both."""
    weights = np.zeros(len(labels))
    classes = np.unique(labels)
    for label in classes:
        kinds = [np.flatnonzero((labels == label) & (synthetic == kind)) for kind in (False, True)]
        parts = (1.0 - ratio, ratio) if all(map(len, kinds)) else (1.0, 1.0)
        for rows, part in zip(kinds, parts, strict=True):
            if len(rows):
                weights[rows] = part / len(rows) / len(classes)
    return weights


def _optimum(
    x: NDArray[np.float64], y: NDArray[np.int64], shares: NDArray[np.float64], *, l2: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Minimize sum_i s_i CE(W x_i + b, y_i) + l2 / 2 |W|^2 by L-BFGS from zero."""
    num_classes, num_dims = int(y.max()) + 1, x.shape[1]
    cut = num_classes * num_dims
    wanted = np.eye(num_classes)[y]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = flat[:cut].reshape(num_classes, num_dims), flat[cut:]
        given = _softmax(x @ weights.T + bias)
        value = -(shares * np.log(np.maximum((given * wanted).sum(axis=1), np.finfo(float).tiny))).sum()
        slope = (given - wanted) * shares[:, None]
        gradient = np.concatenate([(slope.T @ x + l2 * weights).ravel(), slope.sum(axis=0)])
        return float(value + 0.5 * l2 * np.square(weights).sum()), gradient

    found = minimize(
        loss, np.zeros(cut + num_classes), jac=True, method="L-BFGS-B", options={"maxiter": _MAX_ITERATIONS}
    )
    return found.x[:cut].reshape(num_classes, num_dims), found.x[cut:]


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
