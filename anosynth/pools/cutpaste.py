"""Control arm `cutpaste`: a real defect, or a piece of the image itself, cut out and pasted elsewhere.

Li et al. 2021, "CutPaste", for the pieces of the image itself; the cut of real defects is the Crop-Paste baseline of
the few-shot synthesis papers (Lin et al. 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, signal

from anosynth.params import CutPasteMethod
from anosynth.pools.draft import Draft, blend
from anosynth.pools.real import RealNormal, RealPair

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALGORITHM = 1
# A pasted defect lies on the object with this share of its area if any place allows it, and at least with the second.
ON_OBJECT_RATIO = 0.98
MIN_ON_OBJECT_RATIO = 0.5
# With several separate regions in a shot's mask, how often one of them is cut instead of all; specks never alone.
ONE_REGION_RATIO = 0.5
MIN_REGION_RATIO = 0.1
# Surroundings of a defect, in pixels of a 256 px picture, whose colour is matched, and the bounds of the match.
SURROUND_PX = 8.0
GAIN_RANGE = (0.4, 2.5)
# Wider surroundings, in the same pixels, that a matched place is to share, and the share of places that count as such.
MATCHED_PX = 20.0
MATCHED_RATIO = 0.03
# CutPaste, section 3.2 and appendix: patch area and aspect; scar width, length (of 256 px) and angle; color jitter.
PATCH_AREA = (0.02, 0.15)
PATCH_ASPECT = (0.3, 3.3)
SCAR_WIDTH_PX = (2.0, 16.0)
SCAR_LENGTH_PX = (10.0, 25.0)
SCAR_TURN_DEG = 45.0
JITTER = 0.1
PAPER_PX = 256.0


def draft_from_shot(
    parent: RealNormal,
    shot: RealPair,
    *,
    foreground: NDArray[np.uint8],
    spec: CutPasteMethod,
    rng: np.random.Generator,
    mirror: bool = True,
    shot_foreground: NDArray[np.uint8] | None = None,
) -> Draft | None:
    """Cut the shot's defect along its mask, turn, scale and mirror it, match its colours and paste it on the object.

    Colours: each plane is multiplied by (mean around the place) / (mean around the defect in its shot), so that a
    defect keeps its contrast to what surrounds it and black stays black.

    Args:
        parent: the real normal image, [H, W, 3].
        shot: the anomalous shot, [H, W, 3], of the same size.
        foreground: [H, W] in {0, 255}, where the object is; the paste is clipped to it.
        spec: ranges of scale and turn, width of the feather.
        rng: draws everything.
        mirror: every second defect is mirrored.
        shot_foreground: [H, W] in {0, 255}, where the object is in the shot; if given, the defect goes to one of the
            places whose surroundings look most like those it had, else anywhere on the object.

    Returns:
        The draft, or None if the turned and scaled defect fits nowhere on the object. Its mask is where at least half
        of a pixel comes from the shot.
    """
    region = _one_or_all(shot.mask > 0, rng)
    warp = _Warp(
        turn_rad=math.radians(rng.uniform(-spec.max_turn_deg, spec.max_turn_deg)),
        scale=float(rng.uniform(*spec.scale)),
        mirror=bool(rng.random() < 0.5) and mirror,
    )
    cut = partial(_cut, shot.image, region, others=shot.mask > 0, warp=warp, feather_px=spec.feather_px)
    piece = cut()
    least = ON_OBJECT_RATIO if shot_foreground is None else MIN_ON_OBJECT_RATIO  # a chipped edge lies over the edge
    places = _places(piece.inside, foreground > 0, least=least)
    if not len(places):
        return None
    if shot_foreground is not None:
        wide = cut(surround_px=MATCHED_PX)
        unlike = _unlikeness(places, piece, wide, parent.image, foreground > 0, shot.image, shot_foreground > 0)
        places = places[np.argsort(unlike, kind="stable")[: max(1, round(MATCHED_RATIO * len(places)))]]
    place = _one_of(places, rng)
    there = _surrounding_mean(parent.image, piece, place, foreground > 0)
    known = np.isfinite(there) & (piece.surrounding_mean > 0.0)
    gain = np.divide(there, piece.surrounding_mean, out=np.ones(3), where=known)
    pixels = piece.pixels * np.clip(gain, *GAIN_RANGE)
    image, mask = _paste(parent.image, piece, pixels, place, foreground > 0)
    return Draft(image, mask, (shot.sha256,), (shot.licence,))


def draft_from_itself(
    parent: RealNormal, *, foreground: NDArray[np.uint8], spec: CutPasteMethod, rng: np.random.Generator
) -> Draft | None:
    """CutPaste's own augmentation: a rectangle of the image, or a thin turned one (a scar), pasted elsewhere.

    Differs: the paste stays on the object and is feathered by spec.feather_px (0 gives the paper's hard edge); sizes
    are multiplied by a draw from spec.scale.

    Args:
        parent: the real normal image, [H, W, 3].
        foreground: [H, W] in {0, 255}, where the object is.
        spec: range of the factor on sizes, bound of a scar's turn, width of the feather.
        rng: draws everything.

    Returns:
        The draft, or None if the piece fits nowhere on the object.
    """
    height, width = parent.image.shape[:2]
    factor, turn = rng.uniform(*spec.scale), 0.0
    if rng.random() < 0.5:
        area, aspect = rng.uniform(*PATCH_AREA), math.exp(rng.uniform(*np.log(PATCH_ASPECT)))
        sides = (height * math.sqrt(area / aspect), width * math.sqrt(area * aspect))
    else:
        unit = max(height, width) / PAPER_PX
        sides = (rng.uniform(*SCAR_LENGTH_PX) * unit, rng.uniform(*SCAR_WIDTH_PX) * unit)
        limit = min(SCAR_TURN_DEG, spec.max_turn_deg)
        turn = math.radians(rng.uniform(-limit, limit))
    rows, columns = (
        min(max(2, round(factor * side)), most - 2) for side, most in zip(sides, (height, width), strict=True)
    )
    top, left = int(rng.integers(1, height - rows)), int(rng.integers(1, width - columns))
    region = np.zeros((height, width), dtype=bool)
    region[top : top + rows, left : left + columns] = True
    warp = _Warp(turn_rad=turn, scale=1.0, mirror=False)
    piece = _cut(parent.image, region, others=region, warp=warp, feather_px=spec.feather_px)
    places = _places(piece.inside, foreground > 0)
    if not len(places):
        return None
    place = _one_of(places, rng)
    image, mask = _paste(parent.image, piece, _jittered(piece.pixels, rng), place, foreground > 0)
    return Draft(image, mask)


@dataclass(frozen=True)
class _Warp:
    """Mirror left-right, then scale, then turn about the middle of the region."""

    turn_rad: float
    scale: float
    mirror: bool

    def source_of(self, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Offsets from the middle in the source, of offsets in the result."""
        sin, cos = math.sin(self.turn_rad), math.cos(self.turn_rad)
        y, x = (cos * rows + sin * columns) / self.scale, (cos * columns - sin * rows) / self.scale
        return y, (-x if self.mirror else x)


@dataclass(frozen=True, eq=False)
class _Piece:
    """A cut and warped region in its own small frame.

    Attributes:
        pixels: [h, w, 3], on the scale of uint8.
        alpha: [h, w] in [0, 1]; at least 1/2 exactly where `inside`.
        inside: [h, w], the region.
        surround: [h, w], the ring whose colour is matched.
        known: [h, w], what of the ring the source shows, without its other defects.
        surrounding_mean: [3], mean colour of that in the source; NaN if there is none.
    """

    pixels: NDArray[np.float64]
    alpha: NDArray[np.float64]
    inside: NDArray[np.bool_]
    surround: NDArray[np.bool_]
    known: NDArray[np.bool_]
    surrounding_mean: NDArray[np.float64]


def _one_or_all(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """All regions of a mask, or one of them drawn by area."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count == 1 or rng.random() >= ONE_REGION_RATIO:
        return mask
    areas = np.bincount(labels.ravel())[1:]
    areas = np.where(areas >= MIN_REGION_RATIO * areas.max(), areas, 0)
    return np.asarray(labels == 1 + int(rng.choice(count, p=areas / areas.sum())))


def _cut(
    image: NDArray[np.uint8],
    region: NDArray[np.bool_],
    *,
    others: NDArray[np.bool_],
    warp: _Warp,
    feather_px: float,
    surround_px: float = SURROUND_PX,
) -> _Piece:
    """Warp a region, its pixels and its signed distance; the feather is a ramp of the distance about the edge."""
    height, width = region.shape
    clear = feather_px + max(1.0, warp.scale)  # interpolation mixes neighbours: the ring keeps off the region
    reach = clear + surround_px * max(height, width) / PAPER_PX
    bounds = [np.flatnonzero(region.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    middle = [(low + high) // 2 for low, high in bounds]  # whole pixels: without a turn or scale nothing is resampled
    half = [high - at + 1.0 for (_, high), at in zip(bounds, middle, strict=True)]
    sin, cos = abs(math.sin(warp.turn_rad)), abs(math.cos(warp.turn_rad))
    margin = math.ceil(reach) + 1
    half_rows = math.ceil(warp.scale * (cos * half[0] + sin * half[1])) + margin
    half_columns = math.ceil(warp.scale * (sin * half[0] + cos * half[1])) + margin
    rows, columns = np.mgrid[-half_rows : half_rows + 1, -half_columns : half_columns + 1].astype(np.float64)
    y, x = warp.source_of(rows, columns)
    at = (y + middle[0], x + middle[1])
    blur = 0.5 * math.sqrt(max(0.0, 1.0 / warp.scale**2 - 1.0))
    smooth = ndimage.gaussian_filter(image.astype(np.float64), (blur, blur, 0.0), mode="nearest")
    pixels = np.stack([ndimage.map_coordinates(smooth[:, :, c], at, order=1, mode="nearest") for c in range(3)], axis=2)
    distance = warp.scale * _sampled(_signed_distance(region), at)
    to_others = warp.scale * _sampled(_signed_distance(others), at)
    in_frame = (at[0] >= 0) & (at[0] <= height - 1) & (at[1] >= 0) & (at[1] <= width - 1)
    inside = (distance >= 0.0) & in_frame
    ramp = 0.5 + distance / (2.0 * feather_px) if feather_px > 0.0 else np.where(distance >= 0.0, 1.0, 0.0)
    alpha = np.where(in_frame, np.clip(ramp, 0.0, 1.0), 0.0)
    surround = (distance < -clear) & (distance >= -reach)
    known = surround & in_frame & (to_others < -clear)
    mean = pixels[known].mean(axis=0) if known.any() else np.full(3, np.nan)
    return _Piece(pixels, alpha, inside, surround, known, mean)


def _signed_distance(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance to the region's edge in pixels, positive inside; the edge runs between the pixels' centres."""
    inside = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    outside = ndimage.distance_transform_edt(~region)
    return np.asarray(np.where(region, inside - 0.5, 0.5 - outside))


def _sampled(values: NDArray[np.float64], at: tuple[NDArray[np.float64], ...]) -> NDArray[np.float64]:
    return np.asarray(ndimage.map_coordinates(values, at, order=1, mode="nearest"))


def _places(
    inside: NDArray[np.bool_], foreground: NDArray[np.bool_], *, least: float = ON_OBJECT_RATIO
) -> NDArray[np.int64]:
    """Where the piece's frame may go, (top, left) [N, 2], so that the region is in the picture and on the object.

    On it with a share `least` of its area, or as large a one as any place allows.

    All places are weighed at once: the share of the region on the object is a correlation of the two masks.
    """
    none = np.zeros((0, 2), dtype=np.int64)
    if not inside.any():
        return none
    (top, bottom), (left, right) = (np.flatnonzero(inside.any(axis=axis))[[0, -1]] for axis in (1, 0))
    stamp = inside[top : bottom + 1, left : right + 1]
    if stamp.shape[0] > foreground.shape[0] or stamp.shape[1] > foreground.shape[1]:
        return none
    covered = signal.fftconvolve(foreground.astype(np.float64), stamp[::-1, ::-1].astype(np.float64), mode="valid")
    share = np.rint(covered) / np.count_nonzero(stamp)
    if share.max() < MIN_ON_OBJECT_RATIO:
        return none
    return np.argwhere(share >= min(least, share.max())) - [top, left]


def _one_of(places: NDArray[np.int64], rng: np.random.Generator) -> tuple[int, int]:
    top, left = places[int(rng.integers(len(places)))]
    return int(top), int(left)


def _unlikeness(
    places: NDArray[np.int64],
    piece: _Piece,
    wide: _Piece,
    image: NDArray[np.uint8],
    foreground: NDArray[np.bool_],
    shot: NDArray[np.uint8],
    shot_foreground: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Mean squared difference [N] between what surrounds each place and what surrounded the defect in its shot.

    Grey levels in units of each object's own mean, as colours are matched; all places at once by correlation. What
    surrounds may be the ground beside the object: a chipped edge belongs on an edge. Where less than half of the
    surroundings would lie in the picture, infinity.

    Args:
        places: of the piece's frame, (top, left) [N, 2].
        piece: what is pasted.
        wide: the same with a wider ring, of which `wide.known` counts; its frame has the same middle.
        image: where it is pasted, [H, W, 3].
        foreground: where the object is there.
        shot: where it was cut, [H, W, 3].
        shot_foreground: where the object was.
    """
    rows, columns = wide.inside.shape
    frame = ((rows, rows), (columns, columns))
    in_picture = np.pad(np.ones(image.shape[:2]), frame)
    here = np.pad(image.mean(axis=2) / _mean_grey(image, foreground), frame)
    ring = wide.known.astype(np.float64)
    there = wide.pixels.mean(axis=2) / _mean_grey(shot, shot_foreground) * ring

    def correlated(picture: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(signal.fftconvolve(picture, kernel[::-1, ::-1], mode="valid"))

    weight = np.rint(correlated(in_picture, ring))
    squares = correlated(here**2, ring) - 2.0 * correlated(here, there) + correlated(in_picture, there**2)
    cost = np.where(weight >= 0.5 * max(1.0, ring.sum()), squares / np.maximum(weight, 1.0), np.inf)
    margins = [(wide_side - side) // 2 for wide_side, side in zip(wide.inside.shape, piece.inside.shape, strict=True)]
    return cost[places[:, 0] - margins[0] + rows, places[:, 1] - margins[1] + columns]


def _mean_grey(image: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """Mean grey level of an object, at least 1."""
    grey = image.mean(axis=2)
    return max(1.0, float((grey[where] if where.any() else grey).mean()))


def _windows(
    place: tuple[int, int], frame: tuple[int, ...], size: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The overlap of a frame at a place with the picture: slices of the picture, slices of the frame."""
    spans = [(max(0, p), min(s, p + f)) for p, f, s in zip(place, frame, size, strict=True)]
    picture = (slice(*spans[0]), slice(*spans[1]))
    own = (slice(spans[0][0] - place[0], spans[0][1] - place[0]), slice(spans[1][0] - place[1], spans[1][1] - place[1]))
    return picture, own


def _surrounding_mean(
    image: NDArray[np.uint8], piece: _Piece, place: tuple[int, int], foreground: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Mean colour [3] of the object around the place; NaN if nothing of it is there."""
    picture, own = _windows(place, piece.alpha.shape, image.shape[:2])
    around = piece.surround[own] & foreground[picture]
    return np.asarray(image[picture][around].mean(axis=0)) if around.any() else np.full(3, np.nan)


def _paste(
    image: NDArray[np.uint8],
    piece: _Piece,
    pixels: NDArray[np.float64],
    place: tuple[int, int],
    foreground: NDArray[np.bool_],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    picture, own = _windows(place, piece.alpha.shape, image.shape[:2])
    result, mask = image.copy(), np.zeros(image.shape[:2], dtype=np.uint8)
    result[picture] = blend(image[picture], pixels[own], alpha=np.where(foreground[picture], piece.alpha[own], 0.0))
    mask[picture] = np.where(piece.inside[own] & foreground[picture], 255, 0)
    return result, mask


def _jittered(pixels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """CutPaste's color jitter: brightness, contrast and saturation each changed by up to a tenth."""
    brightness, contrast, saturation = 1.0 + rng.uniform(-JITTER, JITTER, size=3)
    bright = pixels * brightness
    contrasted = (bright - bright.mean()) * contrast + bright.mean()
    grey = contrasted.mean(axis=2, keepdims=True)
    return np.asarray(grey + (contrasted - grey) * saturation)
