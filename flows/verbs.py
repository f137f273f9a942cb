"""The verbs of the flow, each one process: `repro` a stage, `fill` a part of its shards if it `is_stale`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from uuid import UUID

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.tasks import Task

from anosynth.errors import EXIT_TEMPORARY
from flows.graph import Stage

TAIL_LINES = 30
PROGRESS_EVERY_S = 5.0
_DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")


class StageError(Exception):
    """A stage's process ended with an exit code other than 0.

    Attributes:
        code: the exit code of the task itself, also where DVC stood in between.
    """

    def __init__(self, stage: str, code: int, said: str) -> None:
        super().__init__(f"{stage} ended with exit code {code}: {said}")
        self.code = code


class Slots:
    """How many processes may run at once, and on which device each.

    Args:
        count: processes at once, at least 1.
        devices: names for CUDA_VISIBLE_DEVICES, dealt out in turn; empty: the environment stays as it is.
    """

    def __init__(self, count: int, devices: Sequence[str] = ()) -> None:
        self._free: Queue[dict[str, str]] = Queue()
        for index in range(count):
            self._free.put({"CUDA_VISIBLE_DEVICES": devices[index % len(devices)]} if devices else {})

    @contextmanager
    def take(self) -> Iterator[Mapping[str, str]]:
        """Wait for a free slot and hold it; yields the environment variables of its device."""
        device = self._free.get()
        try:
            yield device
        finally:
            self._free.put(device)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code and its last lines."""

    code: int
    tail: tuple[str, ...]


def run_process(
    command: Sequence[str], *, root: Path, environment: Mapping[str, str], on_line: Callable[[str], None]
) -> Ended:
    """Run a command in the project's folder and hand over its output line by line, progress bars included.

    The folder of this interpreter comes first in PATH: dvc.yaml says `python`, and means the one that runs the flow.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    process = subprocess.Popen(
        command,
        cwd=root,
        env={**os.environ, **environment, "PATH": path, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdout is not None
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        for line in process.stdout:
            if line.strip():
                tail.append(line.rstrip())
                on_line(line.rstrip())
        return Ended(process.wait(), tuple(tail))
    finally:
        process.terminate()
        process.wait()


def _heal(_task: Task[..., object], _run: TaskRun, state: State[object]) -> bool:
    """Retry temporary trouble only: a wrong value is as wrong the third time."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageError) and error.code == EXIT_TEMPORARY


@task(
    task_run_name="repro {stage.name}",
    retries=2,
    retry_delay_seconds=[30, 120],
    retry_condition_fn=_heal,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def repro(stage: Stage, *, root: Path, slots: Slots) -> float:
    """Bring one stage up to date through DVC, which skips, restores or runs it, and records it.

    Returns:
        Seconds, waiting for a slot not counted.

    Raises:
        StageError: with the stage's own exit code.
    """
    command = [*_DVC, "repro", "--single-item", stage.name]
    return _supervise(stage, stage.name, command, root=root, slots=slots)


@task(task_run_name="is stale {stage.name}", cache_policy=NO_CACHE, persist_result=False)
def is_stale(stage: Stage, *, root: Path, slots: Slots) -> bool:
    """Ask DVC whether a stage has anything to do; if not, filling its shards would make what nobody reads."""
    command = [*_DVC, "status", "--quiet", stage.name]
    with slots.take() as device:
        return run_process(command, root=root, environment=device, on_line=get_run_logger().info).code != 0


@task(
    task_run_name="fill {stage.name} {part}",
    retries=2,
    retry_delay_seconds=[30, 120],
    retry_condition_fn=_heal,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def fill(stage: Stage, part: str, *, stale: bool, root: Path, slots: Slots) -> float:
    """Make the shards START:STOP (`part`) of a stage and store them; its outputs wait until `repro` seals them.

    Returns:
        Seconds, waiting for a slot not counted; 0 if the stage is not stale.

    Raises:
        StageError: with the task's exit code.
    """
    if not stale:
        return 0.0
    command = [sys.executable, *stage.command[1:], "--only", part]
    return _supervise(stage, f"{stage.name} {part}", command, root=root, slots=slots)


def _supervise(stage: Stage, title: str, command: Sequence[str], *, root: Path, slots: Slots) -> float:
    logger = get_run_logger()
    with slots.take() as device:
        progress = _Progress(title)
        started = time.monotonic()

        def on_line(line: str) -> None:
            if not progress.see(line):
                logger.info(line)

        ended = run_process(command, root=root, environment=device, on_line=on_line)
    code = exit_code(ended)
    if code != 0:
        raise StageError(title, code, what_was_said(stage.task, ended.tail))
    progress.done()
    return time.monotonic() - started


def progress_percent(line: str) -> float | None:
    """How far a loop is, from a line of anosynth/progress.py or from a tqdm bar; None for any other line."""
    counted = re.search(r" (\d+) of (\d+), [\d.]+ per second, ", line)
    if counted:
        return 100.0 * int(counted[1]) / int(counted[2])
    bar = re.search(r"(\d{1,3})%\|", line)
    return float(bar[1]) if bar else None


class _Progress:
    """One progress artifact, moved by what the process says about its loops."""

    def __init__(self, title: str) -> None:
        key = "progress-" + re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        artifact = create_progress_artifact(0.0, key=key, description=title)
        assert isinstance(artifact, UUID)
        self._artifact = artifact
        self._next_at = time.monotonic() + PROGRESS_EVERY_S

    def see(self, line: str) -> bool:
        """Move the artifact, not more often than every few seconds; say if the line was about progress."""
        percent = progress_percent(line)
        if percent is not None and time.monotonic() >= self._next_at:
            update_progress_artifact(self._artifact, percent)
            self._next_at = time.monotonic() + PROGRESS_EVERY_S
        return percent is not None

    def done(self) -> None:
        update_progress_artifact(self._artifact, 100.0)


def exit_code(ended: Ended) -> int:
    """The exit code of the task itself: DVC ends with 255 whatever its stage ended with, but says it."""
    said = re.search(r"exited with (\d+)$", "\n".join(ended.tail), re.MULTILINE) if ended.code else None
    return int(said[1]) if said else ended.code


def what_was_said(task_name: str, tail: Sequence[str]) -> str:
    """The task's own message among the last lines of its process, or all of them if it left none."""
    starts = [index for index, line in enumerate(tail) if line.startswith(f"{task_name}: ")]
    message = tail[starts[-1] :] if starts else tail
    return "\n".join(line for line in message if not line.startswith("ERROR: failed to reproduce"))
