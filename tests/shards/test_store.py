from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from anosynth.errors import DataError, ShardError
from anosynth.fingerprint import digest_file
from anosynth.samples import Sample, ShardJob
from anosynth.shards.manifest import seal
from anosynth.shards.read import read_samples
from anosynth.shards.store import ShardStore
from tests.shards.small_pools import make_jobs, make_sample, make_samples, same_sample


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(params=["local", "file", "memory"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "local": str(tmp_path / "a störe"),
        "file": f"file://{tmp_path}/store",
        "memory": f"memory://{uuid.uuid4().hex}/store",
    }[request.param]


def test_a_shard_is_there_after_put_and_not_before(store_url: str) -> None:
    store, (first, second) = ShardStore(store_url), make_jobs(8)
    assert first.fingerprint not in store

    info = store.put(first, make_samples(first))

    assert first.fingerprint in store
    assert second.fingerprint not in store
    assert store.fingerprints() == [first.fingerprint]
    assert (info.name, info.rows, info.fingerprint) == ("pairs-00000.parquet", 4, first.fingerprint)
    with store.open_bytes(first.fingerprint) as file:
        data = file.read()
    assert len(data) == info.bytes


def test_samples_come_back_from_any_store_as_they_went_in(store_url: str, tmp_path: Path) -> None:
    store, jobs = ShardStore(store_url), make_jobs(6)
    for job in jobs:
        store.put(job, make_samples(job))
    seal(jobs, store, tmp_path / "pool")

    found = list(read_samples(tmp_path / "pool"))

    expected = [sample for job in jobs for sample in make_samples(job)]
    assert len(found) == 6
    assert all(same_sample(a, b) for a, b in zip(found, expected, strict=True))


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    (job,) = make_jobs(70, shard_rows=70)
    infos = [ShardStore(tmp_path / name).put(job, make_samples(job)) for name in ("one", "two")]
    assert infos[0] == infos[1]


def test_a_second_put_of_a_shard_changes_nothing(store_url: str) -> None:
    store, (job,) = ShardStore(store_url), make_jobs(4)
    info = store.put(job, make_samples(job))
    record = store.record(job)
    assert store.put(job, make_samples(job)) == info
    assert store.record(job) == record


def test_a_put_that_lost_against_other_bytes_takes_its_data_away(tmp_path: Path) -> None:
    store, (job,) = ShardStore(tmp_path), make_jobs(4)
    first = store.put(job, make_samples(job))
    second = store.put(job, (make_sample(spec, size=(40, 40)) for spec in job.specs()))
    assert second == first
    assert len(_files(tmp_path)) == 2


def test_if_the_iterator_raises_nothing_is_left(tmp_path: Path) -> None:
    store, (job,) = ShardStore(tmp_path), make_jobs(4)

    def broken() -> Iterator[Sample]:
        yield from list(make_samples(job))[:3]
        raise RuntimeError("the generator broke")

    with pytest.raises(RuntimeError, match="the generator broke"):
        store.put(job, broken())
    assert _files(tmp_path) == []
    assert job.fingerprint not in store


def test_samples_other_than_the_planned_ones_are_refused(tmp_path: Path) -> None:
    store, (job, other) = ShardStore(tmp_path), make_jobs(8)
    samples, strangers = list(make_samples(job)), list(make_samples(other))
    wrong = {
        "got 3 samples, but the plan says 4": samples[:3],
        "after the last of its 4 samples": samples + strangers[:1],
        "sample 1 is .*000002": [samples[0], samples[2], samples[1], samples[3]],
        "sample 0 is .*000004": strangers,
        "with seed": list(make_samples(make_jobs(8, seed=8)[0])),
    }
    for text, given in wrong.items():
        with pytest.raises(ShardError, match=text):
            store.put(job, given)
    assert len(wrong) == 5
    assert _files(tmp_path) == []


def test_a_licence_that_forbids_derivatives_is_refused_before_anything_is_kept(tmp_path: Path) -> None:
    store, (job,) = ShardStore(tmp_path), make_jobs(4)
    with pytest.raises(DataError, match="forbids derivatives"):
        store.put(job, (make_sample(spec, licence="CC-BY-ND-4.0") for spec in job.specs()))
    assert _files(tmp_path) == []


def test_a_file_explains_itself(tmp_path: Path) -> None:
    store, (job,) = ShardStore(tmp_path), make_jobs(4, shape={"size_px": 32, "profile": "reference"})
    store.put(job, make_samples(job))
    about = pq.read_schema(store.open_bytes(job.fingerprint)).metadata
    assert about[b"anosynth.fingerprint"].decode() == job.fingerprint
    assert json.loads(about[b"anosynth.job"])["shape"] == {"size_px": 32, "profile": "reference"}
    made_with = json.loads(about[b"anosynth.made_with"])
    assert made_with["device_class"].startswith("cpu-")
    assert set(made_with) >= {"anosynth", "pyarrow", "pillow", "numpy", "torch", "device_class"}


def test_row_groups_hold_64_rows_and_images_are_stored_as_they_are(tmp_path: Path) -> None:
    store, (job,) = ShardStore(tmp_path), make_jobs(150, shard_rows=150)
    store.put(job, make_samples(job))
    metadata = pq.ParquetFile(store.open_bytes(job.fingerprint)).metadata
    assert [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)] == [64, 64, 22]
    kinds = {}
    for at in range(metadata.num_columns):
        column = metadata.row_group(0).column(at)
        kinds[column.path_in_schema] = (column.compression, column.has_dictionary_page, column.is_stats_set)
    for name in ("image", "part", "mask"):
        assert kinds.pop(f"{name}.bytes") == ("UNCOMPRESSED", False, False)
    assert len(kinds) == 21
    assert {(compression, dictionary) for compression, dictionary, _ in kinds.values()} == {("ZSTD", True)}


def test_a_row_group_is_cut_before_16_mebibytes(tmp_path: Path) -> None:
    store, (job,) = ShardStore(tmp_path), make_jobs(5, shard_rows=5, pool="normals")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (1024, 2048, 3), dtype=np.uint8)  # 6.3 MB that no codec shrinks
    store.put(
        job,
        (Sample(spec, np.roll(noise, spec.index), None, make_sample(spec).provenance) for spec in job.specs()),
    )
    metadata = pq.ParquetFile(store.open_bytes(job.fingerprint)).metadata
    assert [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)] == [2, 2, 1]


def test_files_are_read_only(tmp_path: Path) -> None:
    store, (job,) = ShardStore(tmp_path), make_jobs(4)
    store.put(job, make_samples(job))
    assert [path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()] == [0o444, 0o444]


def test_a_shard_whose_bytes_changed_in_the_store_counts_as_absent_and_is_made_again(tmp_path: Path) -> None:
    store, (job,) = ShardStore(tmp_path), make_jobs(4)
    info = store.put(job, make_samples(job))
    path = tmp_path / store.record(job).data
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)

    assert job.fingerprint not in store
    assert store.put(job, make_samples(job)) == info
    assert job.fingerprint in store
    assert digest_file(path) == info.blake2


def test_a_shard_whose_data_vanished_counts_as_absent_and_is_made_again(store_url: str) -> None:
    store, (job,) = ShardStore(store_url), make_jobs(4)
    info = store.put(job, make_samples(job))
    store.folder.remove(store.record(job).data)
    assert job.fingerprint not in store
    assert store.put(job, make_samples(job)) == info
    assert job.fingerprint in store


def test_a_copied_store_is_as_good(tmp_path: Path) -> None:
    store, (job,) = ShardStore(tmp_path / "one"), make_jobs(4)
    store.put(job, make_samples(job))
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            target = tmp_path / "two" / path.relative_to(tmp_path / "one")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    assert job.fingerprint in ShardStore(tmp_path / "two")


_PUT = """
import sys, time
from pathlib import Path
from anosynth.shards.store import ShardStore
from tests.shards.small_pools import make_jobs, make_sample

job = make_jobs(16, shard_rows=16)[0]
meet, other = Path(sys.argv[2]), Path(sys.argv[3])

def samples():
    for spec in job.specs():
        yield make_sample(spec)
    meet.touch()
    while not other.exists():      # both processes have made everything before either commits
        time.sleep(0.001)

print(ShardStore(sys.argv[1]).put(job, samples()))
"""


def test_of_two_processes_that_put_one_shard_one_commits_and_both_are_fine(tmp_path: Path, repository: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _PUT, str(tmp_path / "store"), str(mine), str(other)],
            cwd=repository,
            stdout=subprocess.PIPE,
            text=True,
        )
        for mine, other in ((a, b), (b, a))
    ]
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    (job,) = make_jobs(16, shard_rows=16)
    assert job.fingerprint in ShardStore(tmp_path / "store")
    assert len(_files(tmp_path / "store")) == 2


def test_a_full_disk_ends_in_one_sentence_and_leaves_nothing(tmp_path: Path, repository: Path) -> None:
    script = """
    import resource, sys
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # stands for a full disk: a write fails half-way
    from anosynth.errors import AnosynthError
    from anosynth.shards.store import ShardStore
    from tests.shards.small_pools import make_jobs, make_samples

    job = make_jobs(128, shard_rows=128)[0]
    try:
        ShardStore(sys.argv[1]).put(job, make_samples(job))
    except AnosynthError as error:
        print(error)
        raise SystemExit(error.exit_code)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "store")],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 2, run.stderr
    assert "no room for about 0." in run.stdout
    assert "shard 0 of generate_pairs@washer-scratch-perlin" in run.stdout
    assert "Traceback" not in run.stderr
    assert _files(tmp_path / "store") == []


def test_writing_a_shard_keeps_a_row_group_in_memory_and_not_the_shard(tmp_path: Path, repository: Path) -> None:
    script = """
    import os, resource, sys
    from anosynth.shards.rows import encode_row
    from anosynth.shards.write import footer, write_rows
    from tests.shards.small_pools import make_jobs, make_sample

    (job,) = make_jobs(1, pool="normals")
    (spec,) = job.specs()
    row = encode_row(make_sample(spec), plan=job.plan)

    def rows(count):
        for _ in range(count):
            yield {**row, "image": {"bytes": os.urandom(400_000), "path": "x.webp"}}

    def write(count):
        with open(sys.argv[1], "wb") as file:
            write_rows(file, rows(count), about=footer(job, device_class="cpu"))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = write(1)
    print((write(800) - before) / 1024, os.path.getsize(sys.argv[1]) / 2**20)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "shard.parquet")],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    rise_mib, size_mib = (float(word) for word in run.stdout.split())
    assert size_mib > 300
    assert rise_mib < 110  # rows, Arrow's copy and the page being written: a few times 16 MiB


def test_committing_a_shard_costs_little(tmp_path: Path) -> None:
    store, jobs = ShardStore(tmp_path), make_jobs(12, shard_rows=1)
    taken = []
    for job in jobs:
        samples = list(make_samples(job))
        started = time.process_time()
        store.put(job, samples)
        taken.append(time.process_time() - started)
    assert len(taken) == 12
    assert min(taken) < 0.05


def test_a_checkpoint_is_replaced_whole_and_checked(store_url: str) -> None:
    store = ShardStore(store_url)
    key = "personalize_normals/washer-0123abcd/latest"
    assert store.get_blob(key) is None
    store.put_blob(key, b"step 20")
    store.put_blob(key, b"step 40\n\x00more")
    assert store.get_blob(key) == b"step 40\n\x00more"

    harmed = store.folder.read(f"blobs/{key}").replace(b"40", b"41")
    store.folder.replace(f"blobs/{key}", harmed)
    with pytest.raises(ShardError, match="is damaged"):
        store.get_blob(key)


@pytest.mark.parametrize("key", ["", "/a", "a/../b", "a//b", "a b", "a/"])
def test_a_blob_key_cannot_leave_the_store(key: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="key"):
        ShardStore(tmp_path).put_blob(key, b"")


def test_an_unknown_shard_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    store, (job,) = ShardStore(tmp_path), make_jobs(4)
    with pytest.raises(ShardError, match="run: dvc repro generate_pairs@washer-scratch-perlin"):
        store.record(job)
    with pytest.raises(ShardError, match="does not hold the shard"):
        store.open_bytes(job.fingerprint)


def _sealed(tmp_path: Path, n: int) -> tuple[ShardStore, tuple[ShardJob, ...]]:
    store, jobs = ShardStore(tmp_path / "store"), make_jobs(n)
    for job in jobs:
        if job.fingerprint not in store:
            store.put(job, make_samples(job))
    seal(jobs, store, tmp_path / "pool")
    return store, jobs


def test_a_grown_pool_has_the_same_full_shards_in_the_same_files(tmp_path: Path) -> None:
    _sealed(tmp_path, 10)
    before = {path.name: (path.stat().st_ino, digest_file(path)) for path in (tmp_path / "pool").glob("*.parquet")}
    _sealed(tmp_path, 15)
    after = {path.name: (path.stat().st_ino, digest_file(path)) for path in (tmp_path / "pool").glob("*.parquet")}
    assert len(before) == 3
    assert len(after) == 4
    for name in ("pairs-00000.parquet", "pairs-00001.parquet"):
        assert after[name] == before[name]
    assert after["pairs-00002.parquet"] != before["pairs-00002.parquet"]


def test_a_shrunk_pool_has_no_old_shards_left(tmp_path: Path) -> None:
    _sealed(tmp_path, 15)
    _sealed(tmp_path, 8)
    assert _files(tmp_path / "pool") == ["manifest.json", "pairs-00000.parquet", "pairs-00001.parquet"]


def test_store_and_pool_share_one_copy_on_disk(tmp_path: Path) -> None:
    store, jobs = _sealed(tmp_path, 8)
    for job in jobs:
        sealed = tmp_path / "pool" / f"pairs-{job.shard:05d}.parquet"
        assert sealed.samefile(tmp_path / "store" / store.record(job).data)


def test_sealing_again_writes_the_same_bytes(tmp_path: Path) -> None:
    _sealed(tmp_path, 8)
    before = {name: digest_file(tmp_path / "pool" / name) for name in _files(tmp_path / "pool")}
    _sealed(tmp_path, 8)
    assert {name: digest_file(tmp_path / "pool" / name) for name in _files(tmp_path / "pool")} == before
    assert len(before) == 3
