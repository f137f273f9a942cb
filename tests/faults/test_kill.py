"""A process that fills a store is killed (SIGKILL) and started again, until the plan is done."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from anosynth.samples import ShardJob
from anosynth.seeding import numpy_rng
from anosynth.shards.manifest import seal
from anosynth.shards.prune import examine, prune
from anosynth.shards.read import verify_folder
from anosynth.shards.store import ShardStore
from tests.shards.small_pools import make_jobs, make_sample

SHARD_ROWS = 8
SIZE = (96, 96)
KILLS = 50
SHARD_S = 0.08  # about as long as a shard takes, start-up of the first one apart

FILL = f"""
import sys
from pathlib import Path
from anosynth.shards.store import ShardStore
from tests.shards.small_pools import make_jobs, make_sample

store, log = ShardStore(sys.argv[1]), Path(sys.argv[2])
jobs = make_jobs(int(sys.argv[3]), shard_rows={SHARD_ROWS}, seed=int(sys.argv[4]))
print("ready", flush=True)
for job in jobs:
    if job.fingerprint not in store:
        with log.open("a") as file:
            file.write(job.fingerprint + chr(10))
        store.put(job, (make_sample(spec, size={SIZE}) for spec in job.specs()))
"""


@dataclass(frozen=True)
class Pool:
    """One plan, the store it is filled into by other processes, and what they noted of their work."""

    folder: Path
    repository: Path
    n: int
    seed: int

    @property
    def jobs(self) -> tuple[ShardJob, ...]:
        return make_jobs(self.n, shard_rows=SHARD_ROWS, seed=self.seed)

    @property
    def store(self) -> ShardStore:
        return ShardStore(self.folder / "store")

    def started(self) -> Counter[str]:
        """How often each shard was begun."""
        log = self.folder / "log"
        return Counter(log.read_text().split()) if log.exists() else Counter()

    def fill(self) -> subprocess.Popen[str]:
        """Start a process that makes what is missing; returns when it is about to begin."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arguments = [str(self.folder / "store"), str(self.folder / "log"), str(self.n), str(self.seed)]
        process = subprocess.Popen(
            [sys.executable, "-c", FILL, *arguments], cwd=self.repository, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def check(self, *, kills: int) -> int:
        """Compare the finished store with an unbroken run; return how many shards were begun once too often."""
        jobs, store = self.jobs, self.store
        assert store.fingerprints() == sorted(job.fingerprint for job in jobs)
        unbroken = ShardStore(self.folder / "unbroken")
        for job in jobs:
            unbroken.put(job, (make_sample(spec, size=SIZE) for spec in job.specs()))
        manifests = [seal(jobs, one, self.folder / name) for one, name in ((store, "a"), (unbroken, "b"))]
        assert manifests[0] == manifests[1]
        names = [info.name for info in manifests[0].shards] + ["manifest.json"]
        for name in names:
            assert (self.folder / "a" / name).read_bytes() == (self.folder / "b" / name).read_bytes()
        assert verify_folder(self.folder / "a") == []
        started = self.started()
        assert set(started) == {job.fingerprint for job in jobs}
        rework = started.total() - len(jobs)
        assert rework <= kills
        prune(store, examine(store, frozenset(job.fingerprint for job in jobs), grace_s=0))
        left = [path for path in (self.folder / "store").rglob("*") if path.is_file()]
        assert len(left) == 2 * len(jobs)
        return rework


def test_a_killed_fill_goes_on_where_it_was_and_ends_in_the_same_bytes(tmp_path: Path, repository: Path) -> None:
    pool = Pool(tmp_path / "pool", repository, n=16 * SHARD_ROWS, seed=0)
    process = pool.fill()
    while len(pool.started()) < 3:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -9
    done = len(pool.store.fingerprints())
    assert 2 <= done < 16
    assert pool.fill().wait(timeout=120) == 0
    assert pool.check(kills=1) <= 1


@pytest.mark.faults
def test_fifty_kills_at_random_points_lose_nothing_and_repeat_at_most_a_shard_each(
    tmp_path: Path, repository: Path
) -> None:
    rng = numpy_rng(0, "kills")
    kills = rework = shards = seed = 0
    left = Counter[str]()
    while kills < KILLS:
        seed += 1
        pool = Pool(tmp_path / f"pool-{seed}", repository, n=20 * SHARD_ROWS - 3, seed=seed)
        killed, before = 0, _left_behind(pool)
        while True:
            process = pool.fill()
            if kills < KILLS:
                _work_for_a_while(process, pool, num_shards=int(rng.integers(0, 3)), then_s=rng.uniform(0.0, SHARD_S))
                process.kill()
            if process.wait() == 0:
                break
            assert process.returncode == -9
            kills, killed = kills + 1, killed + 1
            for fingerprint in pool.store.fingerprints():
                assert fingerprint in pool.store
            after = _left_behind(pool)
            left.update(after - before)
            before = after
        rework += pool.check(kills=killed)
        shards += len(pool.jobs)
    print(
        f"\n{kills} kills while {shards} shards of {seed} pools were made: every shard once, bytes as in an unbroken "
        f"run, {rework} shards begun again ({rework / kills:.2f} a kill); lay about after a kill: {dict(left)}"
    )
    assert kills == KILLS


def _work_for_a_while(process: subprocess.Popen[str], pool: Pool, *, num_shards: int, then_s: float) -> None:
    """Return when the process has begun so many shards more and some time has passed, or when it has ended."""
    goal = pool.started().total() + num_shards
    while pool.started().total() < goal and process.poll() is None:
        time.sleep(0.001)
    time.sleep(then_s)


def _left_behind(pool: Pool) -> Counter[str]:
    store = pool.folder / "store"
    num_data, num_commits = len(list(store.glob("data/*.parquet"))), len(list(store.glob("commits/*.json")))
    return Counter(
        {
            "half-written shards": len(list(store.glob("data/.tmp-*"))),
            "half-written commits": len(list(store.glob("commits/.tmp-*"))),
            "shards without a commit": num_data - num_commits,
        }
    )
