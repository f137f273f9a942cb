"""The types that flow between stages refuse what must not flow."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anosynth.errors import DataError
from anosynth.samples import (
    Prediction,
    Provenance,
    Record,
    Sample,
    SampleSpec,
    ShardJob,
    Shot,
    Verdict,
    check_mask,
    record_from_json,
    record_to_json,
)
from anosynth.seeding import seed_for

NORMAL = Record(
    path="washer/train/good/000.png",
    category="washer",
    defect=None,
    mask_path=None,
    role="train",
    group="washer/train/good/000.png",
    licence="CC0-1.0",
    sha256="ab" * 32,
    phash="0123456789abcdef",
    height=4,
    width=5,
)
DEFECTIVE = replace(NORMAL, path="a.png", defect="scratch", mask_path="m.png")
PAIR = SampleSpec(pool="pairs", category="washer", defect="scratch", method="perlin", index=7, seed=3)
FREE = SampleSpec(pool="normals", category="washer", defect=None, method="sample", index=7, seed=3)
SOURCES = Provenance(shot_ids=("ab" * 32,), licence="CC0-1.0")
JOB = ShardJob(
    pool="pairs",
    category="washer",
    defect="scratch",
    method="perlin",
    shard=1,
    start=5,
    stop=10,
    batch_size=2,
    seed=11,
    stage="generate_pairs",
    fingerprint="f",
    plan="p",
    shape={},
)


def picture() -> np.ndarray:
    return np.full((4, 5, 3), 9, np.uint8)


def spot() -> np.ndarray:
    mask = np.zeros((4, 5), np.uint8)
    mask[1, 2] = 255
    return mask


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_path": "m.png"}, "a normal image has the mask m.png"),
        ({"role": "holdout"}, "role is 'holdout'; allowed are train, val, test"),
        ({"licence": ""}, "no licence; set source.licence in params.yaml"),
        ({"height": 0}, "size is 5 x 0 px"),
    ],
)
def test_a_record_names_its_file_and_what_is_wrong(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        replace(NORMAL, **change)  # type: ignore[arg-type]
    assert str(caught.value).startswith("washer/train/good/000.png: ")


def test_a_record_survives_json() -> None:
    for record in (NORMAL, DEFECTIVE):
        assert record_from_json(record_to_json(record)) == record


@pytest.mark.parametrize("change", [{"colour": "red"}, {"height": None}])
def test_a_record_with_other_fields_is_a_data_error(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match="a record has wrong fields"):
        record_from_json({**record_to_json(NORMAL), **change})
    shorter = record_to_json(NORMAL)
    del shorter["licence"]
    with pytest.raises(DataError, match="licence"):
        record_from_json(shorter)


@pytest.mark.parametrize("role", ["val", "test"])
def test_only_a_training_image_can_be_a_shot(role: str) -> None:
    assert Shot(NORMAL, 0, "normal").rank == 0
    with pytest.raises(DataError, match=f"has role '{role}' and cannot be a shot"):
        Shot(replace(NORMAL, role=role), 0, "normal")  # type: ignore[arg-type]


def test_the_kind_of_a_shot_follows_from_its_defect() -> None:
    with pytest.raises(DataError, match="contradicts defect 'scratch'"):
        Shot(DEFECTIVE, 0, "normal")
    with pytest.raises(DataError, match="contradicts defect None"):
        Shot(NORMAL, 0, "anomalous")


def test_a_sample_is_called_by_pool_category_defect_method_and_index() -> None:
    assert PAIR.sample_id == "pairs/washer/scratch/perlin/000007"
    assert FREE.sample_id == "normals/washer/-/sample/000007"


def test_a_sample_is_frozen_with_its_pixels() -> None:
    sample = Sample(PAIR, picture(), spot(), SOURCES, part=picture())
    assert sample.mask_area == 1 / 20
    assert sample.mask is not None
    assert sample.part is not None
    for array in (sample.image, sample.mask, sample.part):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
    with pytest.raises(FrozenInstanceError):
        sample.attempt = 2  # type: ignore[misc]
    assert Sample(FREE, picture(), None, SOURCES).mask_area == 0.0


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (PAIR, {"image": picture().astype(np.float32)}, "image must be uint8"),
        (PAIR, {"image": picture()[:, :, :1]}, "image must be uint8"),
        (PAIR, {"mask": None}, "a mask belongs to pairs and to pairs only"),
        (FREE, {}, "a mask belongs to pairs and to pairs only"),
        (PAIR, {"mask": np.zeros((4, 5), np.uint8)}, "mask is empty"),
        (PAIR, {"mask": np.full((4, 5), 255, np.uint8)}, "mask covers the whole image"),
        (PAIR, {"mask": spot() // 255}, r"mask values must be 0 or 255, got \[0, 1\]"),
        (PAIR, {"mask": spot()[:3]}, r"mask must be uint8 \[4, 5\], got uint8 \[3, 5\]"),
        (PAIR, {"mask": spot() > 0}, "got bool"),
        (PAIR, {"part": picture()[:2]}, "part must be uint8"),
        (PAIR, {"mask_confidence": 1.5}, r"it must lie in \[0, 1\]"),
        (PAIR, {"mask_confidence": float("nan")}, r"it must lie in \[0, 1\]"),
    ],
)
def test_a_sample_that_would_poison_a_training_set_cannot_be_made(
    spec: SampleSpec, change: dict[str, object], message: str
) -> None:
    fields = {"image": picture(), "mask": spot(), **change}
    with pytest.raises(ValueError, match=message):
        Sample(spec=spec, provenance=SOURCES, **fields)  # type: ignore[arg-type]


def test_a_mask_of_right_size_and_values_passes() -> None:
    check_mask(spot(), (4, 5), "mask")


def test_the_samples_of_a_job_depend_on_their_own_index_alone() -> None:
    alone = {spec.index: spec for index in range(5, 10) for spec in replace(JOB, start=index, stop=index + 1).specs()}
    assert len(alone) == 5
    assert JOB.specs() == tuple(alone.values())
    assert alone[8].seed == seed_for(11, "generate_pairs", "washer", "scratch", "perlin", 8)
    free = replace(JOB, pool="normals", defect=None, method="sample", stage="generate_normals").specs()[0]
    assert free.seed == seed_for(11, "generate_normals", "washer", "-", "sample", 5)
    assert free.defect is None


@given(start=st.integers(0, 50), rows=st.integers(1, 40), batch=st.integers(1, 45))
def test_batches_cut_a_job_in_order_without_loss(start: int, rows: int, batch: int) -> None:
    job = replace(JOB, start=start, stop=start + rows, batch_size=batch)
    batches = job.batches()
    assert tuple(spec for one in batches for spec in one) == job.specs()
    assert all(len(one) == batch for one in batches[:-1])
    assert 1 <= len(batches[-1]) <= batch


@pytest.mark.parametrize("change", [{"start": 10}, {"start": -1}, {"stop": 5}, {"batch_size": 0}])
def test_a_job_without_samples_or_batches_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="shard 1: "):
        replace(JOB, **change)  # type: ignore[arg-type]


def test_a_verdict_keeps_what_no_gate_refused() -> None:
    assert Verdict("pairs/washer/scratch/perlin/000007", "", {}).keep
    assert not Verdict("pairs/washer/scratch/perlin/000007", "tiny_mask", {"mask_area": 0.0}).keep


def test_a_prediction_is_finite_and_read_only() -> None:
    prediction = Prediction("x", 0.5, np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="read-only"):
        prediction.anomaly_map[0, 0] = 1.0
    for score, value in ((float("nan"), 0.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match="must be finite"):
            Prediction("x", score, np.full((2, 2), value, np.float32))
    with pytest.raises(ValueError, match="must be float32"):
        Prediction("x", 0.5, np.zeros((2, 2)))  # type: ignore[arg-type]
