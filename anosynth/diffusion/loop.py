"""The training loop: step after step, resumable to the bit, knowing nothing of what is trained."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from anosynth.errors import TrainingError
from anosynth.progress import track

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The public DreamBooth-LoRA recipe's.
WEIGHT_DECAY = 1e-2
CLIP_NORM = 1.0

logger = logging.getLogger(__name__)


class CheckpointStore(Protocol):
    """Where checkpoints outlive a process; `anosynth.shards.store.ShardStore` is one."""

    def put_blob(self, key: str, data: bytes) -> None:
        """Store bytes under a key, replacing older ones at once."""
        ...

    def get_blob(self, key: str) -> bytes | None:
        """Bytes last stored under a key, or None."""
        ...


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast.

    Attributes:
        steps: optimizer steps at most; `HeldOut` may end them earlier.
        lr: learning rate of AdamW.
        checkpoint_every: steps between checkpoints; it changes no result.
        log_every: steps between logged lines; it changes no result.
        falling: the learning rate falls linearly, to zero after the last step; else it is constant.
    """

    steps: int
    lr: float
    checkpoint_every: int
    log_every: int
    falling: bool = False


@dataclass(frozen=True)
class HeldOut:
    """Ends a training early, by the loss on what it is not trained on.

    Attributes:
        loss: of the parameters as they are, a finite scalar; equal parameters must give equal losses.
        every: steps between looks, at least 1; the first look is after so many.
        patience: looks in a row without a better one before training ends, at least 1.
    """

    loss: Callable[[], Tensor]
    every: int
    patience: int


@dataclass(frozen=True, eq=False)
class TrainResult:
    """What a run leaves beside the trained parameters.

    Attributes:
        losses: float32 [steps taken], of each step before its update; the same for a resumed run.
        resumed_from: first step that this process computed; 0 if it began from nothing.
        best_step: number of steps after which the parameters were as they are now: fewer than were taken, if a held-out
            loss was lowest then.
        held_out_loss: after that step; None if nothing was held out, or training ended before the first look.
    """

    losses: NDArray[np.float32]
    resumed_from: int
    best_step: int
    held_out_loss: float | None = None


class _Best:
    """The parameters of the lowest held-out loss so far."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], held_out: HeldOut) -> None:
        self._parameters, self._held_out = parameters, held_out
        self.step, self.loss, self.misses = 0, float("inf"), 0
        self._values: dict[str, Tensor] = {}

    @property
    def over(self) -> bool:
        """Whether training has ended."""
        return self.misses >= self._held_out.patience

    def look(self, step: int, doing: str) -> None:
        """Measure after a step; TrainingError if the loss is not finite."""
        with torch.no_grad():
            found = float(self._held_out.loss())
        if not math.isfinite(found):
            raise TrainingError(
                f"{doing}: the held-out loss after {step} steps is not finite ({found}); lower lr or set compute.dtype "
                "to float32; the last good checkpoint is kept"
            )
        if found < self.loss:
            self.step, self.loss, self.misses = step, found, 0
            self._values = {name: value.detach().clone() for name, value in self._parameters.items()}
        else:
            self.misses += 1

    def put_back(self) -> None:
        """Give the parameters their best values."""
        with torch.no_grad():
            for name, value in self._values.items():
                self._parameters[name].copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """For the checkpoint."""
        state = {"best": torch.tensor([self.step, self.misses]), "best_loss": torch.tensor(self.loss).double()}
        return state | {f"best/{name}": value.cpu().contiguous() for name, value in self._values.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """From a checkpoint."""
        self.step, self.misses = (int(value) for value in tensors["best"])
        self.loss = float(tensors["best_loss"])
        self._values = {
            name: torch.empty_like(value).copy_(tensors[f"best/{name}"])
            for name, value in self._parameters.items()
            if f"best/{name}" in tensors
        }


def run_steps(
    step_loss: Callable[[int], Tensor],
    parameters: Mapping[str, nn.Parameter],
    settings: LoopSettings,
    *,
    accelerator: Accelerator,
    checkpoints: CheckpointStore,
    key: str,
    doing: str,
    after: Callable[[int], None] | None = None,
    held_out: HeldOut | None = None,
) -> TrainResult:
    """Minimize a loss by AdamW with clipped gradients, in place, from the last checkpoint if there is one.

    The loss of step i must depend on i and the parameters alone (its draws come from generators seeded by i), then a
    run that was stopped anywhere and started again gives the same bits as one that was not. Losses are looked at only
    when something is logged, saved or held against what is held out, so that nothing waits for the device at each step.

    Args:
        step_loss: the scalar loss of step i, i from 0.
        parameters: what is trained, by name, float32; only these are updated and saved.
        settings: steps, learning rate, how often to save and log.
        accelerator: device, number format, gradients.
        checkpoints: where to save.
        key: name of the checkpoint; holds the digest of everything that shapes the result.
        doing: what is trained, for messages and the progress bar.
        after: called with the number of steps taken, after an update and before that is saved: a run that goes on from
            a checkpoint has been through it for every step before.
        held_out: ends training early and has the parameters of the best look put back; None: all steps are taken.

    Returns:
        Losses of the steps taken, and after which of them the parameters were as they are left.

    Raises:
        TrainingError: if a loss, its gradient or a held-out loss is not finite (the last checkpoint is left as it was),
            or if the checkpoint found does not fit the parameters.
    """
    values = list(parameters.values())
    optimizer = accelerator.prepare_optimizer(
        torch.optim.AdamW(values, lr=settings.lr, weight_decay=WEIGHT_DECAY, fused=True)
    )
    losses = torch.zeros(settings.steps, dtype=torch.float32, device=accelerator.device)
    finite = torch.ones(settings.steps, dtype=torch.bool, device=accelerator.device)
    saved = checkpoints.get_blob(key)
    best = None if held_out is None else _Best(parameters, held_out)
    start = 0 if saved is None else _restore(saved, parameters, optimizer, losses, best, doing)
    count = start
    for step in track(range(start, settings.steps), total=settings.steps, doing=doing, unit="step", done=start):
        if best is not None and best.over:
            break
        if settings.falling:
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * (1.0 - step / settings.steps)
        with accelerator.autocast():
            loss = step_loss(step)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(values, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses[step] = loss.detach()
        finite[step] = torch.isfinite(loss.detach()) & torch.isfinite(norm)
        count = step + 1
        if best is not None and held_out is not None and count % held_out.every == 0:
            _check_finite(finite[:count], losses, doing)
            with accelerator.autocast():
                best.look(count, doing)
        over = count == settings.steps or (best is not None and best.over)
        logs, saves = count % settings.log_every == 0, count % settings.checkpoint_every == 0 or over
        if logs or saves:
            _check_finite(finite[:count], losses, doing)
        if logs:
            _log(doing, count, settings.steps, losses[count - settings.log_every : count].mean().item(), float(norm))
        if after is not None:
            after(count)
        if saves:
            checkpoints.put_blob(key, _checkpoint(parameters, optimizer, losses, best, count))
    taken = losses[:count].cpu().numpy()
    if best is None or best.step == 0:
        return TrainResult(taken, start, count)
    best.put_back()
    return TrainResult(taken, start, best.step, best.loss)


def _log(doing: str, step: int, steps: int, loss: float, norm: float) -> None:
    line = {"training": doing, "step": step, "steps": steps, "loss": round(loss, 6), "gradient_norm": round(norm, 6)}
    logger.info("%s", json.dumps(line, sort_keys=True))


def _check_finite(finite: Tensor, losses: Tensor, doing: str) -> None:
    if not bool(finite.all()):
        step = int(torch.nonzero(~finite)[0])
        raise TrainingError(
            f"{doing}: the loss of step {step} or its gradient is not finite (loss {losses[step].item()}); lower lr "
            "or set compute.dtype to float32; the last good checkpoint is kept"
        )


def _checkpoint(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    losses: Tensor,
    best: _Best | None,
    step: int,
) -> bytes:
    tensors = {"step": torch.tensor(step), "losses": losses.cpu()} | ({} if best is None else best.tensors())
    states = optimizer.state_dict()["state"]
    for index, (name, parameter) in enumerate(parameters.items()):
        tensors[f"value/{name}"] = parameter.detach().cpu().contiguous()
        tensors |= {f"state/{index}/{key}": value.cpu().contiguous() for key, value in states[index].items()}
    return tensors_to_bytes(tensors)


def _restore(
    data: bytes,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    losses: Tensor,
    best: _Best | None,
    doing: str,
) -> int:
    """Put a checkpoint into parameters, optimizer and losses; returns the next step."""
    tensors = tensors_from_bytes(data)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("state/"):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = value
    found = {name.removeprefix("value/") for name in tensors if name.startswith("value/")}
    if found != set(parameters) or len(state) != len(parameters) or len(tensors["losses"]) != len(losses):
        raise TrainingError(
            f"{doing}: the stored checkpoint has other parameters than this version trains; run: python -m anosynth "
            "doctor --prune"
        )
    with torch.no_grad():
        for place, (name, parameter) in enumerate(parameters.items()):
            parameter.copy_(tensors[f"value/{name}"])
            # in the parameter's own memory format: the fused optimizer goes through both as they lie
            state[place] = {
                key: torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
                for key, value in state[place].items()
            }
        losses.copy_(tensors["losses"])
        if best is not None:
            best.restore(tensors)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(tensors["step"])
