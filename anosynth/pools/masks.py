"""From the anomaly part that a dual-branch generator drew to a mask that fits (in place of a foreign segmenter).

DualAnoDiff (Jin et al. 2025) leaves masks to a salient-object network of another project. The part is drawn on a known
neutral colour, so its own distance to that colour says where the defect is. How that distance is to be read after a
decoder is calibrated on the real shots, whose masks are known: by thresholds alone (`calibrate`), or by a few
convolutions (`learn_rule`), which keep thin lines.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, stats

from anosynth.errors import DataError
from anosynth.pools import mask_reader
from anosynth.seeding import seed_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

GREY = (127, 127, 127)
"""The paper's neutral colour: what is 0 after normalisation to [-1, 1]."""

CANDIDATE_KEYS = (GREY, (200, 200, 200), *((r, g, b) for r in (32, 224) for g in (32, 224) for b in (32, 224)))
UNLIKE = 96.0
"""Mean difference of image and part inside a mask, in 8-bit levels, at which they show nothing in common."""

MAX_DRIFT = 40.0
"""How far, in 8-bit levels, the ground of a drawn part may lie from the neutral colour."""

EDGE_WINDOW_PX = 11
"""Around an edge that an autoencoder of factor 8 has softened, this far it is seen how strong the defect is."""

AS_GOOD = 0.005
"""Rules whose mean IoU differs by less are equally good."""

SINGLE_HEADROOM = 0.5
"""Of a single shot's largest distance, so much must do: how faint the same defect is elsewhere, one shot cannot say."""

_LOWS = (6.0, 9.0, 12.0, 18.0, 26.0, 38.0, 56.0, 84.0)
_EDGES = (0.0, 0.4, 0.5, 0.6)
_HIGH_FACTORS = (1.0, 1.5, 2.5)
_MIN_AREAS = (0.0, 0.0005, 0.002)
# Of a reader's sureness, on the same scale.
_SURE_LOWS = (77.0, 102.0, 128.0, 153.0)
NUM_FOLDS = 4
# Enough to tell which neutral colour is best.
_COARSE_LOWS = (12.0, 24.0, 48.0, 84.0)
_COARSE_EDGES = (0.5,)


@dataclass(frozen=True)
class MaskRule:
    """How a part image becomes a mask.

    Attributes:
        key: the neutral colour, RGB.
        high: distance to `key`, in 8-bit levels, that surely is defect: every component of the mask holds such a pixel.
        low: distance from which a pixel that touches such a component belongs to it (hysteresis), at most `high`.
        min_area: components smaller than this share of the image are dropped.
        fit: mean IoU on the shots it was calibrated on, [0, 1].
        edge: share of the largest distance nearby (`EDGE_WINDOW_PX`) that a pixel must reach as well: where on a soft
            edge the outline runs, whatever the defect's contrast. 0: no such bound.
        reader: weights of a learned reader (`mask_reader.to_text`): `high`, `low` and `edge` then bound 255 times its
            sureness in place of the distance. Empty: the distance itself.
    """

    key: tuple[int, int, int]
    high: float
    low: float
    min_area: float
    fit: float
    edge: float = 0.0
    reader: str = ""

    def __post_init__(self) -> None:
        if not 0.0 < self.low <= self.high <= 255.0:
            raise ValueError(f"low {self.low} and high {self.high} must satisfy 0 < low <= high <= 255")
        if not 0.0 <= self.edge < 1.0:
            raise ValueError(f"edge is {self.edge}; it is a share and must lie in [0, 1)")
        if self.reader:
            mask_reader.from_text(self.reader)


def neutral_part(image: NDArray[np.uint8], mask: NDArray[np.uint8], *, key: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The anomaly part of a shot: its pixels inside the mask, the neutral colour outside.

    Args:
        image: uint8 RGB [H, W, 3].
        mask: uint8 [H, W] in {0, 255}.
        key: the neutral colour.
    """
    return np.where(mask[:, :, None] > 0, image, np.array(key, dtype=np.uint8))


def choose_key(
    images: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.uint8]],
    *,
    see: Callable[[Sequence[NDArray[np.uint8]]], Sequence[NDArray[np.uint8]]],
) -> tuple[int, int, int]:
    """The neutral colour on which the shots' masks are found best: measured, not guessed.

    Grey defects (worn metal, dents) vanish on the paper's grey; a vivid colour that an autoencoder cannot draw makes
    noise of its own. So every one of `CANDIDATE_KEYS` is tried; of equals the first wins, the paper's grey above all.

    Args:
        images: uint8 RGB [H, W, 3].
        masks: uint8 [H, W] in {0, 255}.
        see: what the generator's autoencoder makes of parts (encoded and decoded).

    Raises:
        DataError: if no mask has foreground.
    """
    if not any(mask.any() for mask in masks):
        raise DataError("no shot has a defect pixel in its mask; give masks with foreground")
    fits = []
    for key in CANDIDATE_KEYS:
        parts = see([neutral_part(image, mask, key=key) for image, mask in zip(images, masks, strict=True)])
        distances = [key_distance(part, key=key) for part in parts]
        fits.append(_search(distances, masks, key=key, lows=_COARSE_LOWS, edges=_COARSE_EDGES).fit)
    return CANDIDATE_KEYS[int(np.argmax(fits))]


def key_difference(part: NDArray[np.uint8], *, key: tuple[int, int, int]) -> NDArray[np.float32]:
    """A part less its ground, float32 [H, W, 3], 8-bit levels.

    A drawn part's ground is never quite the neutral colour: its own is taken, the median over the part, as long as that
    lies within `MAX_DRIFT` of the neutral colour (else the defect covers most of the part).
    """
    ground = np.median(part.reshape(-1, 3), axis=0)
    if np.abs(ground - np.array(key)).max() > MAX_DRIFT:
        ground = np.array(key, dtype=np.float64)
    return np.asarray((part - ground).astype(np.float32))


def key_distance(part: NDArray[np.uint8], *, key: tuple[int, int, int]) -> NDArray[np.float32]:
    """Largest channel difference to the neutral colour, [H, W] in [0, 255], median of 3 x 3 against decoder noise."""
    distance = np.abs(key_difference(part, key=key)).max(axis=2)
    return ndimage.median_filter(distance, size=3, mode="nearest")


def part_mask(part: NDArray[np.uint8], rule: MaskRule) -> NDArray[np.uint8]:
    """Mask of a drawn part: a threshold that follows soft edges, holes filled, hysteresis, small components dropped.

    Args:
        part: uint8 RGB [H, W, 3], the defect on the neutral colour.
        rule: calibrated thresholds.

    Returns:
        uint8 [H, W] in {0, 255}; all zero if the part holds nothing that differs enough. The caller redraws it then:
        an empty mask is never stored.
    """
    if rule.reader:
        weights = mask_reader.from_text(rule.reader)
        distance = 255.0 * mask_reader.read(key_difference(part, key=rule.key), weights)
    else:
        distance = key_distance(part, key=rule.key)
    regions = _Regions.of(distance, _nearby(distance), low=rule.low, edge=rule.edge)
    kept = regions.kept(high=rule.high, min_area=rule.min_area)[regions.labels]
    return np.where(kept, 255, 0).astype(np.uint8)


def calibrate(
    parts: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]], *, key: tuple[int, int, int]
) -> MaskRule:
    """Choose thresholds on the shots: the ones whose masks agree best with the real ones.

    Args:
        parts: the shots' parts after a VAE round trip (`neutral_part`, encoded and decoded), as a generator would
            hand them over; uint8 RGB [H, W, 3] each.
        masks: their real masks, uint8 [H, W].
        key: the neutral colour of the parts.

    Returns:
        The rule with the largest mean IoU; of those as good, a strict one in the middle, and of a single shot one that
        asks for at most `SINGLE_HEADROOM` of its largest distance.

    Raises:
        DataError: if there are no shots, or no threshold finds any of the defects.
    """
    if not parts:
        raise DataError("no part to calibrate masks on; give at least one shot with a mask")
    distances = [key_distance(part, key=key) for part in parts]
    most_high = 255.0
    if len(parts) == 1:
        most_high = max(_LOWS[0], SINGLE_HEADROOM * float(distances[0].max()))
    best = _search(distances, masks, key=key, lows=_LOWS, edges=_EDGES, most_high=most_high)
    if best.fit == 0.0:
        raise DataError(
            f"no threshold finds the shots' defects on the neutral colour {key}; the backbone's VAE does not keep them"
        )
    return best


def learn_rule(
    parts: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]], *, key: tuple[int, int, int], seed: int
) -> MaskRule:
    """Choose between thresholds alone and a reader learned on the shots: what finds masks best that it did not see.

    The reader has to earn its place: its mean IoU over `NUM_FOLDS` folds of shots that it was not fitted to (every shot
    by itself if there are fewer) must exceed that of the thresholds on the very shots they were chosen on.

    Args:
        parts: as in `calibrate`; at least two.
        masks: as in `calibrate`.
        key: as in `calibrate`.
        seed: of the reader.

    Returns:
        A rule whose `fit` is the reader's over left-out shots, or that of `calibrate`.

    Raises:
        DataError: as `calibrate`.
    """
    plain = calibrate(parts, masks, key=key)
    differences = [key_difference(part, key=key) for part in parts]
    folds = min(NUM_FOLDS, len(parts))

    def surenesses(learned: Sequence[int], asked: Sequence[int], name: str) -> tuple[str, list[NDArray[np.float32]]]:
        weights = mask_reader.learn(
            [differences[at] for at in learned], [masks[at] for at in learned], seed=seed_for(seed, name)
        )
        return mask_reader.to_text(weights), [255.0 * mask_reader.read(differences[at], weights) for at in asked]

    unseen: list[NDArray[np.float32]] = [np.zeros((1, 1), np.float32)] * len(parts)
    for fold in range(folds):
        asked = list(range(fold, len(parts), folds))
        for at, found in zip(
            asked,
            surenesses([at for at in range(len(parts)) if at % folds != fold], asked, f"fold {fold}")[1],
            strict=True,
        ):
            unseen[at] = found
    best = _search(unseen, masks, key=key, lows=_SURE_LOWS, edges=(0.0,))
    if best.fit <= plain.fit:
        return plain
    text, _ = surenesses(range(len(parts)), (), "all")
    return replace(best, reader=text)


def iou(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Intersection over union of two masks, [0, 1]; 1 if both are empty."""
    a, b = first > 0, second > 0
    union = int(np.count_nonzero(a | b))
    return 1.0 if union == 0 else float(np.count_nonzero(a & b)) / union


def part_shown(image: NDArray[np.uint8], part: NDArray[np.uint8], mask: NDArray[np.uint8]) -> float:
    """How well the image shows, inside the mask, what the part shows there: 1 alike, 0 at `UNLIKE` levels apart.

    Both branches draw the same defect; where they disagree, the mask is of something that the image does not have.
    """
    apart = np.abs(image.astype(np.int16) - part.astype(np.int16)).max(axis=2)[mask > 0]
    return float(np.clip(1.0 - apart.mean() / UNLIKE, 0.0, 1.0))


def places_agree(changed: NDArray[np.int64], mask: NDArray[np.uint8]) -> float:
    """How well the mask tells where an image left its normal parent: a second opinion that never saw the part.

    2 P(a pixel of the mask changed more than one outside of it) - 1, not below 0: free of any threshold.

    Args:
        changed: change of each pixel, [H, W].
        mask: uint8 [H, W] in {0, 255}, with foreground and background.
    """
    ranks = stats.rankdata(ndimage.gaussian_filter(changed.astype(np.float64), 1.0).ravel())
    inside = mask.ravel() > 0
    count, rest = int(inside.sum()), int((~inside).sum())
    wins = float(ranks[inside].sum()) - count * (count + 1) / 2.0
    return float(np.clip(2.0 * wins / (count * rest) - 1.0, 0.0, 1.0))


@dataclass(frozen=True, eq=False)
class _Regions:
    """What a low threshold leaves of a part, holes filled, as components.

    Attributes:
        labels: [H, W], 0 outside.
        peaks: largest distance in each component, [n + 1].
        areas: pixels of each component, [n + 1].
    """

    labels: NDArray[np.signedinteger]
    peaks: NDArray[np.floating]
    areas: NDArray[np.signedinteger]

    @classmethod
    def of(cls, distance: NDArray[np.float32], nearby: NDArray[np.float32], *, low: float, edge: float) -> _Regions:
        filled = ndimage.binary_fill_holes(distance >= np.maximum(low, edge * nearby))
        labels, count = ndimage.label(filled, structure=np.ones((3, 3)))
        peaks = np.asarray(ndimage.maximum(distance, labels, index=np.arange(count + 1)))
        return cls(labels, peaks, np.bincount(labels.ravel(), minlength=count + 1))

    def kept(self, *, high: float, min_area: float) -> NDArray[np.bool_]:
        """Which components are a mask's, [n + 1]."""
        keep = (self.peaks >= high) & (self.areas >= min_area * self.labels.size)
        keep[0] = False
        return keep


def _nearby(distance: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest distance within the edge window around each pixel."""
    return np.asarray(ndimage.maximum_filter(distance, size=EDGE_WINDOW_PX, mode="nearest"))


def _search(
    distances: Sequence[NDArray[np.float32]],
    masks: Sequence[NDArray[np.uint8]],
    *,
    key: tuple[int, int, int],
    lows: Sequence[float],
    edges: Sequence[float],
    most_high: float = 255.0,
) -> MaskRule:
    """Of the rules whose mean IoU is within `AS_GOOD` of the largest, a strict one with the middle `low`.

    A sampler's ground is rougher than that of the autoencoder's round trip which the thresholds are found on: specks
    are kept out by `high` (`most_high` at most) and `min_area`. The middle `low` leaves room for defects fainter than
    the shots'.
    """
    nearby = [_nearby(distance) for distance in distances]
    rules = [MaskRule(key, 1.0, 1.0, 0.0, 0.0)]
    for low, edge in itertools.product(lows, edges):
        found = [_Regions.of(one, near, low=low, edge=edge) for one, near in zip(distances, nearby, strict=True)]
        hits = [
            np.bincount(one.labels[mask > 0], minlength=len(one.areas)) for one, mask in zip(found, masks, strict=True)
        ]
        for factor, min_area in itertools.product(_HIGH_FACTORS, _MIN_AREAS):
            high = min(factor * low, 255.0)
            if high > most_high:
                continue
            fits = []
            for one, hit, mask in zip(found, hits, masks, strict=True):
                keep = one.kept(high=high, min_area=min_area)
                common = int(hit[keep].sum())
                fits.append(common / max(1, int(np.count_nonzero(mask)) + int(one.areas[keep].sum()) - common))
            fit = float(np.mean(fits))
            rules.append(MaskRule(key, high, low, min_area, fit, edge))
    enough = max(rule.fit for rule in rules) - AS_GOOD
    as_good = sorted((rule for rule in rules if rule.fit >= enough), key=lambda rule: rule.low)
    low = as_good[len(as_good) // 2].low
    return max((rule for rule in as_good if rule.low == low), key=lambda rule: (rule.high, rule.min_area, rule.fit))
