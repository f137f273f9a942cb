from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from anosynth.errors import ShardError
from anosynth.samples import Pool, Verdict
from anosynth.shards.dataset import ShardDataset, shuffled_order
from anosynth.shards.manifest import seal
from anosynth.shards.store import ShardStore
from tests.shards.small_pools import make_jobs, make_sample, make_samples


def _pool(folder: Path, *, n: int = 10, pool: Pool = "pairs", shard_rows: int = 4) -> Path:
    store, jobs = ShardStore(folder / "store"), make_jobs(n, pool=pool, shard_rows=shard_rows)
    for job in jobs:
        store.put(job, make_samples(job))
    seal(jobs, store, folder / "pool")
    return folder / "pool"


@pytest.mark.parametrize("kind", ["pairs", "normals"])
def test_items_are_the_samples_as_tensors(tmp_path: Path, kind: Pool) -> None:
    dataset = ShardDataset(_pool(tmp_path, pool=kind), cached_groups=1)
    specs = [spec for job in make_jobs(10, pool=kind) for spec in job.specs()]
    assert len(dataset) == len(specs) == 10
    for index in (9, 0, 5, 4, 1, 2, 3, 6, 8, 7):
        item, sample = dataset[index], make_sample(specs[index])
        mask = np.zeros((24, 32), np.uint8) if sample.mask is None else sample.mask
        assert item["image"].dtype == item["mask"].dtype == torch.uint8
        np.testing.assert_array_equal(item["image"].numpy(), sample.image.transpose(2, 0, 1))
        np.testing.assert_array_equal(item["mask"].numpy(), mask[None])
        assert item["label"] == int(kind == "pairs")
        assert item["sample_id"] == sample.sample_id


def test_refused_samples_are_left_out_and_unscreened_ones_are_an_error(tmp_path: Path) -> None:
    folder = _pool(tmp_path)
    ids = [spec.sample_id for job in make_jobs(10) for spec in job.specs()]
    refused = {ids[1], ids[8], ids[9]}
    verdicts = {name: Verdict(name, "tiny" if name in refused else "", {}) for name in ids}

    dataset = ShardDataset(folder, verdicts)

    assert [dataset[at]["sample_id"] for at in range(len(dataset))] == [name for name in ids if name not in refused]
    assert dataset.rows_per_group == (3, 4)
    del verdicts[ids[4]]
    with pytest.raises(ShardError, match="000004 was never screened; run: dvc repro screen@washer"):
        ShardDataset(folder, verdicts)


def test_worker_processes_read_the_same(tmp_path: Path) -> None:
    dataset = ShardDataset(_pool(tmp_path, n=150, shard_rows=150))
    assert dataset.rows_per_group == (64, 64, 22)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[149]["image"], dataset[149]["image"])
    order = shuffled_order(dataset.rows_per_group, seed=3, epoch=0)
    loader = DataLoader(
        dataset,
        sampler=order.tolist(),
        batch_size=16,
        num_workers=1,
        multiprocessing_context="spawn",
        generator=torch.Generator().manual_seed(0),
    )
    seen = [name for batch in loader for name in batch["sample_id"]]
    assert seen == [dataset[at]["sample_id"] for at in order]


@settings(max_examples=50)
@given(
    rows=st.lists(st.integers(1, 9), max_size=12),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 5),
    window=st.integers(1, 5),
)
def test_an_order_is_a_permutation_that_touches_few_groups_at_a_time(
    rows: list[int], seed: int, epoch: int, window: int
) -> None:
    order = shuffled_order(rows, seed=seed, epoch=epoch, window=window)

    assert sorted(order.tolist()) == list(range(sum(rows)))
    group_of = np.repeat(np.arange(len(rows)), rows)
    visited = group_of[order]
    last = {group: int(np.flatnonzero(visited == group)[-1]) for group in range(len(rows))}
    first = {group: int(np.flatnonzero(visited == group)[0]) for group in range(len(rows))}
    for at in range(len(order)):
        assert sum(first[group] <= at <= last[group] for group in first) <= window
    np.testing.assert_array_equal(order, shuffled_order(rows, seed=seed, epoch=epoch, window=window))


def test_every_epoch_has_its_own_order() -> None:
    orders = {tuple(shuffled_order([8, 8, 8], seed=0, epoch=epoch).tolist()) for epoch in range(6)}
    assert len(orders) == 6
