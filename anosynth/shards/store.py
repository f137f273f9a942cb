"""Where shards are kept under the fingerprint of everything that shaped them, each made exactly once.

Layout, on any file system that fsspec opens:

    data/<fingerprint>-<digest of the bytes, 16 characters>.parquet     immutable
    commits/<fingerprint>.json                                          created once; readers follow commits only
    blobs/<key>                                                         training checkpoints, replaceable

A shard exists when its commit exists. The data object is complete before; the commit is created exclusively, so of two
processes that make one shard the first wins and the other takes its data away again (equal bytes have equal names and
are simply shared). On a local disk both steps are hard links from synced temporary files. On S3 they are conditional
puts. On file systems whose "create" is check-then-write (fsspec's memory file system, plain SFTP, ...) two commits
can race; both then name a complete data object, so readers are safe, and one object may stay behind until
`python -m anosynth doctor --prune`. Tests prove local disks and the memory file system; the S3 form follows s3fs's
documentation and has not been run. `python -m anosynth doctor` tries a store's exclusive create.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from anosynth.errors import ShardError
from anosynth.fingerprint import canonical_json, digest_bytes, digest_file
from anosynth.licences import check_licence
from anosynth.samples import Sample, ShardJob
from anosynth.shards.folder import Folder, room_for
from anosynth.shards.manifest import ShardInfo
from anosynth.shards.plan import shard_name, stage_key
from anosynth.shards.rows import Row, encode_row
from anosynth.shards.write import DigestWriter, digest_footer, footer, image_bytes, write_rows

DATA = "data"
COMMITS = "commits"
BLOBS = "blobs"
ENCODE_THREADS = 2
ENCODE_QUEUE = 8

_BLOB_HEAD = b"anosynth-blob 1 "
_BLOB_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]*(/[A-Za-z0-9][A-Za-z0-9_.@-]*)*")


@dataclass(frozen=True)
class CommitRecord:
    """What makes a shard visible.

    Attributes:
        fingerprint: of the job.
        data: name of the data object, relative to the store.
        rows, bytes, blake2, footer: as in `ShardInfo`.
        licences: distinct licences of the rows, sorted.
        device_class: the kind of machine that computed it.
        mtime_ns: modification time of a local data object, 0 elsewhere; as long as it holds, the bytes are trusted.
    """

    fingerprint: str
    data: str
    rows: int
    bytes: int
    blake2: str
    footer: str
    licences: tuple[str, ...]
    device_class: str
    mtime_ns: int

    def info(self, job: ShardJob) -> ShardInfo:
        """The shard as its place in a pool names it."""
        name = shard_name(job.pool, job.shard)
        return ShardInfo(name, self.rows, self.bytes, self.blake2, self.footer, self.fingerprint)


class ShardStore:
    """A content store of shards and small blobs.

    Args:
        url: local path or fsspec URL; the folder is made when something is put.
        device_class: the kind of machine that computes what is put, written into footers and commits. Default: the
            job's device and the processor architecture, for example "cpu-x86_64".
    """

    def __init__(self, url: str | Path, *, device_class: str = "") -> None:
        self.folder = Folder.open(url)
        self._device_class = device_class

    def __contains__(self, fingerprint: object) -> bool:
        """True if the shard is committed and its bytes are there and unharmed.

        A local file is hashed again if its modification time is not the committed one; other bytes count as absent,
        so the shard is made again.
        """
        record = self.commit(str(fingerprint))
        return record is not None and self._sound(record)

    def put(self, job: ShardJob, samples: Iterable[Sample]) -> ShardInfo:
        """Write the samples of a job as one shard, exactly once.

        Samples are taken one by one and encoded on a few threads while the next ones are made; at most a few images and
        one row group are in memory. If `samples` raises, or this process dies, nothing becomes visible.

        Args:
            job: from `plan_shards`.
            samples: the job's samples in order, one per index.

        Returns:
            The shard as it is in the store: the one written here, or the one that another process committed first.

        Raises:
            ShardError: if the samples are not the job's, or the disk is full.
        """
        title = f"shard {job.shard} of {_key(job)}"
        device_class = self._device_class or f"{job.compute.get('device', 'cpu')}-{platform.machine()}"
        licences: set[str] = set()
        tally = _Tally(job.stop - job.start)
        with room_for(title, place=self.folder.url, need=tally.estimate), self.folder.temporary(DATA) as temporary:
            checked = _in_order(job, samples, title, licences)
            encoded = tally.count(_encoded(checked, job.plan))
            with temporary.open("wb") as file:
                writer = DigestWriter(file)
                rows = write_rows(writer, encoded, about=footer(job, device_class=device_class))
            blake2, size = writer.hexdigest(), writer.num_bytes
            with temporary.open("rb") as file:
                footer_digest = digest_footer(file)
            data = f"{DATA}/{job.fingerprint}-{blake2[:16]}.parquet"
            if not self.folder.adopt(temporary, data) and not self._same(data, size, blake2):
                self.folder.remove(data)
                self.folder.adopt(temporary, data)
            record = CommitRecord(
                fingerprint=job.fingerprint,
                data=data,
                rows=rows,
                bytes=size,
                blake2=blake2,
                footer=footer_digest,
                licences=tuple(sorted(licences)),
                device_class=device_class,
                mtime_ns=self._mtime_ns(data),
            )
            record = self._publish(record)
        return record.info(job)

    def commit(self, fingerprint: str) -> CommitRecord | None:
        """The commit of a shard, None if there is none.

        Raises:
            ShardError: if it is unreadable.
        """
        name = f"{COMMITS}/{fingerprint}.json"
        try:
            value = json.loads(self.folder.read(name))
            return CommitRecord(**{**value, "licences": tuple(value["licences"])})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise ShardError(
                f"{self.folder.label(name)} is unreadable ({error}); delete it and run the same command again"
            ) from error

    def record(self, job: ShardJob) -> CommitRecord:
        """The commit of a job's shard.

        Raises:
            ShardError: if the store has no such shard, or it holds another number of rows.
        """
        found = self.commit(job.fingerprint)
        if found is None:
            raise ShardError(
                f"{self.folder.url} does not hold shard {job.shard} of {_key(job)} ({job.fingerprint}); "
                f"run: dvc repro {_key(job)}"
            )
        if found.rows != job.stop - job.start:
            raise ShardError(
                f"{self.folder.label(found.data)} holds {found.rows} rows, but its job has {job.stop - job.start}; "
                f"run: python -m anosynth doctor --prune, then dvc repro {_key(job)}"
            )
        return found

    def open_bytes(self, fingerprint: str) -> BinaryIO:
        """Open the Parquet file of a shard for reading.

        Raises:
            ShardError: if the store has no such shard.
        """
        record = self.commit(fingerprint)
        try:
            if record is not None:
                return self.folder.open_file(record.data)
        except FileNotFoundError:
            pass
        raise ShardError(f"{self.folder.url} does not hold the shard {fingerprint}; run: dvc repro")

    def lay_out(self, job: ShardJob, target: Folder, name: str) -> None:
        """Place a shard in another folder under a name that is free there: a hard link if possible, else a copy.

        Raises:
            ShardError: if the shard is missing, or its bytes are not the committed ones; it is then withdrawn from the
                store, so that the next run makes it again.
        """
        record = self.record(job)
        if self.folder.local is not None and target.local is not None:
            if not self._same(record.data, record.bytes, record.blake2):
                raise self._damaged(record, job)
            if target.link(self.folder.local / record.data, name):
                return
        with target.temporary("") as temporary:
            try:
                with self.folder.open_file(record.data) as file, temporary.open("wb") as copy:
                    shutil.copyfileobj(file, copy, 1 << 20)
            except FileNotFoundError:
                raise self._damaged(record, job) from None
            if digest_file(temporary) != record.blake2:
                raise self._damaged(record, job)
            target.adopt(temporary, name)

    def fingerprints(self) -> list[str]:
        """Fingerprints of all committed shards, sorted; one listing, nothing is opened."""
        return [name.removesuffix(".json") for name in self.folder.names(COMMITS)]

    def put_blob(self, key: str, data: bytes) -> None:
        """Write a small object (a training checkpoint), replacing an earlier one of the same key at once.

        Args:
            key: letters, digits, "_", ".", "@", "-", parts joined by "/"; say what it is and by which fingerprint.
            data: any bytes; stored with their digest.

        Raises:
            ShardError: if the disk is full.
            ValueError: if the key has other characters.
        """
        name = _blob_name(key)
        with room_for(f"the checkpoint {key}", place=self.folder.url, need=lambda: len(data)):
            self.folder.replace(name, _BLOB_HEAD + digest_bytes(data).encode() + b"\n" + data)

    def get_blob(self, key: str) -> bytes | None:
        """Bytes last put under a key, or None.

        Raises:
            ShardError: if they are damaged.
        """
        name = _blob_name(key)
        try:
            stored = self.folder.read(name)
        except FileNotFoundError:
            return None
        head, _, data = stored.partition(b"\n")
        if head != _BLOB_HEAD + digest_bytes(data).encode():
            raise ShardError(
                f"{self.folder.label(name)} is damaged (its digest differs); delete it and run the same command again: "
                "the training starts over"
            )
        return data

    def _publish(self, record: CommitRecord) -> CommitRecord:
        """Create the commit, or yield to a sound one that is there."""
        name = f"{COMMITS}/{record.fingerprint}.json"
        text = canonical_json(asdict(record))
        while not self.folder.create(name, text):
            winner = self.commit(record.fingerprint)
            if winner is None:
                continue
            if self._sound(winner):
                if winner.data != record.data:
                    self.folder.remove(record.data)
                return winner
            self.folder.remove(name)
        return record

    def _sound(self, record: CommitRecord) -> bool:
        if self.folder.local is not None and self._mtime_ns(record.data) != record.mtime_ns:
            return self._same(record.data, record.bytes, record.blake2)
        return self.folder.size(record.data) == record.bytes

    def _same(self, data: str, size: int, blake2: str) -> bool:
        if self.folder.size(data) != size:
            return False
        return self.folder.local is None or digest_file(self.folder.local / data) == blake2

    def _mtime_ns(self, data: str) -> int:
        if self.folder.local is None:
            return 0
        try:
            return (self.folder.local / data).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _damaged(self, record: CommitRecord, job: ShardJob) -> ShardError:
        self.folder.distrust(record.data)
        self.folder.remove(f"{COMMITS}/{record.fingerprint}.json")
        self.folder.remove(record.data)
        return ShardError(
            f"{self.folder.label(record.data)} (shard {job.shard} of {_key(job)}) is damaged and was taken out of the "
            f"store; run: dvc repro {_key(job)}"
        )


def _key(job: ShardJob) -> str:
    return stage_key(job.stage, category=job.category, defect=job.defect, method=job.method)


def _blob_name(key: str) -> str:
    if not _BLOB_KEY.fullmatch(key):
        raise ValueError(f"a blob's key is made of letters, digits and _.@- in parts joined by /, got {key!r}")
    return f"{BLOBS}/{key}"


class _Tally:
    """Counts image bytes on their way, to tell how large a shard will be."""

    def __init__(self, rows: int) -> None:
        self._rows, self._seen, self._bytes = rows, 0, 0

    def count(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            self._seen += 1
            self._bytes += image_bytes(row)
            yield row

    def estimate(self) -> int:
        return self._bytes * self._rows // max(self._seen, 1)


def _in_order(job: ShardJob, samples: Iterable[Sample], title: str, licences: set[str]) -> Iterator[Sample]:
    """Pass samples on if they are exactly the job's; note their licences."""
    expected = job.specs()
    count = 0
    for sample in samples:
        if count == len(expected):
            raise ShardError(f"{title}: got {sample.sample_id} after the last of its {len(expected)} samples")
        if sample.spec != expected[count]:
            raise ShardError(
                f"{title}: sample {count} is {sample.sample_id} with seed {sample.spec.seed}, but the plan says "
                f"{expected[count].sample_id} with seed {expected[count].seed}"
            )
        if sample.provenance.licence not in licences:
            check_licence(sample.provenance.licence)
            licences.add(sample.provenance.licence)
        count += 1
        yield sample
    if count != len(expected):
        raise ShardError(f"{title}: got {count} samples, but the plan says {len(expected)}")


def _encoded(samples: Iterator[Sample], plan: str) -> Iterator[Row]:
    """Encode on a few threads (codecs release the interpreter lock), in order, never more than a short queue ahead."""
    waiting: deque[Future[Row]] = deque()
    with ThreadPoolExecutor(ENCODE_THREADS) as pool:
        for sample in samples:
            waiting.append(pool.submit(encode_row, sample, plan=plan))
            if len(waiting) >= ENCODE_QUEUE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
