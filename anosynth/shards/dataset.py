"""A sealed pool as a torch data set, and an order to walk it in that reads every row group once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from anosynth.errors import DataError, ShardError
from anosynth.imaging import decode_image, decode_mask
from anosynth.samples import Verdict
from anosynth.seeding import numpy_rng
from anosynth.shards.read import OpenShard, ShardReader

if TYPE_CHECKING:
    from numpy.typing import NDArray

CACHED_GROUPS = 4
OPEN_SHARDS = 32

_COLUMNS = ("sample_id", "label", "image", "mask")


class Item(TypedDict):
    """One sample as tensors.

    image: uint8 [3, H, W], RGB. mask: uint8 [1, H, W] in {0, 255}, zeros for a normal image.
    label: 0 normal, 1 anomalous. sample_id: as in `SampleSpec`.
    """

    image: Tensor
    mask: Tensor
    label: int
    sample_id: str


class ShardDataset(Dataset[Item]):
    """Random access to the samples of a sealed pool, in pool order; works in DataLoader workers.

    A byte column is read by row groups, so neighbours are cheap and strangers are not: walk the set with
    `shuffled_order`. A page is compared with its checksum when it is first read.

    Args:
        folder: local path or fsspec URL of the pool.
        verdicts: what screening decided, by sample id; refused samples are left out. None keeps all.
        cached_groups: row groups (encoded, at most 16 MiB each unless one image is larger) kept in memory.

    Attributes:
        rows_per_group: samples kept of each row group that has any, in order; for `shuffled_order`.

    Raises:
        ShardError: if the pool is unfinished, damaged or of another version, or a sample has no verdict.
    """

    def __init__(
        self,
        folder: str | Path,
        verdicts: Mapping[str, Verdict] | None = None,
        *,
        cached_groups: int = CACHED_GROUPS,
    ) -> None:
        self._reader = ShardReader(folder)
        self._cached_groups = cached_groups
        self._shards: OrderedDict[int, OpenShard] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], list[dict[str, object]]] = OrderedDict()
        self._at: list[tuple[int, int, int]] = []
        rows_per_group = []
        for shard in range(len(self._reader)):
            for group in range(self._open(shard).num_groups):
                ids = self._open(shard).read(group, ["sample_id"])["sample_id"].to_pylist()
                kept = [row for row, name in enumerate(ids) if verdicts is None or self._verdict(verdicts, name).keep]
                self._at += [(shard, group, row) for row in kept]
                rows_per_group += [len(kept)] if kept else []
        self.rows_per_group: tuple[int, ...] = tuple(rows_per_group)

    def __len__(self) -> int:
        """Number of samples kept."""
        return len(self._at)

    def __getitem__(self, index: int) -> Item:
        """The sample at a position in [0, len)."""
        shard, group, at = self._at[index]
        row = self._group(shard, group)[at]
        name = str(row["sample_id"])
        try:
            image = decode_image(_bytes(row["image"]), name=name).image
            if row["mask"] is None:
                mask = np.zeros(image.shape[:2], dtype=np.uint8)
            else:
                mask = decode_mask(_bytes(row["mask"]), name=name)
        except DataError as error:
            raise self._open(shard).damaged(str(error)) from error
        return Item(
            image=torch.from_numpy(np.moveaxis(image, -1, 0).copy()),
            mask=torch.from_numpy(mask[None].copy()),
            label=int(str(row["label"])),
            sample_id=name,
        )

    def __getstate__(self) -> dict[str, object]:
        """Leave open files and cached groups behind when a worker process gets a copy."""
        return {**self.__dict__, "_shards": OrderedDict(), "_groups": OrderedDict()}

    def _verdict(self, verdicts: Mapping[str, Verdict], name: str) -> Verdict:
        if name not in verdicts:
            raise ShardError(f"{name} was never screened; run: dvc repro screen@{self._reader.manifest.category}")
        return verdicts[name]

    def _open(self, shard: int) -> OpenShard:
        if shard not in self._shards:
            self._shards[shard] = self._reader.open(shard)
            while len(self._shards) > OPEN_SHARDS:
                self._shards.popitem(last=False)
        self._shards.move_to_end(shard)
        return self._shards[shard]

    def _group(self, shard: int, group: int) -> list[dict[str, object]]:
        key = (shard, group)
        if key not in self._groups:
            self._groups[key] = self._open(shard).read(group, _COLUMNS).to_pylist()
            while len(self._groups) > self._cached_groups:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


def shuffled_order(
    rows_per_group: Sequence[int], *, seed: int, epoch: int, window: int = CACHED_GROUPS
) -> NDArray[np.int64]:
    """A random order of a pool that needs only a few row groups in memory at a time.

    The groups are shuffled, then the samples of every `window` consecutive groups among each other.

    Args:
        rows_per_group: samples of each group, see `ShardDataset.rows_per_group`.
        seed: root seed.
        epoch: pass over the data, from 0; every epoch has its own order.
        window: groups mixed with each other, at least 1; as many as there are groups gives a full shuffle.

    Returns:
        A permutation of [0, sum(rows_per_group)), int64, the same on every machine.
    """
    if window < 1:
        raise ValueError(f"window is {window}; at least one group is read at a time")
    rng = numpy_rng(seed, "shuffled_order", epoch)
    rows = np.asarray(rows_per_group, dtype=np.int64)
    starts = np.cumsum(rows) - rows
    groups = rng.permutation(len(rows))
    order = [np.empty(0, dtype=np.int64)]
    for at in range(0, len(groups), window):
        mixed = np.concatenate([np.arange(starts[g], starts[g] + rows[g]) for g in groups[at : at + window]])
        order.append(rng.permutation(mixed))
    return np.concatenate(order)


def _bytes(file: object) -> bytes:
    assert isinstance(file, dict)
    data = file["bytes"]
    assert isinstance(data, bytes)
    return data
