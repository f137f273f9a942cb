"""A model of anomalib as a detector; runs in the environment of constraints/anomalib.txt, where anomalib is."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch

from anosynth.detectors.build import DetectorParts, build_detector, shaping_values, used_by
from anosynth.detectors.personalizer import TwinSource
from anosynth.detectors.protocol import Detector
from anosynth.errors import BackboneError, DataError, ParamsError
from anosynth.params import AnomalibSpec, ArmParams, ComputeParams
from tests.detectors.planted import judge, planted

THERE = find_spec("anomalib") is not None
needs_anomalib = pytest.mark.skipif(not THERE, reason="anomalib has an environment of its own")
COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")
NORMALS = planted("leather", None, "train", 8)
PADIM = {"backbone": "resnet18", "layers": ["layer1", "layer2"], "pre_trained": False, "n_features": 50}


def nothing() -> NoReturn:
    raise AssertionError("it needs neither encoders nor a generator")


PARTS = DetectorParts(nothing, nothing, TwinSource(nothing, nothing, nothing, size_px=64), "leather", opening={})


def spec(model: str = "Padim", **options: object) -> AnomalibSpec:
    return AnomalibSpec.model_validate(
        {"kind": "anomalib", "arms": ["real"], "model": model, "options": options or PADIM, "size_px": 64}
    )


def detector(chosen: AnomalibSpec | None = None, *, seed: int = 0) -> Detector:
    return build_detector(chosen or spec(), parts=PARTS, compute=COMPUTE, draw_seed=seed, name="leather")


@pytest.mark.skipif(THERE, reason="anomalib is here")
def test_without_anomalib_the_message_names_the_environment() -> None:
    with pytest.raises(ParamsError, match=r"this environment has no anomalib; .* constraints/anomalib\.txt"):
        detector()
    with pytest.raises(ParamsError, match="this environment has no anomalib"):
        shaping_values(spec(), parts=PARTS)


def test_a_model_of_anomalib_sees_no_pairs() -> None:
    arm = ArmParams(real_pairs=True, synthetic_normals=True, methods=["perlin"])
    used = used_by(spec(), arm)
    assert (used.real_pairs, used.methods, used.synthetic_normals) == (False, [], True)


@needs_anomalib
def test_padim_finds_planted_defects_and_predicts_the_same_after_loading(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    fitted = detector()
    fitted.fit(NORMALS, [])
    assert torch.equal(before, torch.get_rng_state())
    assert judge(fitted, "leather", "hole", count=6).pixel_auroc > 0.8  # chance is 0.5; the weights are random
    fitted.save(tmp_path)
    loaded = detector(seed=1)
    loaded.load(tmp_path)
    image = np.repeat(NORMALS[0].image, 2, axis=1)
    (first,), (second,) = fitted.predict([("a", image)]), loaded.predict([("a", image)])
    assert first.anomaly_map.shape == image.shape[:2]
    assert first.score == second.score
    assert np.array_equal(first.anomaly_map, second.anomaly_map)
    with pytest.raises(BackboneError, match="the detector was fitted with spec"):
        detector(spec(**{**PADIM, "n_features": 40})).load(tmp_path)


@needs_anomalib
def test_a_trained_model_of_one_seed_gives_equal_predictions_and_another_other_ones() -> None:
    fastflow = AnomalibSpec.model_validate(
        {**spec("Fastflow", backbone="resnet18", pre_trained=False).model_dump(), "epochs": 1, "batch_size": 4}
    )
    scores = []
    for seed in (3, 3, 4):
        one = detector(fastflow, seed=seed)
        one.fit(NORMALS, [])
        scores.append(next(one.predict([("a", NORMALS[0].image)])).score)
    assert scores[0] == scores[1] != scores[2]


@needs_anomalib
def test_what_anomalib_cannot_do_is_said() -> None:
    with pytest.raises(ParamsError, match=r"anomalib\.models has no model 'Nothing'"):
        detector(spec("Nothing"))
    with pytest.raises(ParamsError, match="Padim does not take these options"):
        detector(spec(bogus=1))
    with pytest.raises(DataError, match="was given none"):
        detector().fit([], [])
    with pytest.raises(DataError, match="trains on normal images only"):
        detector().fit(planted("leather", "hole", "train", 1), [])
