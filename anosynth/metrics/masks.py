"""What the masks of a set look like: size, number of regions, place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from anosynth.metrics.regions import region_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUANTILES = (10, 50, 90)


def mask_statistics(masks: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    """Summarize masks.

    Args:
        masks: uint8 [H, W] each, 0 is background, none empty; sizes may differ.

    Returns:
        Quantiles of the share of the image that a mask covers (`area_ratio_p10`, `_p50`, `_p90`), the mean number of
        8-connected regions, and mean and standard deviation of the centre of mass, as a share of height and width from
        the upper left corner. NaN for no masks.
    """
    names = [*(f"area_ratio_p{q}" for q in QUANTILES), "regions", "row", "row_sd", "column", "column_sd"]
    if not masks:
        return dict.fromkeys(names, float("nan"))
    areas = [np.count_nonzero(mask) / mask.size for mask in masks]
    regions = [region_weights(mask)[2] for mask in masks]
    centres = np.array([_centre(mask) for mask in masks])
    (row, column), (row_sd, column_sd) = centres.mean(axis=0), centres.std(axis=0)
    found = [*np.percentile(areas, QUANTILES), np.mean(regions), row, row_sd, column, column_sd]
    return {name: float(value) for name, value in zip(names, found, strict=True)}


def defect_crop(image: NDArray[np.uint8], mask: NDArray[np.uint8], *, margin: float, min_px: int) -> NDArray[np.uint8]:
    """Cut a square around the defect out of an image.

    The square is centred on the mask's bounding box, its side the box's longer side times 1 + 2 margin, at least
    `min_px`; it is moved inside the image, and shrunk only where the image is smaller than the square.

    Args:
        image: uint8 [H, W, 3].
        mask: uint8 [H, W], not empty.
        margin: context on each side, as a share of the box's longer side.
        min_px: smallest side.

    Returns:
        uint8 [h, w, 3], a view of the image.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        raise ValueError("a crop around a defect needs a mask that is not empty")
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    side = max(min_px, round(longer * (1.0 + 2.0 * margin)))
    cut = [
        _window(int(one[0] + one[-1] + 1), side, size) for one, size in ((rows, len(mask)), (columns, mask.shape[1]))
    ]
    return image[cut[0], cut[1]]


def _window(twice_centre: int, side: int, size: int) -> slice:
    start = min(max((twice_centre - side) // 2, 0), max(size - side, 0))
    return slice(start, min(start + side, size))


def _centre(mask: NDArray[np.uint8]) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return (rows.mean() + 0.5) / mask.shape[0], (columns.mean() + 0.5) / mask.shape[1]
