"""The training loop of a localizer: batches in, averaged weights out; it owns no data and picks no model."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anosynth.errors import TrainingError
from anosynth.progress import track

LOG_EVERY = 50
WARM_UP_RATIO = 0.1
WEIGHT_DECAY = 1e-4
MAX_GRADIENT_NORM = 1.0
EMA_DECAY = 0.99

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]

_log = logging.getLogger(__name__)


def learning_rate(step: int, *, steps: int, peak: float) -> float:
    """Linear warm-up over the first tenth of the steps, then half a cosine down to zero after the last.

    Args:
        step: in [0, steps).
        steps: length of the training.
        peak: the highest rate.
    """
    warm_up = max(1, round(WARM_UP_RATIO * steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def train(
    network: nn.Module,
    *,
    draw: Callable[[int], Batch],
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    peak_lr: float,
    dtype: torch.dtype,
    device: torch.device,
    name: str,
) -> None:
    """Train in place with AdamW and leave the exponential moving average of the weights in the network.

    A fixed schedule and the last average: nothing is selected, so no validation data are needed.
    average <- d average + (1 - d) weights with d = min(0.99, (1 + step) / (10 + step)): short runs forget their start.

    Args:
        network: float32 on `device`, maps [B, 3, H, W] to logits [B, 1, H, W].
        draw: step -> pixels [B, 3, H, W] and targets [B, 1, H, W]; must depend on the step alone.
        loss: (logits, targets) -> scalar.
        steps: number of optimizer steps, at least 1.
        peak_lr: see `learning_rate`.
        dtype: of the forward pass; bfloat16 runs it under autocast, weights stay float32.
        device: where the network is.
        name: for the progress bar and the log.

    Raises:
        TrainingError: if the loss is no longer finite.
    """
    parameters = list(network.parameters())
    average = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=peak_lr, weight_decay=WEIGHT_DECAY, fused=True)
    network.train()
    for step in track(range(steps), total=steps, doing=name, unit="step"):
        rate = learning_rate(step, steps=steps, peak=peak_lr)
        for group in optimizer.param_groups:
            group["lr"] = rate
        pixels, targets = (torch.from_numpy(array).to(device) for array in draw(step))
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
            logits = network(pixels)
        current = loss(logits.float(), targets)
        optimizer.zero_grad(set_to_none=True)
        current.backward()
        norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        value = current.item()
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            raise TrainingError(f"{name}: the loss is {value} at step {step}; lower lr (now {peak_lr}) in params.yaml")
        optimizer.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        for mean, parameter in zip(average, parameters, strict=True):
            mean.lerp_(parameter.detach(), 1.0 - decay)
        if step % LOG_EVERY == 0 or step == steps - 1:
            line = {"event": "train", "name": name, "step": step, "loss": round(value, 5), "lr": round(rate, 8)}
            _log.info(json.dumps(line, sort_keys=True))
    with torch.no_grad():
        for parameter, mean in zip(parameters, average, strict=True):
            parameter.copy_(mean)
    network.eval()
