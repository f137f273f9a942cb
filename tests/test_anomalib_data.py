"""An arm as an anomalib data module; runs in the environment of constraints/anomalib.txt, where anomalib is."""

from pathlib import Path

import numpy as np
import pytest
import torch

anomalib_data = pytest.importorskip(
    "anosynth.anomalib_data", reason="anomalib has an environment of its own", exc_type=ImportError
)

from anosynth.detectors.protocol import LabelledImage  # noqa: E402
from anosynth.errors import DataError  # noqa: E402


def labelled(count: int, *, anomalous: bool) -> list[LabelledImage]:
    rng = np.random.default_rng(anomalous)
    items = []
    for at in range(count):
        image = rng.integers(90, 110, (64, 64, 3)).astype(np.uint8)
        mask = None
        if anomalous:
            mask = np.zeros((64, 64), np.uint8)
            mask[10:30, 20:40] = 255
            image[mask > 0] = 230
        items.append(LabelledImage(str(at), image, mask, synthetic=anomalous))
    return items


def images(count: int) -> list[LabelledImage]:
    return labelled(count, anomalous=False) + labelled(count, anomalous=True)


def test_anomalib_reads_every_image_with_its_label_and_mask(tmp_path: Path) -> None:
    module = anomalib_data.ArmDataModule(
        labelled(6, anomalous=False), val=images(2), test=images(3), folder=tmp_path, name="washer"
    )
    module.setup()
    assert (len(module.train_data), len(module.val_data), len(module.test_data)) == (6, 4, 6)
    anomalous = [item for item in module.test_data if bool(item.gt_label)]
    assert len(anomalous) == 3
    assert all(int(item.gt_mask.sum()) == 400 for item in anomalous)
    assert not any(bool(item.gt_label) for item in module.train_data)


def test_pairs_in_training_and_no_validation_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="anomalib trains on normal images only"):
        anomalib_data.ArmDataModule(images(2), val=images(1), test=images(1), folder=tmp_path, name="washer")
    with pytest.raises(DataError, match="needs validation images"):
        anomalib_data.ArmDataModule(images(2)[:2], val=[], test=images(1), folder=tmp_path, name="washer")


def test_anomalibs_padim_fits_on_the_normals_and_finds_the_planted_defects(tmp_path: Path) -> None:
    from anomalib.engine import Engine
    from anomalib.models import Padim

    with torch.random.fork_rng():  # anomalib draws from the global generator
        module = anomalib_data.ArmDataModule(
            labelled(8, anomalous=False), val=images(2), test=images(4), folder=tmp_path / "images", name="washer"
        )
        model = Padim(backbone="resnet18", layers=["layer1", "layer2"], pre_trained=False, n_features=50)
        engine = Engine(default_root_dir=tmp_path / "results", accelerator="cpu", devices=1, logger=False)
        engine.fit(model, datamodule=module)
        (found,) = engine.test(model, datamodule=module)
        assert found["image_AUROC"] >= 0.9
