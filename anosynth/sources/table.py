"""A CSV or Parquet table with anomalib's columns: image_path, label_index or label, mask_path, split."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from anosynth.errors import DataError
from anosynth.params import ObjectParams, TableSource
from anosynth.sources.defects import defect_folders
from anosynth.sources.files import natural_key
from anosynth.sources.items import PARTS, Part, SourceItem

NORMAL_LABELS = frozenset({"normal", "good", "ok", "0"})
ANOMALOUS_LABELS = frozenset({"anomalous", "abnormal", "anomaly", "defective", "bad", "1"})
NULLS = frozenset({"", "nan", "none", "null", "<na>"})


def items(
    spec: TableSource, *, category: str, obj: ObjectParams, defects: tuple[str, ...], root: Path
) -> Iterator[SourceItem]:
    """Yield the images of one category: normals first, then each defect type, in natural order of their paths.

    Columns: image_path; label_index (0 normal, 1 anomalous) or label; mask_path; split (train, val, test; may be
    empty for `split.rule: first_third`); optional category (the category's folder or slug; without it every row
    belongs) and defect. The defect type is the column defect, else a label that is no general word, else the one
    defect asked for. Paths are relative to root, or absolute inside it.

    Raises:
        DataError: if the table cannot be read, lacks a column, or a row contradicts itself.
    """
    file = root / spec.file
    rows = read_rows(file, required=("image_path", "mask_path", "split"))
    if rows and not {"label_index", "label"} & rows[0].keys():
        raise DataError(f"{file}: neither a column label_index nor label; there: {', '.join(rows[0])}")
    names = {category, obj.folder or category}
    mine = [row for row in rows if row.get("category", category) in names]
    if not mine:
        there = ", ".join(sorted({row.get("category", "") for row in rows})) or "no rows"
        raise DataError(
            f"{file}: no row of {category}; in its column category: {there}; "
            f"set objects.{category}.folder in params.yaml"
        )
    mine.sort(key=lambda row: natural_key(row["image_path"]))
    labels = [_label(row, file=file, obj=obj, defects=defects) for row in mine]
    taken = defect_folders(
        sorted({label for label in labels if label is not None}, key=natural_key),
        category=category,
        obj=obj,
        defects=defects,
        where=str(file),
    )
    for defect, wanted in [(None, None), *taken.items()]:
        for row, label in zip(mine, labels, strict=True):
            if label != wanted:
                continue
            path = path_inside(root, row["image_path"], file)
            mask = path_inside(root, row["mask_path"], file) if row["mask_path"] else None
            yield SourceItem(
                path=path,
                category=category,
                defect=defect,
                part=part_of(row["split"], file=file, path=path),
                group=path,
                licence=spec.licence,
                read_image=(root / path).read_bytes,
                read_mask=None if mask is None else (root / mask).read_bytes,
                mask_path=mask,
            )


def _label(row: dict[str, str], *, file: Path, obj: ObjectParams, defects: tuple[str, ...]) -> str | None:
    """The defect of a row under its name in the table; None for a normal row."""
    path, index, label = row["image_path"], row.get("label_index", ""), row.get("label", "").strip()
    says = {
        "label_index": None if index == "" else index not in ("0", "0.0", "False", "false"),
        "label": None if label == "" else label.lower() not in NORMAL_LABELS,
    }
    given = [value for value in says.values() if value is not None]
    if not given or index not in ("", "0", "1", "0.0", "1.0", "True", "False", "true", "false"):
        raise DataError(f"{file}: {path} has label_index {index!r} and label {label!r}; 0 is normal, 1 is anomalous")
    if len(set(given)) == 2:
        raise DataError(f"{file}: {path} has label_index {index!r} but label {label!r}; correct one of them")
    if not given[0]:
        return None
    if row.get("defect"):
        return row["defect"]
    if label and label.lower() not in ANOMALOUS_LABELS:
        return label
    if len(defects) == 1:
        return obj.defect_folders.get(defects[0], defects[0])
    raise DataError(f"{file}: {path} is anomalous but of no named type; fill a column defect")


def read_rows(file: Path, *, required: tuple[str, ...]) -> list[dict[str, str]]:
    """Read a CSV or Parquet file (by its suffix) as rows of text; what stands for "no value" becomes "".

    Raises:
        DataError: if the file is missing, unreadable or lacks a required column.
    """
    try:
        if file.suffix.lower() in (".parquet", ".pq"):
            table = pq.read_table(file)
            columns = list(table.column_names)
            rows = [{key: _text(value) for key, value in row.items()} for row in table.to_pylist()]
        else:
            with open(file, encoding="utf-8-sig", newline="") as opened:
                reader = csv.DictReader(opened, strict=True)
                columns = list(reader.fieldnames or [])
                rows = [{key: value or "" for key, value in row.items() if key is not None} for row in reader]
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; check source in params.yaml") from None
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{file}: not readable as a table ({error}); save it as UTF-8 CSV or as Parquet") from error
    missing = [name for name in required if name not in columns]
    if missing:
        raise DataError(f"{file}: no column {', '.join(missing)}; there: {', '.join(columns) or 'none'}")
    return [{key: _text(value) for key, value in row.items()} for row in rows]


def _text(value: object) -> str:
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in NULLS else text


def part_of(value: str, *, file: Path, path: str) -> Part | None:
    """Return the part that a split column names; None if it is empty.

    Raises:
        DataError: if it is another word than train, val or test.
    """
    if value == "":
        return None
    if value not in PARTS:
        raise DataError(f"{file}: {path} has the split {value!r}; allowed are {', '.join(PARTS)}")
    return value


def path_inside(root: Path, text: str, file: Path) -> str:
    """Return a path of a table relative to root with POSIX separators.

    Raises:
        DataError: if it leads out of root.
    """
    path = Path(text.replace("\\", "/"))
    if path.is_absolute():
        if not path.is_relative_to(root.resolve()) and not path.is_relative_to(root):
            raise DataError(f"{file}: {text} lies outside {root}; paths are relative to source.root")
        path = path.relative_to(root if path.is_relative_to(root) else root.resolve())
    if ".." in path.parts:
        raise DataError(f"{file}: {text} lies outside {root}; paths are relative to source.root")
    return str(PurePosixPath(path))
