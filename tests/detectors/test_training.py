from __future__ import annotations

import itertools
import json
import logging
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anosynth.detectors.losses import dice_loss, focal_loss
from anosynth.detectors.training import learning_rate, train
from anosynth.errors import TrainingError


def test_losses_equal_the_naive_loops() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 1, 4, 5)) * 3, (rng.random((2, 1, 4, 5)) < 0.3).astype(float)
    focal, overlap, mass = [], 0.0, 0.0
    for z, t in zip(logits.ravel(), targets.ravel(), strict=True):
        p = 1 / (1 + math.exp(-z))
        p_t = p if t == 1 else 1 - p
        focal.append(-((1 - p_t) ** 2) * math.log(p_t))
        overlap += p * t
        mass += p + t
    tensors = torch.from_numpy(logits), torch.from_numpy(targets)
    assert focal_loss(*tensors).item() == pytest.approx(np.mean(focal))
    assert dice_loss(*tensors).item() == pytest.approx(1 - (2 * overlap + 1) / (mass + 1))


def test_the_rate_rises_over_a_tenth_and_falls_to_zero() -> None:
    rates = [learning_rate(step, steps=100, peak=2.0) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert rates[10] == 2.0
    assert 0.0 < rates[-1] < 0.01
    assert learning_rate(0, steps=1, peak=2.0) == 2.0


class Scale(nn.Module):
    """One weight: logits = w * first channel."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))
        self.seen: list[float] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen.append(self.w.item())
        return self.w * pixels[:, :1]


def _draw(step: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(step)
    return rng.normal(size=(2, 3, 4, 4)).astype(np.float32), np.ones((2, 1, 4, 4), np.float32)


def _train(network: nn.Module, **changes) -> None:
    settings = {
        "draw": _draw,
        "loss": lambda logits, targets: (logits - targets).square().mean(),
        "steps": 20,
        "peak_lr": 0.1,
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "name": "scale",
    }
    train(network, **{**settings, **changes})


def test_the_average_of_the_weights_is_what_stays(caplog: pytest.LogCaptureFixture) -> None:
    network = Scale()
    with caplog.at_level(logging.INFO, logger="anosynth.detectors.training"):
        _train(network)
    probe = Scale()
    _train(probe, steps=20, loss=lambda logits, targets: (logits - targets).square().mean())
    weights = probe.seen[1:]  # after steps 0..18; the last step's weight is seen by nobody
    average = 1.0
    for step, weight in enumerate(weights):
        d = min(0.99, (1 + step) / (10 + step))
        average = d * average + (1 - d) * weight
    d = min(0.99, 20 / 29)
    last = (network.w.item() - d * average) / (1 - d)
    assert abs(last - weights[-1]) < 0.1  # what the last step must have given is one small step away
    assert network.w.item() != pytest.approx(weights[-1], abs=1e-4)
    lines = [json.loads(one.message) for one in caplog.records if one.name == "anosynth.detectors.training"]
    assert [line["step"] for line in lines][:2] == [0, 19]
    assert {"event", "loss", "lr", "name", "step"} == set(lines[0])


def test_a_loss_that_is_not_finite_ends_in_one_sentence() -> None:
    with pytest.raises(TrainingError, match=r"scale: the loss is inf at step 0; lower lr \(now 0\.1\)"):
        _train(Scale(), loss=lambda logits, targets: (logits.square().mean() + 1.0) * math.inf)


def test_bfloat16_trains_and_leaves_float32_weights() -> None:
    network = nn.utils.skip_init(nn.Conv2d, 3, 1, 1)
    with torch.no_grad():
        network.weight.fill_(0.1)
        network.bias.fill_(0.0)
    _train(network, dtype=torch.bfloat16, steps=3)
    assert network.weight.dtype == torch.float32
    assert torch.isfinite(network.weight).all()
