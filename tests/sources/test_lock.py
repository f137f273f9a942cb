from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anosynth.errors import DataError
from anosynth.fingerprint import digest_value
from anosynth.imaging import encode_png
from anosynth.samples import Record, Shot
from anosynth.sources.examine import examine
from anosynth.sources.index import IndexImages, write_index
from anosynth.sources.lock import Sealed, ShotsLock, check_lock, open_shots, read_lock, seal, write_lock
from tests.sources.trees import item, picture, picture_of, spot

MEND = r"run: dvc repro select_shots@bottle"


def project(folder: Path) -> tuple[Path, Path]:
    """An index of two normal and two hole images per role, and the lock of its shots."""
    items, roles = [], {}
    for role in ("train", "val", "test"):
        for at in range(2):
            for defect in (None, "hole"):
                one = item(f"{role}/{defect or 'good'}/{at}.png", defect=defect, group=f"{role} {defect} {at}")
                items.append(one)
                roles[one.path] = role
    index = folder / "data/index/bottle.parquet"
    records = write_index(index, examine(items, roles))  # type: ignore[arg-type]
    lock = folder / "data/shots/bottle/shots.lock.json"
    write_lock(make_lock(records), lock)
    return lock, index


def make_lock(records: tuple[Record, ...]) -> ShotsLock:
    train = [record for record in records if record.role == "train"]
    normal = [record for record in train if record.defect is None]
    holes = [record for record in train if record.defect == "hole"]
    return ShotsLock(
        category="bottle",
        method="random",
        seed=3,
        normal=tuple(Shot(record, rank, "normal") for rank, record in enumerate(normal)),
        anomalous={"hole": tuple(Shot(record, rank, "anomalous") for rank, record in enumerate(holes))},
        sealed=seal(records),
    )


def test_a_lock_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path, index = project(tmp_path)
    records = IndexImages(index).records
    assert read_lock(path) == make_lock(records)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert {name: content[name] for name in ("version", "category", "method", "seed", "k", "m")} == {
        "version": 1, "category": "bottle", "method": "random", "seed": 3, "k": 2, "m": {"hole": 2},
    }  # fmt: skip
    assert list(content) == sorted(content)
    assert [one["role"] for one in content["sealed"]] == ["test"] * 4 + ["val"] * 4
    before = path.read_bytes()
    write_lock(make_lock(records), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_open_shots_reads_the_pixels_in_order_of_choice(tmp_path: Path) -> None:
    shots = open_shots(*project(tmp_path))
    assert [shot.rank for shot in shots.lock.normal] == [0, 1]
    expected = [picture_of(f"train/good/{at}.png") for at in range(2)]
    assert all(np.array_equal(one, two) for one, two in zip(shots.normal_images(), expected, strict=True))
    pairs = shots.anomalous_pairs("hole")
    assert len(pairs) == 2
    assert all(np.array_equal(mask, spot()) for _, mask in pairs)
    with pytest.raises(DataError, match=r"the shots of bottle have no defect 'dent'; there: hole"):
        shots.anomalous_pairs("dent")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"rank": 1', '"rank": 2', "changed after it was written"),
        ('"seed": 3', '"seed": 4', "changed after it was written"),
        ('"version": 1', '"version": 2', "a lock of version 2, this program reads 1"),
        ('"category"', "category", "damaged"),
    ],
)
def test_a_tampered_lock_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path, index = project(tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError, match=f"{message}.*{MEND}"):
        open_shots(path, index)


def test_a_lock_of_other_fields_with_a_fresh_digest_is_refused(tmp_path: Path) -> None:
    path, index = project(tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["digest"], content["sealed"][0]["group"]
    path.write_text(json.dumps({**content, "digest": digest_value(content)}), encoding="utf-8")
    with pytest.raises(DataError, match=rf"not the fields of a lock .*'group'.*{MEND}"):
        open_shots(path, index)


def test_a_missing_lock_says_how_to_make_it(tmp_path: Path) -> None:
    _, index = project(tmp_path)
    with pytest.raises(DataError, match=rf"shots.lock.json: no such file; {MEND}"):
        open_shots(tmp_path / "bottle/shots.lock.json", index)


def test_an_index_that_changed_since_is_refused(tmp_path: Path) -> None:
    path, index = project(tmp_path)
    lock = read_lock(path)
    records = IndexImages(index).records
    changed = tuple(replace(one, sha256="0" * 64) if one.path == "train/good/1.png" else one for one in records)
    with pytest.raises(
        DataError, match=rf"train/good/1.png was chosen as a shot of bottle but has changed since; {MEND}"
    ):
        check_lock(lock, changed)
    with pytest.raises(DataError, match=r"train/hole/0.png was chosen .* but is not in the index any more"):
        check_lock(lock, [one for one in records if one.path != "train/hole/0.png"])
    for other in (
        [one for one in records if one.path != "val/good/0.png"],
        [replace(one, group="else") if one.path == "val/good/0.png" else one for one in records],
        [replace(one, role="test") if one.path == "val/good/0.png" else one for one in records],
    ):
        with pytest.raises(
            DataError, match=rf"val/good/0.png .* differs between the shots' lock and the index; {MEND}"
        ):
            check_lock(lock, other)
    check_lock(lock, records)


@pytest.mark.parametrize(("field", "value"), [("sha256", "f" * 64), ("group", "one part")])
@pytest.mark.parametrize("role", ["val", "test"])
def test_a_shot_that_shares_pixels_or_group_with_a_sealed_image_is_fatal(
    tmp_path: Path, field: str, value: str, role: str
) -> None:
    _, index = project(tmp_path)
    both = {"train/good/1.png", f"{role}/hole/0.png"}
    records = tuple(replace(one, **{field: value}) if one.path in both else one for one in IndexImages(index).records)
    what = "pixels" if field == "sha256" else "group"
    with pytest.raises(DataError) as caught:
        check_lock(make_lock(records), records)
    assert f"train/good/1.png is a shot of bottle and has the same {what} as {role}/hole/0.png ({role})" in str(
        caught.value
    )


def test_a_lock_refuses_gaps_strangers_and_train_under_seal(tmp_path: Path) -> None:
    _, index = project(tmp_path)
    lock = make_lock(IndexImages(index).records)
    with pytest.raises(DataError, match="ranks must run from 0"):
        replace(lock, normal=lock.normal[1:])
    with pytest.raises(DataError, match=r"stands among the shots of bottle, dent"):
        replace(lock, anomalous={"dent": lock.anomalous["hole"]})
    with pytest.raises(DataError, match=r"stands among the shots of can, normal"):
        replace(lock, category="can")
    with pytest.raises(DataError, match="sealed images are val or test"):
        Sealed("a.png", "train", "0", "0", "a")


def test_a_lock_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    path, index = project(tmp_path)
    (tmp_path / "file").write_bytes(encode_png(picture(1)))
    with pytest.raises(DataError, match="cannot be written"):
        write_lock(make_lock(IndexImages(index).records), tmp_path / "file" / "shots.lock.json")
    assert path.exists()
