"""State of a training run that can be stopped at any step: weights, their moving average, Adam's moments, the step."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from anosynth.errors import TrainingError
from anosynth.fingerprint import DIGEST_BYTES
from anosynth.pretraining.replicas import Replicas

CLIP_NORM = 1.0

Origin = Mapping[str, object]
"""What a stage is trained with: JSON values by name. A checkpoint of another origin is not continued."""


@dataclass(frozen=True)
class StepSchedule:
    """How many steps at which rate: warm up, hold, fall linearly to 2 % (Hu et al. 2024, MiniCPM).

    Attributes:
        steps: in all; may be raised between runs, which moves the fall.
        decay_steps: the last so many steps, over which the rate falls.
        peak: learning rate between warm-up and fall.
        warmup_steps: over which the rate rises from nothing.
    """

    steps: int
    decay_steps: int
    peak: float
    warmup_steps: int = 100

    def rate(self, step: int) -> float:
        """Learning rate of step number `step`, from 0."""
        rise = min(1.0, (step + 1) / self.warmup_steps)
        fall = min(1.0, max(self.steps - step, 0) / self.decay_steps)
        return self.peak * rise * (0.02 + 0.98 * fall)


@dataclass(frozen=True)
class StepReport:
    """What is known of one step.

    Attributes:
        step: its number, from 1.
        lr: learning rate.
        wall_s: time of the step; on a GPU, until its work was queued.
        measured: by name, one number of every part of the batch; left on the device until `row` asks for them.
    """

    step: int
    lr: float
    wall_s: float
    measured: Mapping[str, tuple[Tensor, ...]]

    def row(self) -> dict[str, float]:
        """The step as a line of the log, means over the parts."""
        means = {name: round(float(torch.stack(parts).mean()), 5) for name, parts in self.measured.items()}
        return {"step": self.step, **means, "lr": self.lr, "wall_s": round(self.wall_s, 3)}


@dataclass
class TrainingState:
    """A network in training.

    Attributes:
        network: being trained; float32 weights.
        optimizer: AdamW over all parameters of `network`.
        ema: moving average of the network's floating-point state, by name.
        step: number of optimizer steps taken.
    """

    network: nn.Module
    optimizer: torch.optim.AdamW
    ema: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0

    def __post_init__(self) -> None:
        if not self.ema:
            self.ema = {name: value.detach().clone() for name, value in self._floats().items()}

    def _floats(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.network.state_dict().items() if value.is_floating_point()}

    def update(self, schedule: StepSchedule, *, ema_decay: float) -> float:
        """Take one optimizer step with the gradients that are there, clipped to norm 1; returns the learning rate."""
        rate = schedule.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.average(ema_decay)
        return rate

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """ema <- decay * ema + (1 - decay) * weights; early steps use min(decay, (1 + step) / (10 + step))."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        floats = self._floats()
        torch._foreach_lerp_(list(self.ema.values()), [floats[name] for name in self.ema], 1.0 - decay)

    def ema_network_state(self) -> dict[str, Tensor]:
        """The network's state with the moving average in place of the weights."""
        return {**self.network.state_dict(), **self.ema}

    def save(self, path: Path, origin: Origin) -> None:
        """Write everything into one safetensors file, temporary name first; `origin` and step go into its metadata."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
        temporary = path.with_suffix(".tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"step": str(self.step), "origin": json.dumps(dict(origin), sort_keys=True)}
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, facts)
        temporary.rename(path)

    def load(self, path: Path, origin: Origin) -> None:
        """Continue from a file that `save` wrote for the same network and of the same origin.

        Raises:
            TrainingError: if the origin differs.
        """
        check_origin(path, origin)
        groups: dict[str, dict[str, Tensor]] = {"network": {}, "ema": {}, "adam": {}}
        with safe_open(path, framework="pt") as file:
            self.step = int(file.metadata()["step"])
            for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                group, key = name.split(".", 1)
                groups[group][key] = file.get_tensor(name)
        self.network.load_state_dict(groups["network"], strict=True)
        for name, value in groups["ema"].items():
            self.ema[name].copy_(value)
        moments: dict[int, dict[str, Tensor]] = {}
        parameters = list(self.network.parameters())
        for name, value in groups["adam"].items():
            index, key = name.split(".", 1)
            # Fused AdamW walks through memory: its moments must be laid out like the parameter, channels last.
            like = parameters[int(index)]
            moments.setdefault(int(index), {})[key] = (
                torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            )
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})


def follow_steps(
    state: TrainingState,
    loss_of: Callable[[nn.Module, int], tuple[Tensor, dict[str, Tensor]]],
    schedule: StepSchedule,
    *,
    threads: int,
    ema_decay: float,
) -> Iterator[StepReport]:
    """Take steps until `schedule.steps`.

    Args:
        state: what is trained.
        loss_of: (network, part number) -> (loss, what is reported by name: detached scalars).
        schedule: steps and rates.
        threads: parts of a batch.
        ema_decay: of the moving average.

    Yields:
        after each step what is known of it.
    """
    replicas = Replicas(state.network, count=threads)
    while state.step < schedule.steps:
        began = time.perf_counter()
        reports = replicas.backward(loss_of)
        lr = state.update(schedule, ema_decay=ema_decay)
        measured = {name: tuple(report[name] for report in reports) for name in reports[0]}
        yield StepReport(state.step, lr, time.perf_counter() - began, measured)


def check_origin(path: Path, origin: Origin) -> None:
    """Refuse a checkpoint that was trained with anything else; only what `origin` names is compared.

    Raises:
        TrainingError: naming the file, what differs, and how to go on or start anew.
    """
    with safe_open(path, framework="pt") as file:
        kept = json.loads(file.metadata().get("origin", "{}"))
    wanted = json.loads(json.dumps(dict(origin)))
    differing = [
        f"{name} was {kept.get(name, 'not recorded')} and is {value}"
        for name, value in wanted.items()
        if kept.get(name) != value
    ]
    if differing:
        raise TrainingError(
            f"{path} was trained with other values ({'; '.join(differing)}): put them back to go on with it, or remove "
            "this file and those of the later stages to train them anew"
        )


def steps_taken(path: Path) -> int:
    """Steps of the training that a checkpoint holds; 0 where there is none."""
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        return int(file.metadata()["step"])


def digest_weights(tensors: Mapping[str, Tensor]) -> str:
    """BLAKE2b-128 of names, types, shapes and bytes, 32 hexadecimal characters."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name};{value.dtype};{tuple(value.shape)};".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def append_log(path: Path, row: Mapping[str, object]) -> None:
    """One JSON object per line; a line is written whole."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def cut_log(path: Path, step: int) -> None:
    """Drop the rows after `step`, which a resumed training writes again, and a last line that a full disk cut short."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] > step:
                break
        except ValueError:
            break
        kept.append(line + "\n")
    path.write_text("".join(kept), encoding="utf-8")
