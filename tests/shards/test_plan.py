from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anosynth.fingerprint import digest_value
from anosynth.params import ComputeParams
from anosynth.shards.plan import fingerprint_of, job_from_json, job_to_json, plan_shards, shard_name, stage_key
from tests.shards.small_pools import COMPUTE, make_jobs


@settings(max_examples=60)
@given(n=st.integers(1, 300), shard_rows=st.integers(1, 70), batch_size=st.integers(1, 20))
def test_shards_cover_every_sample_once_and_in_order(n: int, shard_rows: int, batch_size: int) -> None:
    jobs = make_jobs(n, shard_rows=shard_rows, batch_size=batch_size)

    assert [index for job in jobs for index in range(job.start, job.stop)] == list(range(n))
    assert [job.shard for job in jobs] == list(range(len(jobs)))
    assert all(job.stop - job.start == shard_rows for job in jobs[:-1])
    assert len({job.fingerprint for job in jobs}) == len(jobs)
    assert len({job.plan for job in jobs}) == 1
    specs = [spec for job in jobs for batch in job.batches() for spec in batch]
    assert [spec.index for spec in specs] == list(range(n))
    assert max(len(batch) for job in jobs for batch in job.batches()) <= batch_size


@settings(max_examples=60)
@given(small=st.integers(1, 200), more=st.integers(0, 200), shard_rows=st.integers(1, 50))
def test_growing_a_pool_keeps_every_full_shard(small: int, more: int, shard_rows: int) -> None:
    before, after = make_jobs(small, shard_rows=shard_rows), make_jobs(small + more, shard_rows=shard_rows)
    full = small // shard_rows

    assert after[:full] == before[:full]
    if small % shard_rows and more:
        assert before[full].fingerprint not in {job.fingerprint for job in after}
    assert before[0].plan == after[0].plan


def _changed(**change: object) -> str:
    values: dict[str, object] = {
        "stage": "generate_pairs",
        "pool": "pairs",
        "category": "washer",
        "defect": "scratch",
        "method": "perlin",
        "n": 8,
        "shard_rows": 4,
        "batch_size": 2,
        "seed": 7,
        "shape": {"size_px": 32, "methods": {"opacity": [0.3, 0.9]}},
        "compute": COMPUTE,
        "upstream": {"shots": "x"},
        "algorithm": 1,
    }
    return plan_shards(**{**values, **change})[0].fingerprint  # type: ignore[arg-type]


def test_everything_that_shapes_a_pixel_changes_the_fingerprint_and_pool_size_does_not() -> None:
    changes: list[Mapping[str, object]] = [
        {"stage": "other"},
        {"pool": "normals", "defect": None},
        {"category": "bottle"},
        {"defect": "dent"},
        {"method": "cutpaste"},
        {"shard_rows": 3},
        {"batch_size": 4},
        {"seed": 8},
        {"shape": {"size_px": 64, "methods": {"opacity": [0.3, 0.9]}}},
        {"shape": {"size_px": 32, "methods": {"opacity": [0.3, 0.8]}}},
        {"compute": ComputeParams(threads=2, dtype="float32", device="cpu")},
        {"compute": ComputeParams(threads=1, dtype="bfloat16", device="cpu")},
        {"compute": ComputeParams(threads=1, dtype="float32", device="cuda")},
        {"upstream": {"shots": "y"}},
        {"upstream": {"shots": "x", "adapter": "z"}},
        {"algorithm": 2},
    ]
    found = {_changed(), *(_changed(**change) for change in changes)}
    assert len(found) == 1 + len(changes)
    assert _changed(n=800) == _changed()


def test_a_fingerprint_is_the_digest_of_canonical_json_spelled_out_here() -> None:
    job = make_jobs(6)[1]
    expected = {
        "schema_version": 1,
        "stage": "generate_pairs",
        "pool": "pairs",
        "category": "washer",
        "defect": "scratch",
        "method": "perlin",
        "batch_size": 2,
        "seed": 7,
        "shape": {"size_px": 32, "opacity": [0.3, 0.9]},
        "compute": {"threads": 1, "dtype": "float32", "device": "cpu"},
        "upstream": {"shots": "0" * 32},
        "algorithm": 1,
    }
    assert job.plan == digest_value(expected)
    assert job.fingerprint == digest_value({**expected, "start": 4, "stop": 6})
    assert fingerprint_of(job) == job.fingerprint


def test_a_job_survives_json() -> None:
    job = make_jobs(6, shape={"strength": (0.2, 0.5)})[1]
    assert job_from_json(job_to_json(job)) == job
    assert job.shape == {"strength": [0.2, 0.5]}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"n": 0}, "n is 0"),
        ({"shard_rows": 0}, "shard_rows is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"defect": None}, "normals have none and pairs have one"),
        ({"pool": "normals"}, "normals have none and pairs have one"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(change: Mapping[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        _changed(**change)


def test_a_shape_that_is_not_json_is_refused() -> None:
    with pytest.raises(TypeError):
        _changed(shape={"spec": object()})
    with pytest.raises(ValueError, match="not JSON compliant"):
        _changed(shape={"lr": float("nan")})


def test_names_do_not_depend_on_how_many_shards_there_are() -> None:
    assert shard_name("pairs", 3) == "pairs-00003.parquet"
    assert stage_key("generate_normals", category="washer", defect=None, method="sample") == "generate_normals@washer"
    assert (
        stage_key("generate_pairs", category="washer", defect="scratch", method="perlin")
        == "generate_pairs@washer-scratch-perlin"
    )


def test_planning_a_hundred_thousand_shards_takes_seconds() -> None:
    started = time.process_time()
    jobs = make_jobs(400_000)
    assert len(jobs) == 100_000
    assert time.process_time() - started < 10
