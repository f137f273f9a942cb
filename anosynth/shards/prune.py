"""What may be deleted from a store: entries that no result of the project names, and leftovers of broken-off writes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from anosynth.shards.store import BLOBS, COMMITS, DATA, ShardStore

_DIGEST = re.compile(r"\b[0-9a-f]{32}\b")


@dataclass(frozen=True)
class Usage:
    """What lies in a store.

    Attributes:
        num_shards: committed shards.
        num_blobs: checkpoints, adapters and other small objects.
        num_bytes: of everything but temporary files.
        unused: names of entries that nothing refers to and that are old enough to go.
        unused_bytes: their size.
        young: how many entries nothing refers to either, but which were written a short while ago.
        temporary: names of temporary files of broken-off writes.
    """

    num_shards: int
    num_blobs: int
    num_bytes: int
    unused: tuple[str, ...]
    unused_bytes: int
    young: int
    temporary: tuple[str, ...]


def referred_digests(folders: Iterable[Path]) -> frozenset[str]:
    """All digests (32 hexadecimal characters) in the JSON files below some folders: manifests, adapters, fits."""
    found: set[str] = set()
    for folder in folders:
        for path in folder.rglob("*.json"):
            found.update(_DIGEST.findall(path.read_text(encoding="utf-8", errors="replace")))
    return frozenset(found)


def examine(store: ShardStore, referred: frozenset[str], *, grace_s: float) -> Usage:
    """Tell what of a store is in use.

    A commit is used if its fingerprint is referred to, a data object if its commit is there and used, a blob if its key
    holds a digest that is referred to.

    Args:
        store: the store.
        referred: from `referred_digests`.
        grace_s: entries written within this time are left alone, because a running stage may be about to use them.
    """
    folder = store.folder
    sizes = {name: folder.size(name) or 0 for part in (DATA, COMMITS, BLOBS) for name in folder.files(part)}
    commits = [name for name in sizes if name.startswith(f"{COMMITS}/")]
    blobs = [name for name in sizes if name.startswith(f"{BLOBS}/")]
    used = {name for name in commits if _fingerprint(name) in referred}
    used |= {record.data for record in (store.commit(_fingerprint(name)) for name in used) if record is not None}
    used |= {name for name in blobs if not referred.isdisjoint(_DIGEST.findall(name))}
    unused = sorted(sizes.keys() - used, key=lambda name: (not name.startswith(COMMITS), name))
    old = tuple(name for name in unused if folder.age_s(name) >= grace_s)
    return Usage(
        num_shards=len(commits),
        num_blobs=len(blobs),
        num_bytes=sum(sizes.values()),
        unused=old,
        unused_bytes=sum(sizes[name] for name in old),
        young=len(unused) - len(old),
        temporary=tuple(folder.stale_temporaries("", older_than_s=grace_s)),
    )


def prune(store: ShardStore, usage: Usage) -> None:
    """Delete what `examine` found unused: commits before their data, so that no reader follows a commit to nothing."""
    for name in (*usage.unused, *usage.temporary):
        store.folder.remove(name)


def _fingerprint(commit: str) -> str:
    return commit.removeprefix(f"{COMMITS}/").removesuffix(".json")
