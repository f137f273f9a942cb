from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from anosynth.detectors.arms import ArmReader, PairPool
from anosynth.detectors.protocol import LabelledImage
from anosynth.errors import ParamsError, ShardError
from anosynth.params import ArmParams
from anosynth.samples import Verdict
from anosynth.shards.manifest import seal
from anosynth.shards.store import ShardStore
from tests.shards.small_pools import make_jobs, make_samples

IMAGE = np.zeros((24, 32, 3), np.uint8)
MASK = np.zeros((24, 32), np.uint8)
MASK[3:6, 4:9] = 255
NORMALS = [LabelledImage(f"n{i}", IMAGE + np.uint8(i), None, synthetic=False) for i in range(3)]
PAIRS = [LabelledImage("p0", IMAGE, MASK, synthetic=False)]
REAL = ArmParams()
BOTH = ArmParams(synthetic_normals=True, methods=["perlin"])


def verdicts(*refused: str) -> dict[str, Verdict]:
    ids = [spec.sample_id for pool in ("pairs", "normals") for job in make_jobs(6, pool=pool) for spec in job.specs()]
    assert len(ids) == 12
    return {name: Verdict(name, "copy_of_shot" if name in refused else "", {}) for name in ids}


@pytest.fixture
def pools(tmp_path: Path) -> Path:
    store = ShardStore(tmp_path / "store")
    for pool in ("pairs", "normals"):
        jobs = make_jobs(6, pool=pool)
        for job in jobs:
            store.put(job, make_samples(job))
        seal(jobs, store, tmp_path / pool)
    return tmp_path


def reader(pools: Path, seen: dict[str, Verdict], pairs: list[LabelledImage] = PAIRS) -> ArmReader:
    return ArmReader(
        category="washer",
        real_normals=NORMALS,
        real_pairs=pairs,
        real_licences=["CC-BY-4.0"],
        normal_pool=pools / "normals",
        round_trip_pool=pools / "normals",
        pair_pools=[PairPool("scratch", "perlin", pools / "pairs")],
        verdicts=seen,
    )


def test_an_arm_gets_its_real_images_and_only_the_samples_that_screening_kept(pools: Path) -> None:
    refused = "pairs/washer/scratch/perlin/000004"
    data = reader(pools, verdicts(refused)).read("both", BOTH)
    assert data.counts == {"real_normals": 3, "synthetic_normals": 6, "real_pairs": 1, "pairs_perlin": 5}
    assert [item.name for item in data.normals[:3]] == ["n0", "n1", "n2"]
    names = [item.name for item in data.pairs]
    assert len(names) == 6
    assert [item.free for item in data.normals] == [False] * 3 + [True] * 6  # these samples name no parent
    assert refused not in names
    assert [item.synthetic for item in data.pairs] == [False] + [True] * 5
    assert set(data.digests) == {"real_normals", "synthetic_normals", "real_pairs", "pairs_perlin/scratch"}
    assert data.licence == "CC-BY-4.0"
    assert reader(pools, verdicts()).read("real", REAL).counts == {"real_normals": 3, "real_pairs": 1}


def test_digests_follow_the_data_and_nothing_else(pools: Path) -> None:
    first = reader(pools, verdicts()).read("a", BOTH).digests
    assert reader(pools, verdicts()).read("b", BOTH).digests == first
    fewer = reader(pools, verdicts("pairs/washer/scratch/perlin/000001")).read("a", BOTH).digests
    moved = MASK.copy()
    moved[0, 0] = 255
    other = reader(pools, verdicts(), [LabelledImage("p0", IMAGE, moved, synthetic=False)]).read("a", BOTH).digests
    assert {key for key in first if fewer[key] != first[key]} == {"pairs_perlin/scratch"}
    assert {key for key in first if other[key] != first[key]} == {"real_pairs"}


def test_a_method_without_a_pool_ends_in_one_sentence(pools: Path) -> None:
    with pytest.raises(ParamsError, match=r"arms\.x: the method 'cutpaste' has no pool .* washer; there: perlin"):
        reader(pools, verdicts()).read("x", ArmParams(methods=["cutpaste"]))
    nothing = ArmParams(real_normals=False, real_pairs=False)
    with pytest.raises(ParamsError, match="no image to train on"):
        reader(pools, verdicts()).read("x", nothing)


def test_a_pool_that_screening_has_not_seen_is_refused(pools: Path) -> None:
    seen = verdicts()
    del seen["normals/washer/-/sample/000003"]
    with pytest.raises(ShardError, match=r"not seen 1 of 6 samples.*dvc repro screen@washer"):
        reader(pools, seen).read("both", BOTH)


def test_a_pool_whose_samples_were_all_refused_is_told(pools: Path, caplog: pytest.LogCaptureFixture) -> None:
    refused = [name for name in verdicts() if name.startswith("pairs/")]
    with caplog.at_level(logging.WARNING):
        data = reader(pools, verdicts(*refused)).read("both", BOTH)
    assert data.counts["pairs_perlin"] == 0
    assert "pairs_perlin is empty" in caplog.text
