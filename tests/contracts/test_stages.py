"""dvc.yaml, params.yaml, tasks/ and layout.py say the same thing."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from anosynth import params as params_module
from anosynth.layout import Layout
from anosynth.params import Params, Section, load_params
from anosynth.params_reference import reference
from tasks._bind import bind

REPOSITORY = Path(__file__).parent.parent.parent
GATE = "check_params"
NUM_STAGES = 15
OUTSIDE_THE_GRAPH = {"pretrain_backbone", "train_projection"}
NO_STAGE_OUTPUT = {"promotion", "projection", "params", "store_url", "pretrain_recipe", "pretraining"}

# L0: values and types. A change there reaches a result only through a change in the packages that use it, and a new
# section of params would otherwise make every stage stale. Fingerprints do not depend on it either. Progress is shown
# and shapes nothing.
FOUNDATION = {"params", "layout", "seeding", "samples", "fingerprint", "errors", "progress"}


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml as it is written, before anything is resolved."""

    name: str
    keys: tuple[str, ...]
    cmd: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]

    def items(self, params: Params) -> list[dict[str, str]]:
        """What `${item}` is resolved to, one per run of the stage."""
        if self.name in ("personalize_pairs", "generate_pairs"):
            return [pair.model_dump() for pair in params.grid.pairs.values()]
        items: list[dict[str, str]] = [{}]
        for key, values in (("detector", params.grid.detectors), ("category", params.grid.categories)):
            if key in self.keys:
                items = [{**item, key: value} for item in items for value in values]
        return items


def stages() -> dict[str, Stage]:
    found = {}
    for name, written in yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        body = written.get("do", written)
        keys = tuple(written.get("matrix", ()))
        if "foreach" in written:
            assert written["foreach"] == "${grid.pairs}"
            keys = ("category", "defect", "method")
        outs = tuple(next(iter(out)) if isinstance(out, dict) else out for out in body["outs"])
        found[name] = Stage(name, keys, body["cmd"], tuple(body["deps"]), tuple(body.get("params", ())), outs)
    return found


STAGES = stages()
OPENS_THE_WEIGHTS = "anosynth.diffusion.embedded"
EACH = pytest.mark.parametrize("name", STAGES)


def run_of(name: str) -> object:
    return importlib.import_module(f"tasks.{name}").run


def test_every_stage_is_a_task_and_every_task_a_stage() -> None:
    tasks = {path.stem for path in (REPOSITORY / "tasks").glob("*.py") if not path.stem.startswith("_")}
    assert set(STAGES) == tasks - OUTSIDE_THE_GRAPH
    assert len(STAGES) == NUM_STAGES


@EACH
def test_a_command_is_the_module_and_the_quoted_item(name: str) -> None:
    assert STAGES[name].cmd == f"python -m tasks.{name}" + (" ${item}" if STAGES[name].keys else "")


@EACH
def test_every_stage_waits_for_the_gate(name: str) -> None:
    assert ("data/check_params.txt" in STAGES[name].deps) == (name != GATE)


@EACH
def test_a_signature_asks_for_exactly_the_declared_params_and_keys(name: str) -> None:
    stage, binding = STAGES[name], bind(run_of(name))  # type: ignore[arg-type]
    assert len(set(stage.params)) == len(stage.params)
    assert binding.declared() == set(stage.params)
    assert set(binding.keys) == set(stage.keys)


@EACH
def test_a_stage_takes_its_module_and_its_code_as_dependencies(name: str) -> None:
    code = {dep for dep in STAGES[name].deps if dep.startswith(("tasks/", "anosynth/"))}
    modules = closure(f"tasks.{name}")
    wanted = {f"tasks/{name}.py"} | {_as_dependency(module) for module in modules} - {""}
    if OPENS_THE_WEIGHTS in modules:
        wanted.add("anosynth/embedded")
    if name == GATE:
        wanted.add("anosynth/params.py")
    assert code == wanted


def closure(start: str) -> set[str]:
    """First-party modules that importing `start` imports, itself included; imports for type checkers do not count."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        parents = module.split(".")
        waiting += [".".join(parents[:depth]) for depth in range(1, len(parents))]
        path = _file(module)
        assert path is not None, module
        tree = ast.parse(path.read_text(encoding="utf-8"))
        waiting += [found for found in _imports(tree, path.stem == "__init__", module) if _file(found) is not None]
    return seen


def _file(module: str) -> Path | None:
    if module.split(".")[0] not in ("anosynth", "tasks"):
        return None
    base = REPOSITORY / Path(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imports(node: ast.AST, is_package: bool, module: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module} imports relatively"
            assert child.module is not None
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        else:
            yield from _imports(child, is_package, module)


def _as_dependency(module: str) -> str:
    """The path that dvc.yaml lists for a module: its package, or its file; "" for the foundation and the binding."""
    package, *rest = module.split(".")
    if package == "tasks" or not rest or rest[0] in FOUNDATION:
        return ""
    return f"anosynth/{rest[0]}" if (REPOSITORY / "anosynth" / rest[0]).is_dir() else f"anosynth/{rest[0]}.py"


def test_the_import_walk_sees_functions_packages_and_skips_type_checking() -> None:
    source = (
        "from typing import TYPE_CHECKING\nimport anosynth.a\nif TYPE_CHECKING:\n    import anosynth.b\n"
        "def f():\n    from anosynth import c\n    class X:\n        import anosynth.d.e as g\n"
    )
    assert list(_imports(ast.parse(source), False, "x")) == [
        "typing", "typing.TYPE_CHECKING", "anosynth.a", "anosynth", "anosynth.c", "anosynth.d.e",
    ]  # fmt: skip


def test_a_stage_depends_on_no_file_that_is_missing() -> None:
    code = {dep for stage in STAGES.values() for dep in stage.deps if dep.startswith(("tasks/", "anosynth/"))}
    missing = {dep for dep in code if not (REPOSITORY / dep).exists()}
    assert not missing
    assert len(code) >= NUM_STAGES


def test_declared_outputs_are_the_paths_of_the_layout() -> None:
    params, layout = load_params(REPOSITORY / "params.yaml"), Layout(Path())
    methods = {
        name: method
        for name, method in inspect.getmembers(layout, inspect.ismethod)
        if not name.startswith("_") and name not in NO_STAGE_OUTPUT
    }
    made_by: dict[str, list[str]] = {name: [] for name in methods}
    checked = 0
    for stage in STAGES.values():
        for item in stage.items(params):
            for out in stage.outs:
                resolved = Path(re.sub(r"\$\{item\.(\w+)\}", lambda found, item=item: item[found[1]], out))  # type: ignore[misc]
                matching = [
                    name
                    for name, method in methods.items()
                    if set(inspect.signature(method).parameters) == set(item)
                    and resolved in (path := method(**item), *([path.parent] if path.suffix == ".json" else []))
                ]
                assert len(matching) == 1, f"{stage.name}: {resolved} is {matching or 'nothing'} of layout.py"
                made_by[matching[0]].append(stage.name)
                checked += 1
    assert {name: len(set(makers)) for name, makers in made_by.items()} == dict.fromkeys(methods, 1)
    assert checked == sum(len(stage.items(params)) * len(stage.outs) for stage in STAGES.values()) >= 13


def test_every_section_of_params_is_read_by_a_stage() -> None:
    text = (REPOSITORY / "dvc.yaml").read_text(encoding="utf-8")
    read = {param.split(".")[0] for stage in STAGES.values() for param in stage.params}
    outside = bind(run_of("train_projection")).declared()  # type: ignore[arg-type]
    assert outside - read == {"grid.categories", "train_projection"}
    assert read | {"train_projection"} == set(Params.model_fields)
    written = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    assert set(written) == set(Params.model_fields)
    assert len(read) >= 20
    assert "${" in text


def test_git_ignores_every_output() -> None:
    outs = {out.split("/$")[0] for stage in STAGES.values() for out in stage.outs}
    for out in sorted(outs):
        result = subprocess.run(["git", "check-ignore", "--quiet", out], cwd=REPOSITORY, check=False)
        assert result.returncode == 0, out
    assert len(outs) >= 8


def test_the_page_of_parameters_is_written_from_the_models() -> None:
    page = (REPOSITORY / "docs" / "params.md").read_text(encoding="utf-8")
    assert page == reference(), "run: python -m anosynth.params_reference > docs/params.md"
    sections = re.findall(r"^## (\w+)$", page, re.MULTILINE)
    assert sections == list(Params.model_fields)


def test_the_page_of_parameters_says_what_holds_where_a_mapping_or_a_list_is_left_out() -> None:
    rows = reference().splitlines()
    default = params_module.MeasureParams().features.model_dump(mode="json")
    said = ", ".join(f"{key}: {value}" for key, value in default.items())
    assert default["model"] == "lite2"
    (at,) = (at for at, row in enumerate(rows) if row.startswith("| `measure.features` | mapping |"))
    assert f"`{{{said}}}` | the judge's network" in rows[at]
    assert rows[at + 1].startswith("| `measure.features.kind` |")
    (methods,) = (row for row in rows if row.startswith("| `arms.<name>.methods` |"))
    assert "| `[]` |" in methods


def test_the_page_of_parameters_has_a_row_for_every_field_of_every_section() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` \|", (REPOSITORY / "docs" / "params.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    words = {word for row in rows for word in row.split(".")}
    models = [kind for kind in vars(params_module).values() if isinstance(kind, type) and issubclass(kind, Section)]
    fields = {name for model in models for name in model.model_fields if model is not Params}
    assert fields <= words
    assert len(models) >= 25
    assert len(rows) >= 100
