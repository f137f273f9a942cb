"""The shots' lock: which real images were chosen, and everything that they must never meet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anosynth.errors import DataError
from anosynth.fingerprint import digest_value
from anosynth.samples import Record, Role, Shot, record_from_json, record_to_json
from anosynth.sources.files import written_whole
from anosynth.sources.index import IndexImages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1


@dataclass(frozen=True)
class Sealed:
    """A val or test image, as far as the lock must know it.

    Attributes:
        path, role, sha256, phash, group: as in the image's `Record`; role is "val" or "test".
    """

    path: str
    role: Role
    sha256: str
    phash: str
    group: str

    def __post_init__(self) -> None:
        if self.role == "train":
            raise DataError(f"{self.path}: sealed images are val or test, not train")


@dataclass(frozen=True)
class ShotsLock:
    """The chosen shots of one category.

    Attributes:
        category: slug.
        method: how they were chosen: first_third, random or k_center.
        seed: of the choice (params.yaml: select_shots.seed).
        normal: normal shots in order of choice; the k-set is a prefix of every larger set.
        anomalous: defect type -> anomalous shots in order of choice.
        sealed: every val and test record of the index.
    """

    category: str
    method: str
    seed: int
    normal: tuple[Shot, ...]
    anomalous: Mapping[str, tuple[Shot, ...]]
    sealed: tuple[Sealed, ...]

    def __post_init__(self) -> None:
        for name, shots in (("normal", self.normal), *self.anomalous.items()):
            if [shot.rank for shot in shots] != list(range(len(shots))):
                raise DataError(f"shots of {self.category}, {name}: the ranks must run from 0 without gaps")
            for shot in shots:
                if (shot.record.defect or "normal") != name or shot.record.category != self.category:
                    raise DataError(f"{shot.record.path} stands among the shots of {self.category}, {name}")

    @property
    def shots(self) -> tuple[Shot, ...]:
        """All shots: normal ones first, then each defect type."""
        return (*self.normal, *(shot for shots in self.anomalous.values() for shot in shots))


def seal(records: Iterable[Record]) -> tuple[Sealed, ...]:
    """Return what the lock keeps of the val and test records, sorted by path."""
    kept = (record for record in records if record.role != "train")
    return tuple(
        Sealed(record.path, record.role, record.sha256, record.phash, record.group)
        for record in sorted(kept, key=lambda record: record.path)
    )


def write_lock(lock: ShotsLock, path: Path) -> None:
    """Write a lock as JSON with sorted keys, a version and a digest of its content; whole or not at all.

    Raises:
        DataError: if the file cannot be written.
    """
    content = _to_json(lock)
    text = json.dumps({**content, "digest": digest_value(content)}, sort_keys=True, indent=1, ensure_ascii=False)
    with written_whole(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_lock(path: Path) -> ShotsLock:
    """Read a lock.

    Raises:
        DataError: if the file is missing, of another version, or not as it was written.
    """
    mend = f"run: {_mend(path.parent.name)}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {mend}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: damaged ({error}); {mend}") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise DataError(f"{path}: a lock of version {version}, this program reads {VERSION}; {mend}")
    digest = content.pop("digest", None)
    if digest != digest_value(content):
        raise DataError(f"{path}: changed after it was written (its digest differs); {mend}")
    try:
        shots = content["shots"]
        return ShotsLock(
            category=content["category"],
            method=content["method"],
            seed=content["seed"],
            normal=_shots(shots["normal"], "normal"),
            anomalous={defect: _shots(chosen, "anomalous") for defect, chosen in shots["anomalous"].items()},
            sealed=tuple(Sealed(**value) for value in content["sealed"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not the fields of a lock ({error}); {mend}") from error


def check_lock(lock: ShotsLock, records: Sequence[Record]) -> None:
    """Check that the shots are those of the index, that they leak into nothing sealed, and that the seal is whole.

    Cheap: compares hashes and groups, decodes nothing. Near-copies are looked for once, when the shots are chosen
    (`selection.leaks`).

    Args:
        lock: of one category.
        records: the index of the same category.

    Raises:
        DataError: naming both files of a leak, or the file in which lock and index disagree.
    """
    mend = f"run: {_mend(lock.category)}"
    by_path = {record.path: record for record in records}
    by_hash: dict[str, Sealed] = {}
    by_group: dict[str, Sealed] = {}
    for sealed in (*lock.sealed, *seal(records)):
        by_hash.setdefault(sealed.sha256, sealed)
        by_group.setdefault(sealed.group, sealed)
    for shot in lock.shots:
        record = shot.record
        for what, met in (("pixels", by_hash.get(record.sha256)), ("group", by_group.get(record.group))):
            if met is not None:
                raise DataError(
                    f"{record.path} is a shot of {lock.category} and has the same {what} as {met.path} ({met.role}): "
                    f"a leak; remove one of them or correct the groups, then {mend}"
                )
        if by_path.get(record.path) != record:
            found = "has changed since" if record.path in by_path else "is not in the index any more"
            raise DataError(f"{record.path} was chosen as a shot of {lock.category} but {found}; {mend}")
    if lock.sealed != seal(records):
        was, now = {one.path: one for one in lock.sealed}, {one.path: one for one in seal(records)}
        path = min(path for path in was.keys() | now.keys() if was.get(path) != now.get(path))
        raise DataError(
            f"{path} (val or test of {lock.category}) differs between the shots' lock and the index; {mend}"
        )


@dataclass(frozen=True)
class OpenShots:
    """A checked lock with the images it speaks of.

    Attributes:
        lock: the lock.
        images: the index, shots and all other records.
    """

    lock: ShotsLock
    images: IndexImages

    def normal_images(self) -> list[NDArray[np.uint8]]:
        """Pixels of the normal shots in order of choice, uint8 [H, W, 3] each."""
        return [self.images.image(shot.record) for shot in self.lock.normal]

    def anomalous_pairs(self, defect: str) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        """Pixels and masks of the anomalous shots of one defect type: uint8 [H, W, 3] and [H, W] in {0, 255}.

        Raises:
            DataError: if no shots of this defect type were chosen.
        """
        if defect not in self.lock.anomalous:
            raise DataError(
                f"the shots of {self.lock.category} have no defect {defect!r}; there: "
                f"{', '.join(sorted(self.lock.anomalous)) or 'none'}; run: {_mend(self.lock.category)}"
            )
        records = [shot.record for shot in self.lock.anomalous[defect]]
        return [(self.images.image(record), self.images.mask(record)) for record in records]


def open_shots(lock_path: Path, index_path: Path) -> OpenShots:
    """Open a lock and its index, and check one against the other (`check_lock`).

    Raises:
        DataError: if one of them is missing or damaged, or they disagree, or a shot leaks.
    """
    lock = read_lock(lock_path)
    images = IndexImages(index_path)
    check_lock(lock, images.records)
    return OpenShots(lock, images)


def _mend(category: str) -> str:
    return f"dvc repro select_shots@{category}"


def _to_json(lock: ShotsLock) -> dict[str, object]:
    def shots(chosen: tuple[Shot, ...]) -> list[dict[str, object]]:
        return [{"rank": shot.rank, "record": record_to_json(shot.record)} for shot in chosen]

    return {
        "version": VERSION,
        "category": lock.category,
        "method": lock.method,
        "seed": lock.seed,
        "k": len(lock.normal),
        "m": {defect: len(chosen) for defect, chosen in lock.anomalous.items()},
        "shots": {
            "normal": shots(lock.normal),
            "anomalous": {defect: shots(chosen) for defect, chosen in lock.anomalous.items()},
        },
        "sealed": [asdict(sealed) for sealed in lock.sealed],
    }


def _shots(values: Sequence[Mapping[str, Any]], kind: Literal["normal", "anomalous"]) -> tuple[Shot, ...]:
    return tuple(Shot(record_from_json(value["record"]), value["rank"], kind) for value in values)
