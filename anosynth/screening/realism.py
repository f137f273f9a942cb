"""How real and how varied the pools of one category are, measured and never used to refuse a sample.

The judge's network is another one than the detectors', so that no pool is praised for pleasing the detector it trains.
Figures with the suffix Lite follow KID's and IC-LPIPS's protocols on EfficientNet-Lite features. Published names are
for the published networks alone, which take part when their weights lie on the disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from anosynth.features.inception import InceptionFeatures
from anosynth.features.lite import LiteFeatures
from anosynth.features.lpips import LpipsFeatures
from anosynth.imaging import resize_image, resize_mask
from anosynth.metrics.clusters import IntraCluster, intra_cluster_distance
from anosynth.metrics.frechet import frechet_of_rows
from anosynth.metrics.masks import defect_crop, mask_statistics
from anosynth.metrics.synthesis import SCORE_SPLITS, inception_score, kid_lite, manifolds
from anosynth.params import MeasureParams

if TYPE_CHECKING:
    from numpy.typing import NDArray

KERNEL = "(cosine + 1)^3 of mean-pooled features"
HELD_BYTES = 1 << 30  # of LPIPS descriptions: 400 images with AlexNet, 33 with VGG16


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images with their masks.

    Attributes:
        images: uint8 RGB [H, W, 3] each.
        masks: uint8 [H, W] in {0, 255} each, not empty; none at all for normal images.
    """

    images: Sequence[NDArray[np.uint8]]
    masks: Sequence[NDArray[np.uint8]]

    def resized(self, size: tuple[int, int]) -> Pictures:
        """All images and masks at one size (height, width)."""
        return Pictures(
            [resize_image(image, size_px=size) for image in self.images],
            [resize_mask(mask, size_px=size) for mask in self.masks],
        )


class Realism:
    """Compares sets of pictures with real ones."""

    def __init__(
        self,
        features: LiteFeatures,
        settings: MeasureParams,
        *,
        inception: InceptionFeatures | None = None,
        lpips: LpipsFeatures | None = None,
    ) -> None:
        """Take the networks.

        Args:
            features: the judge's, which must have all of its levels open.
            settings: section `measure` of params.yaml.
            inception: for FID and the Inception score; None leaves both out.
            lpips: for IC-LPIPS; None leaves it out.
        """
        self._features = features
        self._settings = settings
        self._inception = inception
        self._lpips = lpips

    def compare(
        self, pool: Pictures, *, reference: Pictures, shots: Sequence[NDArray[np.uint8]], rng: np.random.Generator
    ) -> dict[str, object]:
        """Measure one set against real images that shaped it (the shots) and real images that did not (the reference).

        Args:
            pool: what is measured.
            reference: real images of the same kind that no generator has seen.
            shots: real images that the pool was made from; its diversity is taken around them.
            rng: draws subsets.

        Returns:
            JSON values, null where there are too few images: KID-Lite of whole images and, where there are masks, of
            crops around the defect; precision, recall, density and coverage of the crops (whole images without masks);
            IC-LPIPS-Lite; statistics of the masks; Inception score, FID and IC-LPIPS where their networks are there.
        """
        if not pool.images:
            return {"images": 0}
        height, width = pool.images[0].shape[:2]
        real = reference.resized((height, width))
        found: dict[str, object] = {"images": len(pool.images), "reference_images": len(real.images)}
        sides = [self._rows(pool.images), self._rows(real.images)]
        found["kid_lite"] = _numbers(asdict(kid_lite(*sides, rng=rng, subsets=self._settings.subsets)))
        if pool.masks:
            sides = [self._rows(self._crops(one)) for one in (pool, real)]
            found["kid_lite_crops"] = _numbers(asdict(kid_lite(*sides, rng=rng, subsets=self._settings.subsets)))
            found["masks"] = _numbers(mask_statistics(pool.masks))
        compared = manifolds(sides[1], sides[0], neighbours=self._settings.neighbours)
        found["manifolds"] = _numbers(asdict(compared))
        if shots:
            inside = intra_cluster_distance(pool.images, shots, describe=self._features.perceptual, rng=rng)
            found["ic_lpips_lite"] = _clusters(inside)
        if self._inception is not None:
            found |= _by_inception(self._inception, pool.images, real.images)
        if self._lpips is not None and shots:
            describe = self._lpips.perceptual
            inside = intra_cluster_distance(pool.images, shots, describe=describe, rng=rng, held_bytes=HELD_BYTES)
            found["ic_lpips"] = _clusters(inside)
        return found

    def _rows(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Rows of length sqrt(D), so that x.y / D in KID's kernel is the cosine."""
        if not images:
            return np.zeros((0, 1), np.float32)
        rows = self._features.pooled(images)
        return rows * np.float32(math.sqrt(rows.shape[1]))

    def _crops(self, pictures: Pictures) -> list[NDArray[np.uint8]]:
        margin, min_px = self._settings.crop_margin, self._settings.min_crop_px
        return [
            defect_crop(image, mask, margin=margin, min_px=min_px)
            for image, mask in zip(pictures.images, pictures.masks, strict=True)
        ]


def _by_inception(
    network: InceptionFeatures, images: Sequence[NDArray[np.uint8]], real: Sequence[NDArray[np.uint8]]
) -> dict[str, object]:
    rows, real_rows = network.pooled(images), network.pooled(real)
    score: dict[str, object] = {"value": None, "sd": None, "splits": SCORE_SPLITS}
    if len(rows) < SCORE_SPLITS:
        score["reason"] = f"the Inception score needs at least {SCORE_SPLITS} images, got {len(rows)}"
    else:
        score |= _numbers(asdict(inception_score(network.class_probabilities(rows))))
    fid: dict[str, object] = {"value": None, "sd": None}
    if min(len(rows), len(real_rows)) < 2:
        fid["reason"] = f"FID needs at least 2 images on each side, got {len(rows)} and {len(real_rows)}"
    else:
        fid |= _numbers({"value": frechet_of_rows(rows, real_rows)})
    return {"inception_score": score, "fid": fid}


def _clusters(inside: IntraCluster) -> dict[str, object]:
    return {
        **_numbers({"value": inside.value, "sd": inside.sd}),
        "cluster_sizes": list(inside.sizes),
        "passes": inside.num_described,
    }


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: round(float(value), 6) if math.isfinite(value) else None for name, value in values.items()}
