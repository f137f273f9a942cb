"""DVC's graph as a list: which stages there are, what each runs, and what each waits for.

DVC's Python interface (`Repo().index.graph`) is internal and may change with DVC; it is used here and nowhere else.
"""

from __future__ import annotations

import ast
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from anosynth.errors import DataError, ParamsError
from anosynth.params import Params


@dataclass(frozen=True)
class Stage:
    """One stage, resolved.

    Attributes:
        name: DVC's address, for example "generate_pairs@washer-scratch-perlin".
        command: what it runs, cut into words: python, -m, tasks.generate_pairs, --category, washer ...
        upstream: names of the stages whose outputs it reads, directly.
    """

    name: str
    command: tuple[str, ...]
    upstream: tuple[str, ...]

    @property
    def task(self) -> str:
        """Name of its module in tasks/, of its entry in dvc.yaml and of its section of params.yaml."""
        return self.name.partition("@")[0]


def read_stages(root: Path, targets: Sequence[str] = ()) -> tuple[Stage, ...]:
    """Read dvc.yaml, resolved with params.yaml, in an order in which every stage comes after its upstream.

    Args:
        root: the project's folder.
        targets: stages to end with, as for `dvc repro`; "evaluate" names all of its instances. Empty: everything.

    Raises:
        DataError: if root holds no DVC project, or dvc.yaml does not resolve.
        ParamsError: if a target is no stage.
    """
    try:
        with Repo(str(root)) as repo:
            graph = repo.index.graph
            named = {stage.name: stage for stage in graph if stage.path_in_repo == "dvc.yaml"}
            needs = {
                name: sorted(other.name for other in graph.successors(stage) if other in named.values())
                for name, stage in named.items()
            }
            commands = {name: str(stage.cmd) for name, stage in named.items()}
    except DvcException as error:
        raise DataError(f"{root}: DVC cannot read the graph ({error}); try: dvc stage list") from error
    wanted = _with_upstream(_resolve(targets, commands), needs) if targets else set(needs)
    order = TopologicalSorter({name: needs[name] for name in sorted(wanted)}).static_order()
    return tuple(Stage(name, tuple(shlex.split(commands[name])), tuple(needs[name])) for name in order)


def _resolve(targets: Sequence[str], commands: dict[str, str]) -> set[str]:
    found: set[str] = set()
    for target in targets:
        matching = {name for name in commands if target in (name, name.partition("@")[0])}
        if not matching:
            raise ParamsError(f"target {target!r} is no stage of dvc.yaml; there: {', '.join(sorted(commands))}")
        found |= matching
    return found


def _with_upstream(names: set[str], needs: dict[str, list[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += needs[name]
    return seen


def is_sliceable(task: str, root: Path) -> bool:
    """Say whether a task can fill a part of its shards: whether its `run` takes `only`; the file is only read."""
    tree = ast.parse((root / "tasks" / f"{task}.py").read_text(encoding="utf-8"))
    runs = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run"]
    return any(argument.arg == "only" for run in runs for argument in run.args.kwonlyargs)


def parts(stage: Stage, params: Params, *, slices: int) -> tuple[str, ...]:
    """Cut the shards of a sliceable stage into at most `slices` ranges START:STOP of nearly equal length.

    Its section of params.yaml says how many shards there are (`n`, `shard_rows`). One range would only be a second
    start of what `repro` does anyway, so fewer than two shards, or slices, give none.
    """
    section = getattr(params, stage.task)
    num_shards = -(-section.n // section.shard_rows)
    count = min(slices, num_shards)
    if count < 2:
        return ()
    edges = [index * num_shards // count for index in range(count + 1)]
    return tuple(f"{start}:{stop}" for start, stop in pairwise(edges))
