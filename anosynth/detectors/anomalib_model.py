"""Any model of anomalib as a detector: fitted on an arm's normals, judged like every other one.

Needs the extra [anomalib] in an environment of its own (constraints/anomalib.txt); `build` imports this module only for
a detector of that kind. Nothing is downloaded by our doing, but a model asks for weights unless its options say
`pre_trained: false`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import anomalib.models
import numpy as np
import torch
from anomalib.data.datasets.image.tabular import TabularDataset
from anomalib.engine import Engine
from torch.utils.data import DataLoader

from anosynth.detectors.anomalib_files import check_normal, write_row
from anosynth.detectors.maps import resize_map
from anosynth.detectors.protocol import LabelledImage
from anosynth.detectors.state import read_state, write_state
from anosynth.errors import BackboneError, DataError, ParamsError
from anosynth.imaging import resize_image
from anosynth.params import AnomalibSpec
from anosynth.samples import Prediction
from anosynth.seeding import seed_for

if TYPE_CHECKING:
    from anomalib.models import AnomalibModule
    from numpy.typing import NDArray

ALGORITHM = 1
_BUILD_SEED = 0


class AnomalibModel:
    """A class of anomalib.models with its own pre-processing, and without its thresholds; a `protocol.Detector`.

    Images are resized to a square; scores and maps are as the model gives them, before any normalization. Global
    generators, which anomalib draws from, are seeded while it works and put back.
    """

    def __init__(self, spec: AnomalibSpec, *, seed: int, device: torch.device, name: str) -> None:
        """Build the model, not fitted.

        Args:
            spec: which one.
            seed: of everything drawn while fitting.
            device: where to compute.
            name: for errors and anomalib's logs.

        Raises:
            ParamsError: if there is no such model, or it does not take these options.
            BackboneError: if it wants weights that are not on this disk.
        """
        self._spec, self._seed, self._device, self._name = spec, seed, device, name
        found = getattr(anomalib.models, spec.model, None)
        if not (isinstance(found, type) and issubclass(found, anomalib.models.AnomalibModule)):
            raise ParamsError(f"{name}: anomalib.models has no model {spec.model!r}; look at its list of models")
        with _seeded(_BUILD_SEED):
            try:
                self._model: AnomalibModule = found(
                    **spec.options, post_processor=False, evaluator=False, visualizer=False
                )
            except (TypeError, ValueError) as error:
                raise ParamsError(f"{name}: {spec.model} does not take these options: {error}") from error
            except OSError as error:
                raise BackboneError(
                    f"{name}: {spec.model} wants weights that are not on this disk ({error}); "
                    "set pre_trained: false in its options, or point them to local weights"
                ) from error
        self._model.to(device).eval()

    def fit(self, normals: Sequence[LabelledImage], pairs: Sequence[LabelledImage]) -> None:
        """Fit on the normal images; `pairs` are ignored. See `protocol.Detector.fit`.

        Raises:
            DataError: if there is no normal image, or an anomalous one among them.
        """
        del pairs
        if not normals:
            raise DataError(f"{self._name}: anomalib trains on normal images and was given none")
        check_normal(normals)
        spec = self._spec
        with TemporaryDirectory() as place, _seeded(seed_for(self._seed, "anomalib")):
            sized = [replace(item, image=self._square(item.image)) for item in normals]
            rows = [write_row(item, Path(place) / f"{at:06d}", "train") for at, item in enumerate(sized)]
            data = TabularDataset(name=self._name, samples=rows, split="train")
            loader = DataLoader(data, batch_size=spec.batch_size, shuffle=True, collate_fn=data.collate_fn)
            engine = Engine(
                default_root_dir=Path(place) / "results",
                accelerator="cpu" if self._device.type == "cpu" else "gpu",
                devices=1,
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                **({} if spec.epochs is None else {"max_epochs": spec.epochs}),
            )
            engine.fit(self._model.train(), train_dataloaders=loader)
        self._model.to(self._device).eval()
        for tensor in (*self._model.parameters(), *self._model.buffers()):
            tensor.data = tensor.data.contiguous()  # as after loading: rounding depends on the layout

    def predict(self, images: Iterable[tuple[str, NDArray[np.uint8]]]) -> Iterator[Prediction]:
        """Judge images one at a time; see the class for what map and score mean.

        Raises:
            ParamsError: if the model gives no map or no score.
        """
        for name, image in images:
            pixels = torch.from_numpy(self._square(image).astype(np.float32) / 255.0).permute(2, 0, 1)[None]
            with torch.inference_mode():
                answer = self._model(pixels.to(self._device))
            if answer.anomaly_map is None or answer.pred_score is None:
                raise ParamsError(
                    f"{self._name}: {self._spec.model} gives no anomaly map or no score; take another model"
                )
            shown = answer.anomaly_map.reshape(answer.anomaly_map.shape[-2:]).float().cpu().numpy()
            anomaly_map = resize_map(shown, size_px=(image.shape[0], image.shape[1]))
            yield Prediction(name, float(answer.pred_score.reshape(())), anomaly_map)

    def save(self, folder: Path) -> None:
        """Write the model's state; see `protocol.Detector.save`."""
        tensors = {name: tensor.detach().cpu().numpy() for name, tensor in self._model.state_dict().items()}
        write_state(folder, settings=self._settings(), tensors=tensors)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; see `protocol.Detector.load`."""
        tensors = read_state(folder, settings=self._settings())
        self._model.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()})
        self._model.to(self._device).eval()

    def _square(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return resize_image(image, size_px=(self._spec.size_px, self._spec.size_px))

    def _settings(self) -> dict[str, str | int | float | bool]:
        spec = self._spec.model_dump_json(include={"model", "options", "size_px"})
        return {"kind": "anomalib", "algorithm": ALGORITHM, "version": anomalib.__version__, "spec": spec}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch for a while; afterwards they are as before."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
