"""The file that `evaluate` writes and `report` reads: what every fit of one detector earned on one category."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from anosynth.errors import DataError

VERSION = 1

# Metric -> value in [0, 1]; None where it is undefined.
Metrics = Mapping[str, float | None]
# Seed, as text -> metrics.
SeedMetrics = Mapping[str, Metrics]


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
class Result:
    """One detector on one category.

    Attributes:
        category, detector: slugs.
        spec: the detector's entry in params.yaml when it was fitted.
        normals: "shots" or "train": which real normals were allowed.
        aupro_max_fpr: integration limit of AUPRO.
        test_images: "normal" or defect type -> number of real test images.
        test_groups: distinct groups of the test images.
        test_licences: distinct licences of the test images, sorted.
        trained_on: by arm, in the order of params.yaml.
        metrics: arm -> seed -> metrics over all test images.
        by_defect: arm -> seed -> defect type -> metrics over the normal images and that type alone.
        error_bounds: arm -> seed -> greatest error that the histogram can have caused in a pixel metric.
    """

    category: str
    detector: str
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


_ADAPTER = TypeAdapter(Result)


def result_to_json(result: Result) -> dict[str, object]:
    """Return a result as JSON values with its version."""
    return {"version": VERSION, **asdict(result)}


def read_result(path: Path) -> Result:
    """Read a result, for example results/evaluate/washer/unet/metrics.json.

    Raises:
        DataError: if the file is missing, damaged or of another version, with the command that makes it.
    """
    mend = f"run: dvc repro evaluate@{path.parent.name}-{path.parent.parent.name}"
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
