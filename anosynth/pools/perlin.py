"""Control arm `perlin`: a foreign texture blended into a normal image through thresholded Perlin noise.

Zavrtanik et al. 2021, "DRAEM", section 3.2 and Figure 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from anosynth.params import PerlinMethod
from anosynth.pools.draft import Draft, blend, change
from anosynth.pools.noise import perlin_noise
from anosynth.pools.real import RealNormal, RealPair
from anosynth.pools.textures import procedural_texture, real_texture

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALGORITHM = 1
REAL_TEXTURE_RATIO = 0.5
# Half of the textures take the tone of the place they are put in, so many grey levels brighter or darker: the hard
# cases.
MATCHED_TONE_RATIO = 0.5
TONE_SHIFT = (15.0, 60.0)
# The blend fades over this many pixels inside the mask's edge.
EDGE_PX = 2.0
# Regions of the noise below this share of the picture are dropped, and regions that cannot be seen: whose pixels
# change by less than so many grey levels, or by less than this share of the object's own spread.
MIN_REGION_RATIO = 0.0005
MIN_REGION_CHANGE = 8.0
MIN_CHANGE_TO_SPREAD = 0.8
# Noise finer than a few cells makes dozens of regions; so many draws keep only up to MAX_FEW of them.
FEW_RATIO = 0.5
MAX_FEW = 4


def draft(
    parent: RealNormal,
    *,
    foreground: NDArray[np.uint8],
    spec: PerlinMethod,
    sources: Sequence[RealNormal | RealPair],
    rng: np.random.Generator,
) -> Draft:
    """Draw one anomaly.

        I_a = (1 - M) I + M ((1 - beta) A + beta I)        (DRAEM, Eq. 1; our opacity is 1 - beta)

    Differs: the noise is turned by any angle, not by a rotation of the picture that leaves corners empty; the mask
    stays on the object; textures come from `textures`, not from DTD; inside the mask's edge the blend fades over two
    pixels, so that no hard outline gives the anomaly away; regions that cannot be seen are no anomaly and are taken
    back; some draws keep only a few regions. Outside the mask every pixel is the parent's.

    Args:
        parent: the real normal image, [H, W, 3].
        foreground: [H, W] in {0, 255}, where the object is; all 255 for a surface.
        spec: threshold of the noise in (0, 1), range of the opacity, finest octave.
        sources: real images whose crops may become textures, at least one; the parent itself is passed over.
        rng: draws everything.

    Returns:
        The draft; its mask is exactly where pixels may have changed, and is empty if the noise missed the object.
    """
    size = parent.image.shape[:2]
    cells = tuple(float(2 ** rng.integers(spec.max_octave + 1)) for _ in range(2))
    noise = perlin_noise(size, cells=(cells[0], cells[1]), angle_rad=float(rng.uniform(0.0, 2.0 * np.pi)), rng=rng)
    mask = _some_regions((noise > spec.threshold) & (foreground > 0), rng)
    others = [source for source in sources if source.sha256 != parent.sha256]
    shot_ids: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    if others and rng.random() < REAL_TEXTURE_RATIO:
        source = others[int(rng.integers(len(others)))]
        texture = 255.0 * real_texture(source.image, size_px=(size[0], size[1]), rng=rng)
        shot_ids, licences = (source.sha256,), (source.licence,)
    else:
        texture = 255.0 * procedural_texture(size_px=(size[0], size[1]), rng=rng)
    if mask.any() and rng.random() < MATCHED_TONE_RATIO:
        texture += parent.image[mask].mean(axis=0) - texture[mask].mean(axis=0)
        texture += rng.uniform(*TONE_SHIFT) * rng.choice((-1.0, 1.0))
    inward = np.clip(ndimage.distance_transform_edt(mask) / EDGE_PX, 0.0, 1.0)
    image = blend(parent.image, texture, alpha=rng.uniform(*spec.opacity) * inward)
    spread = float(parent.image[foreground > 0].mean(axis=1).std())
    least = max(MIN_REGION_CHANGE, MIN_CHANGE_TO_SPREAD * spread)
    seen = _visible_regions(mask, change(parent.image, image), least=least)
    image = np.where(seen[:, :, None], image, parent.image)
    return Draft(image, np.where(seen, 255, 0).astype(np.uint8), shot_ids, licences)


def _some_regions(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Drop specks, and in some draws all but a few regions, drawn by area."""
    labels, _ = ndimage.label(mask)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    areas[areas < MIN_REGION_RATIO * mask.size] = 0
    count, few = np.count_nonzero(areas), int(rng.integers(1, MAX_FEW + 1))
    if rng.random() < FEW_RATIO and count > few:
        drawn = rng.choice(len(areas), size=few, replace=False, p=areas / areas.sum())
        return np.isin(labels, drawn)
    return np.asarray((areas > 0)[labels])


def _visible_regions(mask: NDArray[np.bool_], changed: NDArray[np.int64], *, least: float) -> NDArray[np.bool_]:
    """Drop regions whose mean change is below `least`."""
    labels, _ = ndimage.label(mask)
    areas = np.bincount(labels.ravel())
    total = np.bincount(labels.ravel(), weights=changed.ravel())
    visible = total >= least * areas
    visible[0] = False
    return np.asarray(visible[labels])
