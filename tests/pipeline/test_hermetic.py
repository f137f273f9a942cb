"""A stage needs what it declares and makes what it declares, and nothing else."""

from __future__ import annotations

import importlib
import random
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from dvc.repo import Repo

from anosynth.fingerprint import digest_file
from anosynth.layout import STORE_FOLDER, Layout
from anosynth.params import load_params
from tasks._bind import bind, fill
from tests.conftest import drawn_since, global_generators
from tests.pipeline.conftest import run

NUM_STAGES = 19
CODE = ("tasks", "anosynth")
AS_PROCESS = {"check_params", "select_shots"}

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Resolved:
    name: str
    command: tuple[str, ...]
    data: tuple[str, ...]
    outs: tuple[str, ...]


def resolved_stages(root: Path) -> list[Resolved]:
    """DVC's own view: every instance of every stage, without the dependencies that are code."""
    with Repo(str(root)) as repo:
        return [
            Resolved(
                stage.name,
                tuple(shlex.split(stage.cmd)),
                tuple(sorted({str(dep) for dep in stage.deps if str(dep).split("/")[0] not in CODE} - {"params.yaml"})),
                tuple(sorted({str(out) for out in stage.outs})),
            )
            for stage in repo.index.stages
        ]


@contextmanager
def other_global_states(seed: int) -> Iterator[None]:
    """Put the global generators where no fresh process has them; fail if what runs inside draws from one."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    before = global_generators()
    yield
    assert drawn_since(before) == []
    random.setstate(kept[0])
    np.random.set_state(kept[1])  # noqa: NPY002
    torch.set_rng_state(kept[2])


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): digest_file(path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] != STORE_FOLDER
    }


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def test_every_stage_runs_from_its_declared_inputs_alone_and_makes_its_declared_outputs(
    reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANOSYNTH_STORE", raising=False)
    checked = as_process = 0
    monkeypatch.chdir(reproduced)
    stages = resolved_stages(reproduced)
    for stage in stages:
        alone = tmp_path / stage.name
        alone.mkdir()
        for needed in ("params.yaml", *stage.data):
            copy(reproduced / needed, alone / needed)
        before = contents(alone)
        monkeypatch.chdir(alone)
        task = stage.name.partition("@")[0]
        if task in AS_PROCESS:
            ran = run(stage.command[1:], alone)
            assert ran.code == 0, ran.said
            as_process += 1
        else:
            keys = dict(zip([word[2:] for word in stage.command[3::2]], stage.command[4::2], strict=True))
            stage_run = importlib.import_module(stage.command[2]).run
            layout = Layout(Path())
            with other_global_states(checked):
                stage_run(layout=layout, **fill(bind(stage_run), load_params(layout.params()), keys))
        after = contents(alone)
        made = {name: digest for name, digest in after.items() if before.get(name) != digest}
        assert before.keys() <= after.keys(), stage.name
        assert made.keys().isdisjoint(before), stage.name
        declared: dict[str, str] = {}
        for out in stage.outs:
            inside = {name: digest for name, digest in made.items() if Path(name).is_relative_to(out)}
            assert inside, f"{stage.name} did not make {out}"
            declared |= inside
        assert made == declared, f"{stage.name} made what it does not declare"
        wanted = {name: digest for name, digest in contents(reproduced).items() if name in declared}
        assert made == wanted, f"{stage.name} made other bytes than dvc repro"
        checked += 1
    assert checked == len(stages) == NUM_STAGES
    assert as_process == len(AS_PROCESS)
