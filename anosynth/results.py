"""The files that `evaluate` writes and others read: what every fit of one detector earned on one category."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from anosynth.errors import DataError

VERSION = 2
RESULT_FILE = "metrics.json"
LEFT_OUT_FILE = "left_out.parquet"
# Beside the results on the test images, in the same form: those on the validation images, where there are some.
VALIDATION_FOLDER = "val"

# Metric -> value in [0, 1]; None where it is undefined.
Metrics = Mapping[str, float | None]
# Seed, as text -> metrics.
SeedMetrics = Mapping[str, Metrics]
# What was left out: nothing, each group in turn, or each image in turn.
Unit = Literal["nothing", "group", "image"]


@dataclass(frozen=True)
class TrainedOn:
    """What one arm was trained on.

    Attributes:
        counts: training images by where they come from.
        digests: identity of each part; equal digests mean equal training data.
        licence: the most restrictive licence of all of it.
    """

    counts: Mapping[str, int]
    digests: Mapping[str, str]
    licence: str


@dataclass(frozen=True)
class AtThreshold:
    """What a threshold chosen on validation images earns on the measured images.

    Attributes:
        threshold: in the detector's own units; what reaches it is flagged.
        f1, precision, recall: in [0, 1]; None where undefined.
    """

    threshold: float
    f1: float | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Result:
    """One detector on one category.

    Attributes:
        category, detector: slugs.
        role: of the images measured: "test", or "val" for choosing and for the gate.
        spec: the detector's entry in params.yaml when it was fitted.
        normals: "shots" or "train": which real normals were allowed.
        aupro_max_fpr: integration limit of AUPRO.
        test_images: "normal" or defect type -> number of real images measured.
        test_groups: distinct groups of these images.
        test_licences: distinct licences of these images, sorted.
        trained_on: by arm, in the order of params.yaml.
        metrics: arm -> seed -> metrics over all these images.
        by_defect: arm -> seed -> defect type -> metrics over the normal images and that type alone.
        error_bounds: arm -> seed -> greatest error that the histogram can have caused in a pixel metric.
        at_thresholds: arm -> seed -> "image" or "pixel" -> what the threshold with the greatest F1 on the validation
            images earns here; empty where no validation image could choose one.
    """

    category: str
    detector: str
    role: Literal["test", "val"]
    spec: Mapping[str, object]
    normals: str
    aupro_max_fpr: float
    test_images: Mapping[str, int]
    test_groups: int
    test_licences: Sequence[str]
    trained_on: Mapping[str, TrainedOn]
    metrics: Mapping[str, SeedMetrics]
    by_defect: Mapping[str, Mapping[str, Mapping[str, Metrics]]]
    error_bounds: Mapping[str, SeedMetrics]
    at_thresholds: Mapping[str, Mapping[str, Mapping[str, AtThreshold]]]


@dataclass(frozen=True)
class LeftOutRow:
    """The metrics of one fit without one group or image.

    Attributes:
        arm, seed: of the fit.
        unit: what was left out.
        name: of the group or image; "" if nothing was.
        metrics: of the rest; NaN where undefined.
    """

    arm: str
    seed: str
    unit: Unit
    name: str
    metrics: Mapping[str, float]


class LeftOutTable:
    """Leave-one-out values of every fit of one detector on one category, for intervals."""

    def __init__(self, rows: Iterable[LeftOutRow]) -> None:
        """Take the rows of all fits, each fit with the same names."""
        self._rows: dict[tuple[str, str, Unit], list[LeftOutRow]] = {}
        for row in sorted(rows, key=lambda row: row.name):
            self._rows.setdefault((row.arm, row.seed, row.unit), []).append(row)

    def rows(self) -> list[LeftOutRow]:
        """All rows, by fit, unit and name."""
        return [row for rows in self._rows.values() for row in rows]

    def values(self, arm: str, seeds: Sequence[str], *, unit: Unit, metric: str) -> NDArray[np.float64]:
        """Return one metric, float64 [S, G]: a row per seed, a column per group or image (one if nothing is left out).

        Where every group is a single image, both units are one and are stored as groups.
        """
        if unit == "image" and not any(key[2] == "image" for key in self._rows):
            unit = "group"
        return np.array([[row.metrics[metric] for row in self._rows[arm, seed, unit]] for seed in seeds], np.float64)


def write_left_out(path: Path, rows: Sequence[LeftOutRow]) -> None:
    """Write leave-one-out values as a Parquet table; NaN becomes null."""
    metrics = list(rows[0].metrics) if rows else []
    columns: dict[str, object] = {
        name: [getattr(row, name) for row in rows] for name in ("arm", "seed", "unit", "name")
    }
    columns |= {metric: pa.array([row.metrics[metric] for row in rows], from_pandas=True) for metric in metrics}
    pq.write_table(pa.table(columns), path, compression="zstd")


def read_left_out(path: Path) -> LeftOutTable:
    """Read what `write_left_out` wrote.

    Raises:
        DataError: if the file is missing or damaged, with the command that makes it.
    """
    try:
        table = pq.read_table(path).to_pylist()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {_mend(path)}") from None
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: damaged ({error}); {_mend(path)}") from error
    keys = ("arm", "seed", "unit", "name")
    return LeftOutTable(
        LeftOutRow(
            **{key: row[key] for key in keys},
            metrics={name: np.nan if value is None else value for name, value in row.items() if name not in keys},
        )
        for row in table
    )


_ADAPTER = TypeAdapter(Result)


def result_to_json(result: Result) -> dict[str, object]:
    """Return a result as JSON values with its version."""
    return {"version": VERSION, **asdict(result)}


def read_result(path: Path) -> Result:
    """Read a result, for example results/evaluate/washer/unet/metrics.json.

    Raises:
        DataError: if the file is missing, damaged or of another version, with the command that makes it.
    """
    mend = _mend(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        version = value.pop("version")
        if version != VERSION:
            raise DataError(f"{path}: of version {version}, this program reads {VERSION}; {mend}")
        return _ADAPTER.validate_python(value)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {mend}") from None
    except ValidationError as error:
        raise DataError(f"{path}: damaged ({error.error_count()} wrong fields); {mend}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({error}); {mend}") from error


def _mend(path: Path) -> str:
    folder = path.parent.parent if path.parent.name == VALIDATION_FOLDER else path.parent
    return f"run: dvc repro evaluate@{folder.name}-{folder.parent.name}"
