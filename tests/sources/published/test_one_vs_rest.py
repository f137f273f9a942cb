"""MNIST, CIFAR-10 and scikit-learn's digits: one class is normal; pickles are read without running them."""

from __future__ import annotations

import gzip
import os
import pickle
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from anosynth.errors import DataError
from anosynth.params import CIFAR10Source, DigitsSource, MNISTSource, ObjectParams, SplitParams
from anosynth.sources.examine import examine
from anosynth.sources.published import cifar10 as cifar
from anosynth.sources.published import mnist as mnists
from anosynth.sources.published.plain_pickle import load_plain
from anosynth.sources.split import assign_roles
from tests.sources.published.replicas import (
    BATCHES,
    binary_batch,
    cifar_images,
    digits,
    mnist,
    pixels,
    python2_batch,
    python3_batch,
    read,
)
from tests.sources.trees import write

AS_GIVEN = SplitParams.model_validate({"rule": "as_given", "val_ratio": 0.0, "held_out_group": None})
MNIST = MNISTSource(kind="mnist", root="data", check_counts=False)
CIFAR = CIFAR10Source(kind="cifar10", root="data", check_counts=False)
DIGITS = DigitsSource(kind="digits", root="data", check_counts=False)
THREE = ObjectParams.model_validate({"name": "digit three", "folder": "3"})
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.parametrize(("gz", "dot"), [(False, "-"), (True, "-"), (False, ".")])
def test_one_digit_of_mnist_is_normal_and_the_others_are_defects(tmp_path: Path, gz: bool, dot: str) -> None:
    train, test = [3, 1, 3, 7, 3, 0], [1, 3, 3, 9, 0]
    mnist(tmp_path / "data", train=train, test=test, gz=gz, dot=dot)
    items = read(MNIST, tmp_path, category="digit_3", obj=THREE)
    end = ".gz" if gz else ""
    assert [(one.path, one.part, one.defect) for one in items] == [
        *((f"train-images{dot}idx3-ubyte{end}#{at:05d}", "train", None) for at in (0, 2, 4)),
        *((f"t10k-images{dot}idx3-ubyte{end}#{at:05d}", "test", None) for at in (1, 2)),
        *((f"t10k-images{dot}idx3-ubyte{end}#{at:05d}", "test", str(test[at])) for at in (4, 0, 3)),
    ]
    expected = np.random.default_rng(len(train)).integers(0, 256, (len(train), 28, 28), dtype=np.uint8)
    assert np.array_equal(pixels(items[1].read_image()), expected[2])
    assert len(list(examine(items, assign_roles(items, AS_GIVEN, 0)))) == 8
    renamed = ObjectParams.model_validate({"name": "x", "folder": "3", "defect_folders": {"nine": "9"}})
    assert {one.defect for one in read(MNIST, tmp_path, obj=renamed, defects=("nine",))} == {None, "nine"}
    with pytest.raises(DataError, match=r"no class 'digit_3' for digit_3; there: 0, 1, .*set objects.digit_3.folder"):
        read(MNIST, tmp_path, category="digit_3")


def test_mnist_at_full_size_has_the_published_counts(tmp_path: Path) -> None:
    for prefix, counts in (("train", mnists.TRAIN), ("t10k", mnists.TEST)):
        labels = np.repeat(np.arange(10, dtype=np.uint8), counts)
        head = len(labels).to_bytes(4, "big")
        write(tmp_path / f"data/{prefix}-labels-idx1-ubyte", b"\0\0\x08\x01" + head + labels.tobytes())
        side = (28).to_bytes(4, "big")
        pictures = bytes(784 * len(labels))
        write(tmp_path / f"data/{prefix}-images-idx3-ubyte", b"\0\0\x08\x03" + head + side + side + pictures)
    assert (sum(mnists.TRAIN), sum(mnists.TEST)) == (60_000, 10_000)
    items = read(MNISTSource(kind="mnist", root="data"), tmp_path, obj=THREE)
    count = Counter((one.part, one.defect is None) for one in items)
    assert count == {("train", True): 6131, ("test", True): 1010, ("test", False): 8990}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte", lambda data: data[:-1], r"bytes or more for 4 rows of \(28, 28\); it is cut off"),
        ("train-images-idx3-ubyte", lambda data: data + b"x", r"bytes or more for 4 rows"),
        ("train-images-idx3-ubyte", lambda data: b"\0\0\x08\x01" + data[4:], r"not the idx file that it should be"),
        ("train-images-idx3-ubyte", lambda data: b"", r"not the idx file that it should be"),
        ("train-images-idx3-ubyte", lambda data: data[:4] + b"\xff\xff\xff\xff" + data[8:], r"for 4294967295 rows"),
        ("train-labels-idx1-ubyte", lambda data: data[:-1] + b"\x0c", r"a label is 12; a digit is 0 to 9"),
        (
            "train-labels-idx1-ubyte",
            lambda data: data[:4] + b"\0\0\0\x03" + data[8:-1],
            r"4 images, but .* has 3 labels",
        ),
        ("train-labels-idx1-ubyte", None, r"train-labels-idx1-ubyte: no such file, plain or .gz"),
    ],
)
def test_a_damaged_file_of_mnist_is_one_sentence(tmp_path: Path, name: str, change: object, message: str) -> None:
    mnist(tmp_path / "data", train=[0, 1, 2, 3], test=[3, 4])
    file = tmp_path / "data" / name
    if callable(change):
        file.write_bytes(change(file.read_bytes()))
    else:
        file.unlink()
    with pytest.raises(DataError, match=message):
        read(MNIST, tmp_path, obj=THREE)


def test_a_gz_file_that_is_damaged_or_swells_is_refused(tmp_path: Path) -> None:
    mnist(tmp_path / "data", train=[3, 1], test=[3], gz=True)
    file = tmp_path / "data/train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    write(file, whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"idx3-ubyte.gz: cannot be read"):
        read(MNIST, tmp_path, obj=THREE)
    write(file, gzip.compress(gzip.decompress(whole) + bytes(60_000_000), compresslevel=1))
    with pytest.raises(DataError, match=r"47040017 bytes or more for 2 rows"):
        read(MNIST, tmp_path, obj=THREE)


@pytest.mark.parametrize("kind", ["python2", "python3", "python3 protocol 5", "binary"])
@pytest.mark.parametrize("folder", [".", "cifar-10-batches-py"])
def test_one_class_of_cifar10_is_normal_whatever_the_form_of_the_batches(
    tmp_path: Path, kind: str, folder: str
) -> None:
    labels = {name: [3, at % 10, 9] for at, name in enumerate(BATCHES)}
    images = {name: cifar_images(at, 3) for at, name in enumerate(BATCHES)}
    for name in BATCHES:
        made = {
            "python2": lambda name=name: python2_batch(images[name], labels[name]),
            "python3": lambda name=name: python3_batch(images[name], labels[name]),
            "python3 protocol 5": lambda name=name: python3_batch(images[name], labels[name], protocol=5),
            "binary": lambda name=name: binary_batch(images[name], labels[name]),
        }[kind]()
        write(tmp_path / "data" / folder / (f"{name}.bin" if kind == "binary" else name), made)
    if kind == "python3 protocol 5":
        with pytest.raises(DataError, match=r"not a pickle of plain data"):
            read(CIFAR, tmp_path, category="cat")
        return
    items = read(CIFAR, tmp_path, category="cat")
    assert Counter((one.part, one.defect) for one in items) == {
        ("train", None): 6,
        ("test", None): 1,
        ("test", "dog"): 1,
        ("test", "truck"): 1,
    }
    checked = 0
    for one in items:
        name, at = one.path.split("#")
        stem = Path(name).stem
        assert np.array_equal(pixels(one.read_image()), images[stem][int(at)])
        assert (one.defect or "cat") == CLASSES[labels[stem][int(at)]]
        checked += 1
    assert checked == 9
    with pytest.raises(DataError, match=r"6 normal train \(published: 5000\), 1 normal test \(published: 1000\)"):
        read(CIFAR10Source(kind="cifar10", root="data"), tmp_path, category="cat")


def test_python_reads_the_replica_of_a_python_2_batch_as_numpy_does(tmp_path: Path) -> None:
    """The hand-written pickle is what Python 2 writes: Python's own reader gets the same images from it."""
    images = cifar_images(1, 4)
    data = python2_batch(images, [0, 1, 2, 9])
    theirs = pickle.loads(data, encoding="bytes")
    assert theirs[b"labels"] == [0, 1, 2, 9]
    assert np.array_equal(theirs[b"data"].reshape(4, 3, 32, 32).transpose(0, 2, 3, 1), images)
    ours = load_plain(data, name="batch")
    assert ours[b"labels"] == theirs[b"labels"]
    assert np.array_equal(ours[b"data"].values(), theirs[b"data"])  # type: ignore[attr-defined]


class _Runs:
    """Pickled, it runs a command when it is loaded."""

    def __init__(self, call: object, *arguments: object) -> None:
        self._how = call, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self._how


def hostile(marker: Path) -> dict[str, bytes]:
    touch = f"touch {marker}"
    return {
        "a command": pickle.dumps({b"data": _Runs(os.system, touch)}, protocol=2),
        "a process": pickle.dumps(_Runs(subprocess.call, ["touch", str(marker)]), protocol=4),
        "evaluated text": pickle.dumps({b"labels": _Runs(eval, f"open({str(marker)!r}, 'w')")}, protocol=2),
        "an old instance": f"(S'{touch}'\nios\nsystem\n.".encode(),
        "an extension": b"\x80\x02\x82\x01.",
        "something outside": b"\x80\x02U\x01aQ.",
        "a new object": b"\x80\x02cnumpy\ndtype\n)\x81.",
        "a getter by a dotted name": b"\x80\x04\x8c\x05numpy\x94\x8c\x0edtype.__init__\x94\x93.",
        "NumPy's own loader": b"\x80\x02cnumpy\nload\nU\x01a\x85R.",
    }


def test_hostile_pickles_are_refused_and_run_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    refused = 0
    for name, data in hostile(marker).items():
        with pytest.raises(DataError, match=r"batch: not a pickle of plain data \(it (names|uses|refers)"):
            load_plain(data, name="batch")
        assert not marker.exists(), name
        refused += 1
    assert refused == 9
    # The marker is real: loaded as Python loads it, the first one runs.
    pickle.loads(hostile(marker)["a command"])
    assert marker.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"not a pickle of plain data"),
        (b"no pickle at all", r"not a pickle of plain data"),
        (b"\x80\x02}(U\x01a", r"not a pickle of plain data"),
        (b"\x80\x02r\xff\xff\xff\x7f.", r"it remembers more than it holds"),
        (b"\x80\x02]q\x00.", r"a pickle of list, not of a mapping"),
        (b"\x80\x02" + b"cnumpy\ndtype\nU\x01OK\x00K\x01\x87R" * 65 + b".", r"it uses REDUCE"),
        (pickle.dumps({b"data": np.zeros(3, dtype=object)}, protocol=2), r"an array that is not uint8 in row order"),
        (pickle.dumps({b"data": np.zeros(3, dtype=np.int64)}, protocol=2), r"an array that is not uint8 in row order"),
        (pickle.dumps({b"data": np.zeros((2, 3), np.uint8, order="F")}, protocol=2), r"an array that is not uint8 in"),
        (
            python2_batch(cifar_images(0, 2), [1, 2]).replace(b"M\x00\x0c\x86", b"M\x01\x0c\x86"),
            r"an array of shape \(2, 3073\)",
        ),
        (python2_batch(cifar_images(0, 2), [1, 2])[:-5000], r"not a pickle of plain data"),
    ],
)
def test_a_damaged_pickle_is_one_sentence(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_plain(data, name="batch")


def test_any_byte_changed_gives_a_mapping_or_a_sentence() -> None:
    whole = python2_batch(cifar_images(0, 1), [4])
    places = [at for at in range(len(whole)) if at < 260 or at > len(whole) - 40]
    rng = np.random.default_rng(0)
    read_anyway = refused = 0
    for at in places:
        for value in rng.integers(0, 256, 4).tolist():
            try:
                assert isinstance(load_plain(whole[:at] + bytes([value]) + whole[at + 1 :], name="batch"), dict)
                read_anyway += 1
            except DataError:
                refused += 1
    assert read_anyway + refused == 4 * len(places)
    assert refused > 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({b"data": b"x", b"labels": [1]}, r"not a batch of CIFAR-10 \(data uint8 \[N, 3072\] and a list of N labels\)"),
        ({b"labels": [1]}, r"not a batch of CIFAR-10"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, r"not a batch of CIFAR-10"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["cat"]}, r"not a batch of CIFAR-10"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [True]}, r"not a batch of CIFAR-10"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, r"a label is 10 or 10; a class is 0 to 9"),
    ],
)
def test_a_pickle_that_is_no_batch_is_named(tmp_path: Path, content: object, message: str) -> None:
    write(tmp_path / "data/data_batch_1", pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=message):
        read(CIFAR, tmp_path, category="cat")


def test_a_missing_cut_or_huge_batch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"no batch data_batch_1 or data_batch_1.bin, here or in cifar-10-batches-py"):
        read(CIFAR, tmp_path, category="cat")
    write(tmp_path / "data/data_batch_1.bin", binary_batch(cifar_images(0, 2), [1, 2])[:-1])
    with pytest.raises(DataError, match=r"6145 bytes are no whole rows of 3073; it is cut off"):
        read(CIFAR, tmp_path, category="cat")
    monkeypatch.setattr(cifar, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match=r"larger than 1000 bytes, so no batch of CIFAR-10"):
        read(CIFAR, tmp_path, category="cat")


def test_the_digits_inside_scikit_learn_are_what_it_loads(tmp_path: Path) -> None:
    loaded = load_digits()
    obj = ObjectParams.model_validate({"name": "digit eight", "folder": "8"})
    items = read(DigitsSource(kind="digits"), tmp_path, category="digit_8", obj=obj)
    mine = np.flatnonzero(loaded.target == 8)
    train, test = train_test_split(mine, test_size=0.25, random_state=42)
    assert len(items) == 1797
    assert {int(one.path[-5:]) for one in items if one.part == "train"} == set(train.tolist())
    assert {int(one.path[-5:]) for one in items if one.part == "test" and not one.defect} == set(test.tolist())
    for one in items:
        at = int(one.path[-5:])
        assert one.defect == (None if loaded.target[at] == 8 else str(loaded.target[at]))
    for one in items[::100]:
        expected = np.rint(loaded.images[int(one.path[-5:])] * 255 / 16)
        assert np.array_equal(pixels(one.read_image()), expected.astype(np.uint8))
    entries = list(examine(items, assign_roles(items, AS_GIVEN, 0)))
    assert len(entries) == 1797


def test_every_digit_has_its_published_count(tmp_path: Path) -> None:
    counted = 0
    for digit in "0123456789":
        items = read(DigitsSource(kind="digits"), tmp_path, category=digit)
        counted += sum(one.defect is None for one in items)
    assert counted == 1797


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no gz", r"cannot be read as digits"),
        (gzip.compress(b"1,2,3", mtime=0), r"line 1 is not 64 values from 0 to 16 and a digit"),
        (gzip.compress(",".join(["17"] * 65).encode(), mtime=0), r"line 1 is not 64 values"),
        (gzip.compress(",".join(["16"] * 65).encode(), mtime=0), r"line 1 is not 64 values"),
        (gzip.compress(b"a,b", mtime=0), r"cannot be read as digits"),
        (gzip.compress(b"", mtime=0), r"no rows; replace the file"),
        (None, r"digits.csv.gz: no such file"),
    ],
)
def test_a_damaged_file_of_digits_is_one_sentence(tmp_path: Path, data: bytes | None, message: str) -> None:
    digits(tmp_path / "data", [3, 1, 3])
    assert len(read(DIGITS, tmp_path, obj=THREE)) == 3
    file = tmp_path / "data/digits.csv.gz"
    if data is None:
        file.unlink()
    else:
        write(file, data)
    with pytest.raises(DataError, match=message):
        read(DIGITS, tmp_path, obj=THREE)
