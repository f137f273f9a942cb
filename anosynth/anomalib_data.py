"""One arm of a comparison as an anomalib data module: any anomalib model can be fitted on real and synthetic images.

Needs the extra [anomalib] in an environment of its own (constraints/anomalib.txt); nothing else in the project imports
this module. anomalib reads images from files, so they are written once as PNG below a folder of the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anomalib.data import AnomalibDataModule
from anomalib.data.datasets.image.tabular import TabularDataset
from anomalib.data.utils import TestSplitMode, ValSplitMode

from anosynth.detectors.anomalib_files import check_normal, write_row
from anosynth.detectors.protocol import LabelledImage
from anosynth.errors import DataError


class ArmDataModule(AnomalibDataModule):
    """Trains on the normal images of an arm, real and synthetic, and validates and tests on real images.

    anomalib refuses anomalous images in training, so an arm's pairs have no place here: its models are one-class.
    """

    def __init__(
        self,
        normals: Sequence[LabelledImage],
        *,
        val: Sequence[LabelledImage],
        test: Sequence[LabelledImage],
        folder: Path,
        name: str,
        batch_size: int = 8,
    ) -> None:
        """Write the images.

        Args:
            normals: of one arm (`arms.ArmData.normals`).
            val: real images of role val, by which anomalib sets its thresholds; those with a mask are anomalous.
            test: real images of role test, likewise.
            folder: where to write; files of the same place are overwritten.
            name: for anomalib's logs and result folders.
            batch_size: of training and testing.

        Raises:
            DataError: if a training image is anomalous, or there is no validation image.
        """
        check_normal(normals)
        if not val:
            raise DataError(f"{name}: anomalib needs validation images and was given none; set split.val_ratio above 0")
        super().__init__(
            train_batch_size=batch_size,
            eval_batch_size=batch_size,
            num_workers=0,
            val_split_mode=ValSplitMode.FROM_DIR,
            test_split_mode=TestSplitMode.FROM_DIR,
        )
        self._name = name
        self._parts = {
            part: [write_row(item, folder / part / f"{at:06d}", split) for at, item in enumerate(items)]
            for part, split, items in (("train", "train", normals), ("val", "test", val), ("test", "test", test))
        }

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self._name

    def _setup(self, _stage: str | None = None) -> None:
        self.train_data = TabularDataset(name=self._name, samples=self._parts["train"], split="train")
        self.val_data = TabularDataset(name=self._name, samples=self._parts["val"], split="test")
        self.test_data = TabularDataset(name=self._name, samples=self._parts["test"], split="test")
