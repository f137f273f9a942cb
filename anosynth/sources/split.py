"""The one split rule: which real image may train, which validates, which tests. Nobody else decides this."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from anosynth.errors import DataError
from anosynth.params import SplitParams
from anosynth.samples import Role
from anosynth.seeding import numpy_rng
from anosynth.sources.files import natural_key
from anosynth.sources.items import SourceItem

logger = logging.getLogger(__name__)


def assign_roles(items: Sequence[SourceItem], split: SplitParams, seed: int) -> dict[str, Role]:
    """Give every image of one category its role.

    1. `as_given`: the source's own split. `first_third`: normals keep the source's split (without one, the last
       floor(g/3) of their g groups, sorted numerically, test); of each defect type with n images, sorted numerically,
       the first floor(n/3) may train and all others test.
    2. `held_out_group`, for development: images that the rule sends to test are dropped, then that group of the
       rest becomes the test, so the true test stays unseen.
    3. `val_ratio`: whole groups of what may train become val (`cut_val`).
    4. No group may have two roles.

    Args:
        items: all images of one category; paths are unique.
        split: section `split` of params.yaml.
        seed: root seed; shapes the choice of val only.

    Returns:
        path -> role, in the order of `items`; a path that is not there was dropped by `held_out_group`.

    Raises:
        DataError: if the rule cannot be applied, a path stands twice, or a group would have two roles.
    """
    _check_unique(items)
    roles: dict[str, Role] = _first_third(items) if split.rule == "first_third" else _as_given(items)
    if split.held_out_group is not None:
        roles = _hold_out(items, roles, split.held_out_group)
    if split.val_ratio > 0:
        trainable = [item for item in items if roles.get(item.path) == "train"]
        rng_address = ("split", items[0].category if items else "")
        for path in cut_val(trainable, ratio=split.val_ratio, seed=seed, address=rng_address):
            roles[path] = "val"
    check_groups(items, roles, rule=split.rule)
    return {item.path: roles[item.path] for item in items if item.path in roles}


def _check_unique(items: Sequence[SourceItem]) -> None:
    seen = set()
    for item in items:
        if item.path in seen:
            raise DataError(f"{item.path}: listed twice in the source; remove one entry")
        seen.add(item.path)


def _as_given(items: Sequence[SourceItem]) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    for item in items:
        if item.part is None:
            raise DataError(
                f"{item.path}: the source gives no split for it, which split.rule as_given needs; "
                "use split.rule first_third, or fill the source's split"
            )
        roles[item.path] = item.part
    return roles


def _first_third(items: Sequence[SourceItem]) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    undivided = [item for item in items if item.defect is None and item.part is None]
    groups = list(dict.fromkeys(item.group for item in sorted(undivided, key=lambda item: natural_key(item.path))))
    testing = set(groups[len(groups) - len(groups) // 3 :])
    for item in items:
        if item.defect is None:
            roles[item.path] = item.part or ("test" if item.group in testing else "train")
    for images in by_defect(items).values():
        for at, item in enumerate(images):
            roles[item.path] = "train" if at < len(images) // 3 else "test"
    return roles


def by_defect(items: Iterable[SourceItem]) -> dict[str, list[SourceItem]]:
    """Return the anomalous images of each defect type, sorted numerically by path; types in order of appearance."""
    found: dict[str, list[SourceItem]] = {}
    for item in items:
        if item.defect is not None:
            found.setdefault(item.defect, []).append(item)
    return {defect: sorted(images, key=lambda item: natural_key(item.path)) for defect, images in found.items()}


def _hold_out(items: Sequence[SourceItem], roles: Mapping[str, Role], group: str) -> dict[str, Role]:
    left = [item for item in items if roles[item.path] != "test"]
    groups = sorted({item.group for item in left}, key=natural_key)
    if group not in groups:
        listed = ", ".join(groups[:20]) + (f" and {len(groups) - 20} more" if len(groups) > 20 else "")
        raise DataError(f"split.held_out_group is {group!r}; the groups outside test are {listed}")
    return {item.path: "test" if item.group == group else roles[item.path] for item in left}


def cut_val(items: Sequence[SourceItem], *, ratio: float, seed: int, address: tuple[str, ...]) -> list[str]:
    """Choose whole groups of what may train for validation.

    Groups of normals only and groups with defects are cut apart, so that val gets both where both have two groups
    or more: of n groups round(ratio n), at least one, in seeded order, with the defect types in turn. A group is
    passed over if without it training had no image left of a kind (normal or a defect type) that it has now.

    Args:
        items: the images that may train.
        ratio: share of the groups, (0, 1).
        seed: root seed.
        address: of the random choice.

    Returns:
        Paths of the images for val; none if there is a single group.
    """
    members: dict[str, list[SourceItem]] = {}
    for item in items:
        members.setdefault(item.group, []).append(item)
    left: dict[str | None, int] = {}
    for item in items:
        left[item.defect] = left.get(item.defect, 0) + 1
    chosen: list[str] = []
    for kind in ("normal", "anomalous"):
        names = [
            name for name, group in members.items() if all(item.defect is None for item in group) == (kind == "normal")
        ]
        names.sort(key=natural_key)
        wanted = max(1, int(len(names) * ratio + 0.5)) if len(names) > 1 else 0
        taken = 0
        for name in _in_turn(names, members, seed=seed, address=(*address, kind)):
            losing: dict[str | None, int] = {}
            for item in members[name]:
                losing[item.defect] = losing.get(item.defect, 0) + 1
            if taken == wanted:
                break
            if any(left[defect] == count for defect, count in losing.items()):
                continue
            for defect, count in losing.items():
                left[defect] -= count
            chosen.append(name)
            taken += 1
    if not chosen:
        logger.warning(
            "no val: the %d images that may train lie in %d group(s) which cannot be parted (val_ratio %g)",
            len(items),
            len(members),
            ratio,
        )
    return [item.path for name in chosen for item in members[name]]


def _in_turn(
    names: Sequence[str], members: Mapping[str, Sequence[SourceItem]], *, seed: int, address: tuple[str, ...]
) -> list[str]:
    """Groups in seeded order, one of each set of defect types after the other."""
    rng = numpy_rng(seed, *address)
    kinds: dict[tuple[str, ...], list[str]] = {}
    for at in rng.permutation(len(names)):
        kind = tuple(sorted({item.defect or "" for item in members[names[at]]}))
        kinds.setdefault(kind, []).append(names[at])
    queues = [kinds[kind] for kind in sorted(kinds)]
    return [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]


def check_groups(items: Iterable[SourceItem], roles: Mapping[str, Role], *, rule: str) -> None:
    """Check that no group has images in two roles.

    Raises:
        DataError: naming the group, both files, their roles and how many groups are concerned.
    """
    first: dict[str, SourceItem] = {}
    torn: dict[str, tuple[SourceItem, SourceItem]] = {}
    for item in items:
        if item.path not in roles:
            continue
        other = first.setdefault(item.group, item)
        if roles[other.path] != roles[item.path]:
            torn.setdefault(item.group, (other, item))
    if torn:
        one, two = next(iter(torn.values()))
        more = f" ({len(torn)} groups are concerned)" if len(torn) > 1 else ""
        raise DataError(
            f"{one.path} ({roles[one.path]}) and {two.path} ({roles[two.path]}) are of one group {one.group!r}, "
            f"which split.rule {rule} would part{more}; move one of them, correct the groups, or split by a column"
        )
