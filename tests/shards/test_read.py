from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anosynth.errors import DataError, ShardError
from anosynth.fingerprint import digest_file
from anosynth.imaging import encode_png
from anosynth.samples import Pool, Sample, Verdict
from anosynth.shards.manifest import Manifest, read_manifest, seal
from anosynth.shards.read import read_rows, read_samples, read_verdicts, verify_folder, write_verdicts
from anosynth.shards.schema import LABELS, SCHEMA
from anosynth.shards.store import ShardStore
from anosynth.shards.write import digest_footer, footer, to_batch
from tests.shards.small_pools import make_jobs, make_sample, make_samples, same_sample

REMAKE = "run: dvc repro generate_pairs@washer-scratch-perlin"


def _fill(
    folder: Path, *, n: int = 10, pool: Pool = "pairs", licence: str = "CC0-1.0"
) -> tuple[Manifest, list[Sample]]:
    store, jobs = ShardStore(folder / "store"), make_jobs(n, pool=pool)
    samples = [make_sample(spec, licence=licence) for job in jobs for spec in job.specs()]
    for job in jobs:
        store.put(job, samples[job.start : job.stop])
    return seal(jobs, store, folder / "pool"), samples


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A sealed pool of ten pairs in three shards, with no store beside it."""
    _fill(tmp_path)
    shutil.rmtree(tmp_path / "store")
    return tmp_path / "pool"


@pytest.mark.parametrize("kind", ["pairs", "normals"])
def test_a_pool_round_trips(tmp_path: Path, kind: Pool) -> None:
    _, samples = _fill(tmp_path, pool=kind)
    found = list(read_samples(tmp_path / "pool"))
    assert len(found) == 10
    assert all(same_sample(a, b) for a, b in zip(found, samples, strict=True))
    assert verify_folder(tmp_path / "pool") == []


def test_only_wanted_samples_are_yielded(pool: Path) -> None:
    ids = [sample.sample_id for sample in read_samples(pool)]
    wanted = [ids[1], ids[9], "pairs/other/scratch/perlin/000000"]
    assert [sample.sample_id for sample in read_samples(pool, keep=wanted)] == [ids[1], ids[9]]
    assert list(read_samples(pool, keep=[])) == []


def test_the_manifest_says_what_the_pool_is_and_nothing_about_when(tmp_path: Path) -> None:
    manifest, _ = _fill(tmp_path)
    assert read_manifest(tmp_path / "pool") == manifest
    assert (manifest.rows, manifest.licence, manifest.profile) == (10, "CC0-1.0", "default")
    assert [info.rows for info in manifest.shards] == [4, 4, 2]
    assert manifest.upstream == {"shots": "0" * 32}
    assert manifest.shape == {"size_px": 32, "opacity": [0.3, 0.9]}
    for info in manifest.shards:
        path = tmp_path / "pool" / info.name
        assert (path.stat().st_size, digest_file(path)) == (info.bytes, info.blake2)
    assert [manifest.job(shard) for shard in range(3)] == list(make_jobs(10))
    text = (tmp_path / "pool" / "manifest.json").read_text()
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_the_licence_of_a_pool_is_that_of_its_most_restricted_row(tmp_path: Path) -> None:
    store, jobs = ShardStore(tmp_path / "store"), make_jobs(8)
    for job in jobs:
        store.put(job, (make_sample(s, licence="CC-BY-SA-4.0" if s.index == 5 else "CC0-1.0") for s in job.specs()))
    assert seal(jobs, store, tmp_path / "pool").licence == "CC-BY-SA-4.0"


def test_a_pool_of_two_kinds_of_machine_is_refused(tmp_path: Path) -> None:
    jobs = make_jobs(8)
    for job, kind in zip(jobs, ("cpu-x86_64", "cpu-aarch64"), strict=True):
        ShardStore(tmp_path / "store", device_class=kind).put(job, make_samples(job))
    with pytest.raises(ShardError, match=r"different kinds of machine .cpu-aarch64, cpu-x86_64."):
        seal(jobs, ShardStore(tmp_path / "store"), tmp_path / "pool")
    assert not (tmp_path / "pool" / "manifest.json").exists()


def test_a_pool_with_a_missing_shard_is_not_sealed(tmp_path: Path) -> None:
    store, jobs = ShardStore(tmp_path / "store"), make_jobs(8)
    store.put(jobs[0], make_samples(jobs[0]))
    with pytest.raises(ShardError, match=f"does not hold shard 1 .* {REMAKE}"):
        seal(jobs, store, tmp_path / "pool")
    assert not (tmp_path / "pool").exists()


def test_a_damaged_shard_is_not_sealed_and_the_next_run_makes_it_again(tmp_path: Path) -> None:
    store, (job,) = ShardStore(tmp_path / "store"), make_jobs(4)
    store.put(job, make_samples(job))
    path = tmp_path / "store" / store.record(job).data
    _flip(path, keep_time=True)  # a rotten disk leaves the modification time alone
    assert job.fingerprint in store

    with pytest.raises(ShardError, match=f"is damaged and was taken out of the store; {REMAKE}"):
        seal([job], store, tmp_path / "pool")

    assert job.fingerprint not in store
    store.put(job, make_samples(job))
    assert seal([job], store, tmp_path / "pool").rows == 4


def test_jobs_of_two_plans_are_not_one_pool(tmp_path: Path) -> None:
    one, two = make_jobs(8), make_jobs(8, seed=8)
    for jobs in ([], [one[1]], [one[0], two[1]], [one[1], one[0]]):
        with pytest.raises(ValueError, match="job"):
            seal(jobs, ShardStore(tmp_path), tmp_path / "pool")


def test_columns_are_read_without_touching_images(pool: Path) -> None:
    for path in pool.glob("*.parquet"):
        _flip(path, keep_time=False)  # in the middle of the image bytes: metadata columns do not see it
    table = read_rows(pool, ["sample_id", "mask_area", "defect", "shot_ids", "licence"])
    assert table.num_rows == 10
    assert table.column_names == ["sample_id", "mask_area", "defect", "shot_ids", "licence"]
    assert table["sample_id"].to_pylist() == [spec.sample_id for job in make_jobs(10) for spec in job.specs()]
    assert table["defect"].to_pylist() == ["scratch"] * 10
    assert table["shot_ids"].to_pylist() == [["a" * 64, "b" * 64]] * 10
    areas = [make_sample(spec).mask_area for job in make_jobs(10) for spec in job.specs()]
    np.testing.assert_allclose(table["mask_area"].to_numpy(), areas, rtol=1e-6)
    with pytest.raises(ShardError, match="is damaged"):
        read_rows(pool, ["image"])
    with pytest.raises(ValueError, match="no such columns: pixels"):
        read_rows(pool, ["pixels"])


def _flip(path: Path, *, keep_time: bool) -> None:
    """Change one bit inside the largest image of a shard's first row group."""
    times = path.stat()
    metadata = pq.ParquetFile(path).metadata.row_group(0)
    columns = [metadata.column(at) for at in range(metadata.num_columns)]
    image = next(column for column in columns if column.path_in_schema == "image.bytes")
    at = image.data_page_offset + image.total_compressed_size // 2
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _truncate(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-100])


def _flip_one(path: Path) -> None:
    _flip(path, keep_time=False)


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (_flip_one, "CRC checksum verification failed"),
        (_truncate, "bytes, manifest.json says"),
        (Path.unlink, "is missing"),
    ],
)
def test_a_harmed_shard_is_named_with_the_command_that_remakes_it(
    pool: Path, harm: Callable[[Path], None], text: str
) -> None:
    harm(pool / "pairs-00001.parquet")

    seen = []
    with pytest.raises(ShardError) as caught:
        seen.extend(read_samples(pool))

    assert len(seen) == 4  # the first shard is whole
    message = str(caught.value)
    assert str(pool / "pairs-00001.parquet") in message
    assert text in message
    assert message.endswith(REMAKE)
    (problem,) = verify_folder(pool)
    assert str(pool / "pairs-00001.parquet") in problem
    assert problem.endswith(REMAKE)


def test_whichever_byte_of_a_shard_is_harmed_no_other_sample_is_read(tmp_path: Path) -> None:
    store, (job,) = ShardStore(tmp_path / "store"), make_jobs(2, shard_rows=2)
    store.put(job, (make_sample(spec, size=(8, 8)) for spec in job.specs()))
    seal([job], store, tmp_path / "pool")
    path = tmp_path / "pool" / "pairs-00000.parquet"
    whole = path.read_bytes()
    path.unlink()
    expected = [make_sample(spec, size=(8, 8)) for spec in job.specs()]
    noticed = harmless = 0
    for at in range(3, len(whole), 17):
        harmed = bytearray(whole)
        harmed[at] ^= 1 << (at % 8)
        path.write_bytes(harmed)
        try:
            found = list(read_samples(tmp_path / "pool"))
        except ShardError:
            noticed += 1
        else:
            assert all(same_sample(a, b) for a, b in zip(found, expected, strict=True)), at
            harmless += 1
        assert len(verify_folder(tmp_path / "pool")) == 1
    assert noticed + harmless > 500
    assert noticed > 100


def test_an_unfinished_pool_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    for path, command in (
        ("data/pairs/washer/scratch/perlin", "dvc repro generate_pairs@washer-scratch-perlin"),
        ("data/normals/washer", "dvc repro generate_normals@washer"),
    ):
        with pytest.raises(ShardError, match=f"manifest.json is missing.*run: {command}$"):
            next(read_samples(tmp_path / path))


def _edit_manifest(pool: Path, **change: object) -> None:
    path = pool / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema_version": 2}, "schema version 2, but this program reads version 1"),
        ({"rows": 11}, "promises 11 rows"),
        ({"shards": []}, "do not add up"),
        ({"surprise": 1}, "wrong fields"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(pool: Path, change: dict[str, object], text: str) -> None:
    _edit_manifest(pool, **change)
    with pytest.raises(ShardError, match=text):
        read_manifest(pool)


def test_a_manifest_that_is_no_json_is_refused(pool: Path) -> None:
    (pool / "manifest.json").write_text("{")
    with pytest.raises(ShardError, match=r"manifest\.json is unreadable"):
        read_manifest(pool)


def _rewrite(pool: Path, shard: int, change: Callable[[list[dict[str, object]]], None]) -> None:
    """Forge a shard: change its rows, write it again and make the manifest agree with the file."""
    path = pool / f"pairs-{shard:05d}.parquet"
    rows = pq.read_table(path).to_pylist()
    change(rows)
    schema = SCHEMA.with_metadata(footer(make_jobs(10)[shard], device_class="cpu"))
    path.unlink()
    pq.write_table(pa.Table.from_batches([to_batch(rows, schema)]), path)
    manifest = json.loads((pool / "manifest.json").read_text())
    manifest["shards"][shard] |= {"bytes": path.stat().st_size, "blake2": digest_file(path)}
    with path.open("rb") as file:
        manifest["shards"][shard]["footer"] = digest_footer(file)
    _edit_manifest(pool, shards=manifest["shards"])


def _set(column: str, value: object) -> Callable[[list[dict[str, object]]], None]:
    def change(rows: list[dict[str, object]]) -> None:
        rows[1][column] = value

    return change


def _copy_first(rows: list[dict[str, object]]) -> None:
    rows[1] = rows[0]


def _png(values: list[int]) -> dict[str, object]:
    mask = np.full((24, 32), values[0], dtype=np.uint8)
    mask[5:9, 5:9] = values[-1]
    return {"bytes": encode_png(mask), "path": "mask.png"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_copy_first, "000004 stands twice"),
        (_copy_first, "the plan says .*000005"),
        (_set("sample_id", "pairs/washer/scratch/perlin/000099"), "the plan says .*000005"),
        (_set("seed", 1), "with seed"),
        (_set("mask", None), "a mask belongs to pairs"),
        (_set("mask", _png([0])), "mask is empty"),
        (_set("mask", _png([255])), "mask covers the whole image|grey levels"),
        (_set("mask", _png([0, 1])), r"mask values are \[0, 1\]"),
        (_set("mask", _png([7, 255])), "grey levels"),
        (_set("height", 25), "size is 25 x 32"),
        (_set("label", 0), "a mask belongs to pairs"),
        (_set("mask_area", 0.5), "mask_area is 0.5"),
        (_set("licence", ""), "no licence"),
        (_set("licence", None), "000005: licence must not be null"),
        (_set("image", None), "000005: image must not be null"),
        (_set("plan", "x"), "its plan is another one"),
        (_set("image", {"bytes": b"RIFF", "path": "x"}), "not an image file"),
    ],
)
def test_verify_finds_a_forged_row(pool: Path, change: Callable[[list[dict[str, object]]], None], text: str) -> None:
    _rewrite(pool, 1, change)
    problems = verify_folder(pool)
    assert any(re.search(text, problem) for problem in problems), problems
    assert all("pairs-00001.parquet" in problem for problem in problems)


def test_verify_finds_a_forged_plan_and_a_strange_file(pool: Path) -> None:
    _edit_manifest(pool, seed=8)
    (pool / "extra.parquet").write_bytes(b"")
    problems = verify_folder(pool)
    assert sum("its fingerprint is not that of its job" in problem for problem in problems) == 3
    assert sum("the job in its footer is not the one in manifest.json" in problem for problem in problems) == 3
    assert sum("extra.parquet is not in manifest.json" in problem for problem in problems) == 1
    assert sum("the plan says" in problem for problem in problems) == 10


VERDICTS = [
    Verdict("pairs/washer/scratch/perlin/000001", "", {"mask_ratio": 0.1, "distance": 1 / 3}),
    Verdict("pairs/washer/scratch/perlin/000000", "near_copy", {"mask_ratio": 1e-9, "distance": math.inf}),
    Verdict("normals/washer/-/sample/000000", "", {}),
]


def test_verdicts_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "verdicts" / "washer.parquet"
    write_verdicts(path, VERDICTS)
    found = read_verdicts(path)
    assert list(found.values()) == VERDICTS
    assert [verdict.keep for verdict in found.values()] == [True, False, True]
    before = digest_file(path)
    write_verdicts(path, VERDICTS)
    assert digest_file(path) == before


def test_verdicts_of_no_sample_are_a_table_too(tmp_path: Path) -> None:
    write_verdicts(tmp_path / "v.parquet", [])
    assert read_verdicts(tmp_path / "v.parquet") == {}


def test_two_verdicts_on_one_sample_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has two verdicts"):
        write_verdicts(tmp_path / "v.parquet", [VERDICTS[0], replace(VERDICTS[0], reason="empty")])
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_verdicts_are_named_with_their_command(tmp_path: Path) -> None:
    path = tmp_path / "washer.parquet"
    with pytest.raises(ShardError, match="is missing; run: dvc repro screen@washer"):
        read_verdicts(path)
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(ShardError, match=r"is damaged .* run: dvc repro screen@washer"):
        read_verdicts(path)


def test_datasets_reads_the_pools_with_types(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    _fill(tmp_path / "a")
    _fill(tmp_path / "b", pool="normals")
    write_verdicts(tmp_path / "verdicts.parquet", VERDICTS)
    found = datasets.load_dataset(
        "parquet",
        data_files={"pairs": f"{tmp_path}/a/pool/*.parquet", "normals": f"{tmp_path}/b/pool/*.parquet"},
        cache_dir=str(tmp_path / "cache"),
    )
    assert set(found) == {"pairs", "normals"}
    pairs, normals = found["pairs"], found["normals"]
    assert pairs.features["label"] == datasets.ClassLabel(names=list(LABELS))
    for name in ("image", "part", "mask"):
        assert isinstance(pairs.features[name], datasets.Image)
    assert pairs.features["category"] == datasets.Value("string")
    assert pairs.features["shot_ids"] == datasets.List(datasets.Value("string"))
    rows = 0
    for job in make_jobs(10):
        for spec in job.specs():
            sample, row = make_sample(spec), pairs[spec.index]
            assert np.array_equal(np.asarray(row["image"]), sample.image)
            assert np.array_equal(np.asarray(row["mask"]), sample.mask)
            assert row["sample_id"] == spec.sample_id
            assert (row["label"], row["category"]) == (1, "washer")
            rows += 1
    assert rows == 10
    assert normals[3]["mask"] is None
    assert normals[3]["label"] == 0
    verdicts = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "verdicts.parquet"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert verdicts[1]["reason"] == "near_copy"
    assert verdicts[0]["measures"] == [{"name": "distance", "value": 1 / 3}, {"name": "mask_ratio", "value": 0.1}]
