"""Examination of a category's files: every image decoded, checked and described before anything is built on it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from anosynth.errors import DataError
from anosynth.fingerprint import digest_bytes, digest_pixels
from anosynth.imaging import MAX_PIXELS, decode_image, decode_mask, encode_png, perceptual_hash
from anosynth.progress import track
from anosynth.samples import Record, Role
from anosynth.sources.index import IndexEntry
from anosynth.sources.items import SourceItem

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

LISTED_PROBLEMS = 20
# What becomes of an image whose pixels equal those of an earlier one of another role, under the same label.
EqualPixels = Literal["refuse", "drop"]
# Bytes of these kinds are kept as they came; everything else is stored again as 8-bit RGB PNG.
KEPT_AS_IS = frozenset({"", "grey"})


@dataclass
class _Report:
    """What the examination of a category's files found."""

    problems: list[str] = field(default_factory=list)
    converted: dict[str, list[str]] = field(default_factory=dict)
    leaks: list[tuple[str, str]] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)


def examine(
    items: Sequence[SourceItem],
    roles: Mapping[str, Role],
    *,
    max_pixels: int = MAX_PIXELS,
    equal_pixels: EqualPixels = "refuse",
) -> Iterator[IndexEntry]:
    """Decode, check and describe every image that has a role; problems are collected and told together at the end.

    Problems are: an unreadable, truncated, oversized or non-image file; a mask that is missing, unreadable, has grey
    levels, another size than its image, no foreground or nothing else; equal pixels under two roles, two labels or
    two masks. Equal pixels within one role and label are a duplicate: the first is kept, the others are counted in one
    warning. Conversions (16-bit, RGBA, palette, ...) are logged once per kind.

    Args:
        items: the images of one category.
        roles: path -> role (`split.assign_roles`); an image without a role is passed over.
        max_pixels: larger images are refused before they are decoded.
        equal_pixels: "refuse": equal pixels under two roles are a problem; "drop": the later image is left out and
            counted in a warning, for published partitions that nobody here can mend. Either way none gets through.

    Yields:
        One entry per image that is kept, in the order of `items`.

    Raises:
        DataError: after the last item, if there was any problem: the first 20 and how many there are.
    """
    report = _Report()
    seen: dict[str, tuple[SourceItem, str | None]] = {}
    taken = [item for item in items if item.path in roles]
    for item in track(taken, total=len(taken), doing="index", unit="image"):
        entry = _entry(item, roles[item.path], report, max_pixels=max_pixels)
        if entry is not None and _is_new(item, entry, roles, seen, report, equal_pixels=equal_pixels):
            yield entry
    for kind, paths in sorted(report.converted.items()):
        logger.info("%d image(s) converted from %s to 8-bit RGB, the first is %s", len(paths), kind, paths[0])
    if report.duplicates:
        kept, dropped = report.duplicates[0]
        logger.warning(
            "%d duplicate image(s) left out: %s has the pixels of %s%s",
            len(report.duplicates),
            dropped,
            kept,
            ", ..." if len(report.duplicates) > 1 else "",
        )
    if report.leaks:
        kept, dropped = report.leaks[0]
        logger.warning(
            "%d image(s) left out because their pixels equal those of an image of another role: %s is %s%s",
            len(report.leaks),
            dropped,
            kept,
            ", ..." if len(report.leaks) > 1 else "",
        )
    if report.problems:
        count = len(report.problems)
        shown = [f"  {line}" for line in report.problems[:LISTED_PROBLEMS]]
        if count > LISTED_PROBLEMS:
            shown.append(f"  ... and {count - LISTED_PROBLEMS} more")
        raise DataError(f"{count} problem(s) in the files of {items[0].category}:\n" + "\n".join(shown))


def _entry(item: SourceItem, role: Role, report: _Report, *, max_pixels: int) -> IndexEntry | None:
    try:
        data = item.read_image()
        decoded = decode_image(data, name=item.path, max_pixels=max_pixels)
        mask = _mask(item, decoded.image.shape[:2])
    except DataError as error:
        report.problems.append(str(error))
        return None
    except OSError as error:
        report.problems.append(f"{error.filename or item.path}: cannot be read ({error.strerror or error})")
        return None
    if decoded.converted_from:
        report.converted.setdefault(decoded.converted_from, []).append(item.path)
    height, width = decoded.image.shape[:2]
    record = Record(
        path=item.path,
        category=item.category,
        defect=item.defect,
        mask_path=None if item.defect is None else item.mask_path,
        role=role,
        group=item.group,
        licence=item.licence,
        sha256=digest_pixels(decoded.image),
        phash=perceptual_hash(decoded.image),
        height=height,
        width=width,
    )
    image_bytes = data if decoded.converted_from in KEPT_AS_IS else encode_png(decoded.image)
    return IndexEntry(record, image_bytes, None if mask is None else encode_png(mask))


def _mask(item: SourceItem, size: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The decoded and checked mask; None for a normal image, and if the source labels whole images."""
    if item.defect is None or item.image_level:
        return None
    if item.read_mask is None:
        expected = f" (expected {item.mask_path})" if item.mask_path else ""
        raise DataError(f"{item.path}: an image with {item.defect} has no mask{expected}; add it or remove the image")
    name = item.mask_path or f"mask of {item.path}"
    mask = decode_mask(item.read_mask(), name=name)
    if mask.shape != size:
        raise DataError(
            f"{name}: the mask is {mask.shape[1]} x {mask.shape[0]} px but its image {item.path} is "
            f"{size[1]} x {size[0]} px; they must be equal"
        )
    if not mask.any():
        raise DataError(f"{name}: the mask is empty but {item.path} is filed under {item.defect}; draw it or move it")
    if mask.all():
        raise DataError(f"{name}: the mask covers the whole of {item.path}; it must leave some background")
    return mask


def _is_new(
    item: SourceItem,
    entry: IndexEntry,
    roles: Mapping[str, Role],
    seen: dict[str, tuple[SourceItem, str | None]],
    report: _Report,
    *,
    equal_pixels: EqualPixels,
) -> bool:
    mask = None if entry.mask_bytes is None else digest_bytes(entry.mask_bytes)
    other, other_mask = seen.setdefault(entry.record.sha256, (item, mask))
    if other is item:
        return True
    if roles[other.path] != roles[item.path] and equal_pixels == "drop" and other.defect == item.defect:
        report.leaks.append((other.path, item.path))
    elif roles[other.path] != roles[item.path]:
        report.problems.append(
            f"{other.path} ({roles[other.path]}) and {item.path} ({roles[item.path]}) have equal pixels in two roles: "
            "a leak; remove one of them"
        )
    elif other.defect != item.defect:
        report.problems.append(
            f"{other.path} ({other.defect or 'normal'}) and {item.path} ({item.defect or 'normal'}) have equal pixels "
            "under two labels; remove the wrong one"
        )
    elif other_mask != mask:
        report.problems.append(f"{other.path} and {item.path} have equal pixels but different masks; remove one")
    else:
        report.duplicates.append((other.path, item.path))
    return False
