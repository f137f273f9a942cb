"""Small real-looking inputs for the pool tests: made here, so that golden digests do not hang on any renderer."""

import numpy as np
from scipy import ndimage

from anosynth.fingerprint import digest_pixels
from anosynth.pools.real import RealNormal, RealPair
from anosynth.samples import ShardJob

SIZE_PX = 64


def surface(seed: int, size_px: int = SIZE_PX) -> np.ndarray:
    """A grey, softly mottled surface that fills the frame."""
    rng = np.random.default_rng(seed)
    mottle = ndimage.gaussian_filter(rng.normal(size=(size_px, size_px, 3)), (2, 2, 0))
    return np.clip(120 + 40 * mottle / mottle.std() * 0.3, 0, 255).astype(np.uint8)


def disk(seed: int, size_px: int = SIZE_PX) -> np.ndarray:
    """A bright disk of radius 0.3 on a dark ground."""
    rows, columns = np.mgrid[:size_px, :size_px] - size_px / 2
    inside = np.hypot(rows, columns) < 0.3 * size_px
    grey = np.where(inside, 190.0, 40.0)[:, :, None] + np.random.default_rng(seed).normal(0, 3, (size_px, size_px, 3))
    return np.clip(grey, 0, 255).astype(np.uint8)


def normal(image: np.ndarray, licence: str = "CC0-1.0") -> RealNormal:
    return RealNormal(image, digest_pixels(image), licence)


def spotted(image: np.ndarray, licence: str = "CC0-1.0", at: tuple[int, int] = (20, 24)) -> RealPair:
    """The image with a black bar of 5 x 11 pixels whose mask is exact."""
    marked, mask = image.copy(), np.zeros(image.shape[:2], dtype=np.uint8)
    window = (slice(at[0], at[0] + 5), slice(at[1], at[1] + 11))
    marked[window], mask[window] = 5, 255
    return RealPair(marked, mask, digest_pixels(marked), licence)


def job(n: int, *, method: str, start: int = 0, seed: int = 3, defect: str = "spot") -> ShardJob:
    return ShardJob(
        pool="pairs",
        category="plate",
        defect=defect,
        method=method,
        shard=0,
        start=start,
        stop=start + n,
        batch_size=4,
        seed=seed,
        stage="generate_pairs",
        fingerprint="0" * 32,
        plan="1" * 32,
        shape={},
    )
