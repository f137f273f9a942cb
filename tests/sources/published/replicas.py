"""Miniature replicas of the published data sets, in the layouts of their original downloads."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anosynth.imaging import encode_png
from anosynth.params import ObjectParams, SourceSpec
from anosynth.sources.items import SourceItem
from anosynth.sources.open import open_source
from tests.sources.trees import picture, spot, write

ANYTHING = ObjectParams.model_validate({"name": "part"})


def read(
    spec: SourceSpec,
    root: Path,
    *,
    category: str = "part",
    obj: ObjectParams = ANYTHING,
    defects: tuple[str, ...] = (),
) -> list[SourceItem]:
    return list(open_source(spec, category=category, obj=obj, defects=defects, root=root, seed=0))


def pixels(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened)


def bmp(mask: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="BMP")
    return buffer.getvalue()


def jpg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def grey(seed: int, *, height: int, width: int) -> NDArray[np.uint8]:
    return picture(seed, height=height, width=width)[:, :, 0]


def ksdd(root: Path, *, boards: int = 4, parts: int = 2, height: int = 32, width: int = 12) -> None:
    """Every board's last image has a defect in its middle band, and board 1's in two bands."""
    for board in range(1, boards + 1):
        for part in range(parts):
            folder = root / f"kos{board:02d}"
            write(folder / f"Part{part}.jpg", jpg(grey(100 * board + part, height=height, width=width)))
            label = np.zeros((height, width), dtype=np.uint8)
            if part == parts - 1:
                label[height // 2, 3:6] = 255
            if board == 1 and part == parts - 1:
                label[0, 0] = 1
            write(folder / f"Part{part}_label.bmp", bmp(label))


def afid(root: Path, *, strips: int = 4, tiles: int = 3, twice: bool = False) -> None:
    """Two fabrics without defects; a broken end over two tiles, a nep with two masks, a knot without a mask."""
    names = {name: root / name / name if twice else root / name for name in ("Defect_images", "Mask_images")}
    for at in range(strips):
        fabric = ("2306881-210020u", "2311517-195063u")[at % 2]
        image = grey(at + 1, height=256, width=256 * tiles)
        write(root / "NODefect_images" / fabric / f"{at + 1:04d}_000_0{at % 2}.png", encode_png(image))
    for at, (name, where) in enumerate(
        {"0001_002_00": [(0, 300)], "0044_030_04": [(1,), (256 * tiles - 68,)], "9_027_1": []}.items()
    ):
        write(names["Defect_images"] / f"{name}.png", encode_png(grey(50 + at, height=256, width=256 * tiles)))
        for number, columns in enumerate(where, start=1):
            mask = np.zeros((256, 256 * tiles), dtype=np.uint8)
            mask[100:110, list(columns)] = 255
            suffix = "_mask" if len(where) == 1 else f"_mask{number}"
            write(names["Mask_images"] / f"{name}{suffix}.png", encode_png(mask))


def elpv(root: Path, *, normal: int = 8, between: int = 3, mono: int = 2, poly: int = 3) -> None:
    rows = [(0.0, "mono" if at % 2 else "poly") for at in range(normal)]
    rows += [(1 / 3, "mono")] * between + [(1.0, "mono")] * mono + [(1.0, "poly")] * poly
    # Labels are shuffled over the cells, as in the original.
    order = np.random.default_rng(3).permutation(len(rows))
    lines = []
    for at, row in enumerate(order):
        name = f"images/cell{at + 1:04d}.png"
        write(root / name, encode_png(grey(at, height=20, width=20)))
        lines.append(f"{name}  {rows[row][0]!r}                 {rows[row][1]}")
    write(root / "labels.csv", "\n".join(lines).encode())


def bmad(root: Path, *, masks: str | None, nested: bool = True, train: int = 3) -> None:
    """`masks`: name of the folder of masks, None without masks; `nested`: images lie in a folder img."""
    sizes = {"train/good": train, "valid/good": 2, "valid/Ungood": 2, "test/good": 3, "test/Ungood": 4}
    seed = 0
    for folder, count in sizes.items():
        for at in range(count):
            inner = root / folder / "img" if nested else root / folder
            write(inner / f"{at}.png", encode_png(picture(seed := seed + 1)))
            if masks and folder.endswith("Ungood"):
                # Kinds of disease have levels of their own.
                write(
                    root / folder / masks / f"{at}.png",
                    encode_png((spot() // 255 * (64 * (at % 3) + 64)).astype(np.uint8)),
                )


def brain_mri(root: Path, *, no: int = 98, yes: int = 155) -> None:
    for at in range(no):
        write(root / "no" / f"{at + 1} no.jpeg", f"no {at}".encode())
    for at in range(yes):
        write(root / "yes" / f"Y{at + 1}.jpg", f"yes {at}".encode())


def head_ct(root: Path, *, images: int = 200, inner: str = "head_ct/head_ct") -> None:
    rows = [f"{at},{int(at < images // 2)}" for at in range(images)]
    write(root / "labels.csv", "\n".join(["id, hemorrhage", *rows]).encode())
    for at in range(images):
        write(root / inner / f"{at:03d}.png", f"{at}".encode())


def idx(values: NDArray[np.uint8]) -> bytes:
    """An idx file of unsigned bytes."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def mnist(root: Path, *, train: Sequence[int], test: Sequence[int], gz: bool = False, dot: str = "-") -> None:
    for prefix, labels in (("train", train), ("t10k", test)):
        digits = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
        files = {
            f"{prefix}-images{dot}idx3-ubyte": idx(digits),
            f"{prefix}-labels{dot}idx1-ubyte": idx(np.array(labels, dtype=np.uint8)),
        }
        for name, data in files.items():
            write(root / (name + (".gz" if gz else "")), gzip.compress(data) if gz else data)


def python2_batch(images: NDArray[np.uint8], labels: Sequence[int]) -> bytes:
    """A batch as Python 2 pickled it (protocol 2): text is bytes, the array names NumPy's functions.

    Args:
        images: uint8 [N, 32, 32, 3].
        labels: N classes.
    """
    planes = images.transpose(0, 3, 1, 2).tobytes()

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    kind = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = b"J" + struct.pack("<i", len(labels)) + b"M\x00\x0c\x86"
    state = b"(K\x01" + shape + kind + b"\x89T" + struct.pack("<i", len(planes)) + planes + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    fields = (
        text(b"batch_label") + text(b"training batch 1 of 5") + text(b"labels") + listed + text(b"data") + array + state
    )
    return b"\x80\x02}(" + fields + b"u."


def python3_batch(images: NDArray[np.uint8], labels: Sequence[int], *, protocol: int = 2) -> bytes:
    """The same batch pickled again by this Python."""
    rows = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
    return pickle.dumps({b"data": np.ascontiguousarray(rows), b"labels": list(labels)}, protocol=protocol)


def binary_batch(images: NDArray[np.uint8], labels: Sequence[int]) -> bytes:
    """One byte of label, then the red, green and blue planes, row after row."""
    planes = images.transpose(0, 3, 1, 2)
    return b"".join(bytes([label]) + plane.tobytes() for label, plane in zip(labels, planes, strict=True))


BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")


def cifar_images(seed: int, count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def digits(root: Path, labels: Sequence[int]) -> NDArray[np.int64]:
    """Returns the values, [N, 64] from 0 to 16."""
    values = np.random.default_rng(1).integers(0, 17, (len(labels), 64))
    lines = [",".join(map(str, [*row, label])) for row, label in zip(values.tolist(), labels, strict=True)]
    write(root / "digits.csv.gz", gzip.compress("\n".join(lines).encode()))
    return values
