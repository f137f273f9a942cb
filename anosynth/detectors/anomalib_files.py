"""Images as the files and rows that anomalib reads; needs no anomalib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anosynth.detectors.protocol import LabelledImage
from anosynth.errors import DataError
from anosynth.imaging import encode_png


def check_normal(items: Sequence[LabelledImage]) -> None:
    """Refuse what anomalib refuses in training, by name.

    Raises:
        DataError: if an image is anomalous.
    """
    for item in items:
        if item.mask is not None:
            raise DataError(f"{item.name}: anomalib trains on normal images only; leave the arm's pairs out")


def write_row(item: LabelledImage, stem: Path, split: str) -> dict[str, object]:
    """Write one image, and its mask beside it, and return its row in anomalib's columns.

    Args:
        item: the image; anomalous if it has a mask.
        stem: path without its ending; folders are made.
        split: anomalib's word for its part; images of role val are "test" too.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    image, mask = stem.with_suffix(".png"), stem.with_name(f"{stem.name}_mask.png")
    image.write_bytes(encode_png(item.image))
    if item.mask is not None:
        mask.write_bytes(encode_png(item.mask))
    return {
        "image_path": str(image),
        "label_index": int(item.mask is not None),
        "mask_path": "" if item.mask is None else str(mask),
        "split": split,
    }
