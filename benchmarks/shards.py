"""Bars of the shard format against WebDataset tar files and Parquet's default layout.

Payload: 1,200 pairs with images of about 205 kB that no codec shrinks, their masks, and the columns of our schema.

write   both sides get the encoded bytes and write one file. Ours with all columns, footer and page checksums;
        WebDataset's TarWriter with one image, one mask and one JSON entry a sample. The note also says what is left
        when ours computes the digest that a commit needs (a tar file has none).
scan    the bytes of every image, in order. Ours through `ShardReader`, page checksums compared;
        webdataset.WebDataset without decoding.
random  the bytes of one image at a random place, files open. Ours against row groups of 1,000 rows with pyarrow's
        default compression and dictionaries. Ours compares a page's checksum when it first reads it; the ratio is that
        of later reads, the note says what the first one costs.

Outputs are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset

from anosynth.params import ComputeParams
from anosynth.samples import Provenance, Sample, ShardJob
from anosynth.seeding import numpy_rng
from anosynth.shards.manifest import seal
from anosynth.shards.plan import plan_shards
from anosynth.shards.read import ShardReader
from anosynth.shards.rows import Row
from anosynth.shards.schema import METADATA_COLUMNS, ROW_GROUP_ROWS, SCHEMA
from anosynth.shards.store import ShardStore
from anosynth.shards.write import DigestWriter, footer, to_batch, write_rows
from benchmarks.measure import Bar, best_seconds, compare, finish

IMAGE_PX = 262  # 262 x 262 x 3 bytes of noise make a WebP file of about 205 kB
NUM_ROWS = 1200
NUM_RANDOM = 8
WRITE_ASK, SCAN_ASK, RANDOM_ASK = 1.3, 2.0, 20.0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shards",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python -m benchmarks.shards\n  python -m benchmarks.shards --rows 200",
    )
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    num_rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory(prefix="anosynth-shards-") as folder:
        return finish(measure(Path(folder), num_rows=num_rows))


def measure(folder: Path, *, num_rows: int) -> list[Bar]:
    """Write the payload in all three forms, check that they hold the same, and measure the three bars."""
    job = _job(num_rows)
    store = ShardStore(folder / "store")
    store.put(job, (_sample(job, at) for at in range(num_rows)))
    seal([job], store, folder / "pool")
    rows = pq.read_table(folder / "pool" / "pairs-00000.parquet").to_pylist()
    megabytes = sum(len(row["image"]["bytes"]) for row in rows) / 1e6
    print(f"{num_rows} rows, {megabytes:.0f} MB of images", file=sys.stderr)

    tar, default = folder / "pairs.tar", folder / "default.parquet"
    ours, about = folder / "ours.parquet", footer(job, device_class="bench")
    pq.write_table(pa.Table.from_batches([to_batch(rows, SCHEMA)]), default, row_group_size=1000)

    def write_ours() -> None:
        with ours.open("wb") as file:
            write_rows(file, rows, about=about)

    def write_with_digest() -> None:
        with ours.open("wb") as file:
            write_rows(DigestWriter(file), rows, about=about)

    write_ours()
    _write_tar(tar, rows)
    if pq.read_table(ours).to_pylist() != rows or list(_scan_tar(tar)) != list(_scan_ours(folder / "pool")):
        raise AssertionError("the two containers do not hold the same")
    seconds = best_seconds({"tar": lambda: _write_tar(tar, rows), "ours": write_ours, "digest": write_with_digest})
    write = Bar(
        "shards.write",
        seconds["tar"] / seconds["ours"],
        WRITE_ASK,
        note=f"tar {seconds['tar'] * 1e3:.0f} ms, ours {seconds['ours'] * 1e3:.0f} ms; "
        f"with digest {seconds['digest'] * 1e3:.0f} ms, ratio {seconds['tar'] / seconds['digest']:.2f}",
    )
    scan = compare(
        "shards.scan",
        ask=SCAN_ASK,
        baseline=lambda: _drain(_scan_tar(tar)),
        ours=lambda: _drain(_scan_ours(folder / "pool")),
    )

    places = numpy_rng(0, "places").integers(0, num_rows, NUM_RANDOM).tolist()
    shard, coarse = ShardReader(folder / "pool").open(0), pq.ParquetFile(default)
    fine = ROW_GROUP_ROWS

    def random_ours() -> list[bytes]:
        return [_image(shard.read(at // fine, ["image"]), at % fine) for at in places]

    def random_checked() -> list[bytes]:
        return [_image(shard.file.read_row_group(at // fine, columns=["image"]), at % fine) for at in places]

    def random_default() -> list[bytes]:
        return [_image(coarse.read_row_group(at // 1000, columns=["image"]), at % 1000) for at in places]

    if random_ours() != random_default() or random_ours() != [rows[at]["image"]["bytes"] for at in places]:
        raise AssertionError("the two layouts do not hold the same")
    seconds = best_seconds({"default": random_default, "ours": random_ours, "checked": random_checked})
    random = Bar(
        "shards.random",
        seconds["default"] / seconds["ours"],
        RANDOM_ASK,
        note=f"default {seconds['default'] * 1e3:.0f} ms, ours {seconds['ours'] * 1e3:.1f} ms for {NUM_RANDOM} images; "
        f"on first touch {seconds['checked'] * 1e3:.1f} ms, ratio {seconds['default'] / seconds['checked']:.1f}",
    )
    return [write, scan, random]


def _job(num_rows: int) -> ShardJob:
    (job,) = plan_shards(
        stage="generate_pairs",
        pool="pairs",
        category="washer",
        defect="scratch",
        method="perlin",
        n=num_rows,
        shard_rows=num_rows,
        batch_size=8,
        seed=0,
        shape={"size_px": IMAGE_PX},
        compute=ComputeParams(threads=1, dtype="float32", device="cpu"),
        upstream={},
        algorithm=0,
    )
    return job


def _sample(job: ShardJob, at: int) -> Sample:
    rng = numpy_rng(0, "payload", at)
    mask = np.zeros((IMAGE_PX, IMAGE_PX), dtype=np.uint8)
    top, left = rng.integers(0, IMAGE_PX // 2, 2)
    mask[top : top + 60, left : left + 90] = 255
    image = rng.integers(0, 256, (IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
    return Sample(job.specs()[at], image, mask, Provenance(("0" * 64,) * 4, "CC0-1.0", parent_id="1" * 64))


def _write_tar(path: Path, rows: list[Row]) -> None:
    with path.open("wb") as file, webdataset.TarWriter(file, encoder=False, mtime=0.0) as writer:
        for row in rows:
            plain = {name: row[name] for name in METADATA_COLUMNS}
            writer.write(
                {
                    "__key__": str(row["sample_id"]),
                    "webp": row["image"]["bytes"],  # type: ignore[index]
                    "mask.png": row["mask"]["bytes"],  # type: ignore[index]
                    "json": json.dumps(plain).encode(),
                }
            )


def _scan_tar(path: Path) -> Iterator[bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one shard, no shuffling: asked for
        for sample in webdataset.WebDataset(str(path), shardshuffle=False):
            yield sample["webp"]


def _scan_ours(folder: Path) -> Iterator[bytes]:
    reader = ShardReader(folder)
    for number in range(len(reader)):
        shard = reader.open(number)
        for group in range(shard.num_groups):
            for image in _files(shard.read(group, ["image"])):
                yield image.as_py()


def _image(table: pa.Table, at: int) -> bytes:
    return _files(table)[at].as_py()


def _files(table: pa.Table) -> pa.BinaryArray:
    return table["image"].combine_chunks().field("bytes")


def _drain(images: Iterator[bytes]) -> int:
    return sum(len(image) for image in images)


if __name__ == "__main__":
    raise SystemExit(main())
