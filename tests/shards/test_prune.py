from __future__ import annotations

import json
import os
import time
from pathlib import Path

from anosynth.shards.manifest import seal
from anosynth.shards.prune import examine, prune, referred_digests
from anosynth.shards.store import ShardStore
from tests.shards.small_pools import make_jobs, make_samples


def _age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_only_what_no_result_names_is_deleted(tmp_path: Path) -> None:
    store, old, new = ShardStore(tmp_path / "store"), make_jobs(8), make_jobs(8, algorithm=2)
    for job in (*old, *new):
        store.put(job, make_samples(job))
    seal(new, store, tmp_path / "data" / "pool")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "adapter.json").write_text(json.dumps({"fingerprint": "a" * 32}))
    store.put_blob(f"personalize/{'a' * 32}.adapter", b"used")
    store.put_blob(f"personalize/{'b' * 32}.adapter", b"unused")

    referred = referred_digests([tmp_path / "data", tmp_path / "models"])
    usage = examine(store, referred, grace_s=0)
    prune(store, usage)

    assert (usage.num_shards, usage.num_blobs, len(usage.unused), usage.young) == (4, 2, 5, 0)
    assert [job.fingerprint in store for job in (*old, *new)] == [False, False, True, True]
    assert store.get_blob(f"personalize/{'a' * 32}.adapter") == b"used"
    assert store.get_blob(f"personalize/{'b' * 32}.adapter") is None
    after = examine(store, referred, grace_s=0)
    assert (after.num_shards, after.num_blobs, after.unused) == (2, 1, ())
    assert usage.num_bytes - after.num_bytes == usage.unused_bytes > 0


def test_what_was_written_a_moment_ago_is_left_alone(tmp_path: Path) -> None:
    store, (job,) = ShardStore(tmp_path), make_jobs(4)
    store.put(job, make_samples(job))
    usage = examine(store, frozenset(), grace_s=3600)
    assert (usage.unused, usage.young) == ((), 2)


def test_leftovers_of_killed_writers_are_found_by_age(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "blobs" / "detectors").mkdir(parents=True)
    left = [tmp_path / "data" / ".tmp-1-a", tmp_path / "blobs" / "detectors" / ".tmp-1-b"]
    running = tmp_path / "data" / ".tmp-2-c"
    for path in (*left, running):
        path.write_bytes(b"half")
    for path in left:
        _age(path, 7200)
    usage = examine(store, frozenset(), grace_s=3600)
    assert usage.temporary == ("blobs/detectors/.tmp-1-b", "data/.tmp-1-a")
    prune(store, usage)
    assert [path.exists() for path in (*left, running)] == [False, False, True]


def test_data_without_a_commit_is_unused(tmp_path: Path) -> None:
    store, (job,) = ShardStore(tmp_path), make_jobs(4)
    store.put(job, make_samples(job))
    record = store.record(job)
    store.folder.remove(f"commits/{job.fingerprint}.json")
    usage = examine(store, frozenset({job.fingerprint}), grace_s=0)
    assert usage.unused == (record.data,)


def test_an_empty_store_uses_nothing(tmp_path: Path) -> None:
    usage = examine(ShardStore(tmp_path / "nowhere"), frozenset(), grace_s=0)
    assert (usage.num_shards, usage.num_blobs, usage.num_bytes, usage.unused, usage.temporary) == (0, 0, 0, (), ())
    assert not (tmp_path / "nowhere").exists()


def test_a_store_in_memory_is_examined_too() -> None:
    store, (job,) = ShardStore("memory://prune-test/store"), make_jobs(4)
    store.put(job, make_samples(job))
    usage = examine(store, frozenset(), grace_s=0)
    prune(store, usage)
    assert len(usage.unused) == 2
    assert job.fingerprint not in store
