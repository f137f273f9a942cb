"""Processes, their output, their exit codes and their slots."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anosynth.progress import track
from flows.verbs import TAIL_LINES, Ended, Slots, exit_code, progress_percent, run_process, what_was_said


def python(code: str, root: Path, lines: list[str] | None = None) -> Ended:
    seen = [] if lines is None else lines
    return run_process([sys.executable, "-c", code], root=root, environment={"SLOT": "third"}, on_line=seen.append)


def test_a_process_runs_in_the_project_with_this_interpreter_first_in_path(tmp_path: Path) -> None:
    code = "import os, shutil; print(os.getcwd(), shutil.which('python'), os.environ['SLOT'], sep='\\n')"
    ended = python(code, tmp_path)
    assert ended.code == 0
    assert ended.tail == (str(tmp_path), str(Path(sys.executable).with_name("python")), "third")


def test_both_streams_arrive_line_by_line_while_the_process_runs(tmp_path: Path) -> None:
    lines: list[str] = []
    arrived: list[float] = []

    def on_line(line: str) -> None:
        lines.append(line)
        arrived.append(time.monotonic())

    code = (
        "import sys, time; print('out'); print('err', file=sys.stderr); print(' 50%|#', end='\\r'); print();"
        "time.sleep(0.3); print('end')"
    )
    ended = run_process([sys.executable, "-c", code], root=tmp_path, environment={}, on_line=on_line)
    assert lines == ["out", "err", " 50%|#", "end"]
    assert ended == Ended(0, tuple(lines))
    assert arrived[3] - arrived[2] > 0.2


def test_the_last_lines_are_kept_and_bad_bytes_do_no_harm(tmp_path: Path) -> None:
    ended = python("import os; [print(i) for i in range(100)]; os.write(1, b'\\xff end\\n')", tmp_path)
    assert len(ended.tail) == TAIL_LINES
    assert ended.tail[-1] == "\ufffd end"
    assert ended.tail[0] == str(101 - TAIL_LINES)


def test_a_process_does_not_outlive_an_error_of_its_supervisor(tmp_path: Path) -> None:
    def on_line(line: str) -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    code = "import time; print('x', flush=True); time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        run_process([sys.executable, "-c", code], root=tmp_path, environment={}, on_line=on_line)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        (Ended(0, ("ERROR: failed to reproduce 'index@a': failed to run: x, exited with 2",)), 0),
        (Ended(255, ("index: no", "ERROR: failed to reproduce 'a': failed to run: python x, exited with 75")), 75),
        (Ended(255, ("ERROR: failed to run: python x, exited with 2", "a hint of DVC")), 2),
        (Ended(255, ("ERROR: cannot read dvc.yaml",)), 255),
        (Ended(2, ("index: no",)), 2),
        (Ended(-9, ()), -9),
    ],
)
def test_the_exit_code_is_that_of_the_task_also_behind_dvc(ended: Ended, code: int) -> None:
    assert exit_code(ended) == code


def test_the_message_of_the_task_is_found_among_the_noise() -> None:
    tail = (
        "Running stage 'index@washer':",
        "> python -m tasks.index --category washer",
        "index: reading 3 files",
        "index: params.yaml has 2 errors:",
        "  seed: missing",
        "  image: missing",
        "ERROR: failed to reproduce 'index@washer': failed to run: python -m tasks.index, exited with 2",
    )
    assert what_was_said("index", tail) == "index: params.yaml has 2 errors:\n  seed: missing\n  image: missing"
    assert what_was_said("screen", tail[:3]) == "\n".join(tail[:3])


@pytest.mark.parametrize(
    ("line", "percent"),
    [
        ("generate_normals washer: shard 3 of 12, 0.41 per second, 22 s left", 25.0),
        ("epochs:  50%|#####     | 1/2 [00:01<00:01,  1.0it/s]", 50.0),
        ("index: 3 of 12 records are normal", None),
        ("", None),
    ],
)
def test_progress_is_read_from_lines_and_from_bars(line: str, percent: float | None) -> None:
    assert progress_percent(line) == percent


def test_progress_is_read_from_what_the_library_writes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="anosynth.progress"):
        assert list(track(range(4), total=4, doing="washer", unit="shard")) == [0, 1, 2, 3]
    assert [progress_percent(line) for line in caplog.messages] == [25.0, 50.0, 75.0, 100.0]


def test_slots_bound_how_many_run_and_deal_out_devices() -> None:
    slots = Slots(3, ["0", "1"])
    running, most, devices = 0, 0, []
    lock = threading.Lock()

    def work(_: int) -> None:
        nonlocal running, most
        with slots.take() as device:
            with lock:
                running += 1
                most = max(most, running)
                devices.append(device["CUDA_VISIBLE_DEVICES"])
            time.sleep(0.02)
            with lock:
                running -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))
    assert most == 3
    assert len(devices) == 12
    assert set(devices) == {"0", "1"}


def test_a_slot_is_given_back_after_an_error_and_has_no_device_unless_told() -> None:
    slots = Slots(1)
    with pytest.raises(ValueError, match="x"), slots.take():
        raise ValueError("x")
    with slots.take() as device:
        assert device == {}
