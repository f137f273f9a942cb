"""Rules that hold for every file: layers, docstrings, words that must not appear."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("anosynth", "tasks", "flows")

# Assembled, so that this file does not hold what it looks for: hosts of package registries, and folders of one machine.
FORBIDDEN = tuple(
    "".join(parts)
    for parts in (
        ("py", "pi.org"),
        ("files.python", "hosted"),
        ("registry.npm", "js"),
        ("conda.", "anaconda"),
        ("proxy.go", "lang"),
        ("index", "-url"),
        ("/wo", "rk/"),
        ("/ro", "ot/"),
    )
)


def modules(repository: Path) -> list[Path]:
    found = sorted(path for package in PACKAGES for path in (repository / package).rglob("*.py"))
    assert len(found) >= 30
    return found


def test_the_layers_of_the_architecture_hold(repository: Path) -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint_imports, "--no-cache"], cwd=repository, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    kept = re.search(r"Contracts: (\d+) kept, 0 broken", result.stdout)
    assert kept is not None
    assert int(kept[1]) >= 4


def undocumented(node: ast.AST, where: str) -> Iterator[str]:
    """Public modules, classes and functions without a docstring; what is inside a function is private to it."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if ast.get_docstring(node) is None:
            yield where
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
    for child in ast.iter_child_nodes(node):
        name = getattr(child, "name", "_")
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not name.startswith("_"):
            yield from undocumented(child, f"{where}:{name}")


def test_everything_public_says_what_it_is(repository: Path) -> None:
    missing = []
    for path in modules(repository):
        missing += undocumented(ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(repository)))
    assert not missing


def test_the_search_for_docstrings_finds_what_has_none() -> None:
    tree = ast.parse(
        '"""Doc."""\ndef f(): ...\ndef _g(): ...\nclass C:\n    "x"\n    def m(self): ...\n    def __init__(self): ...'
    )
    assert list(undocumented(tree, "m")) == ["m:f", "m:C:m"]


def test_no_public_signature_swallows_arguments_and_no_module_is_called_utils(repository: Path) -> None:
    swallowing, checked = [], 0
    for path in modules(repository):
        assert path.stem not in ("utils", "helpers", "common", "misc"), path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                checked += 1
                if node.args.kwarg is not None:
                    swallowing.append(f"{path.relative_to(repository)}:{node.lineno} {node.name}")
    assert not swallowing
    assert checked >= 100


def tracked(repository: Path) -> Iterator[tuple[str, str]]:
    """Names and texts of the files under version control, or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        data = (repository / name).read_bytes() if (repository / name).is_file() else b"\0"
        if b"\0" not in data[:8192]:
            yield name, data.decode("utf-8")


def test_no_file_names_a_registry_or_a_folder_of_one_machine(repository: Path) -> None:
    found, checked = [], 0
    for name, text in tracked(repository):
        checked += 1
        found += [f"{name}: {word}" for word in FORBIDDEN if word in text]
    assert not found
    assert checked >= 60


def test_tracked_files_are_small_and_no_real_image_is_among_them(repository: Path) -> None:
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    sizes = {name: (repository / name).stat().st_size for name in filter(None, names) if (repository / name).is_file()}
    assert len(sizes) >= 60
    assert {name: size for name, size in sizes.items() if size > 70_000_000} == {}
    pictures = [name for name in sizes if name.endswith((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif"))]
    assert all(name.startswith("docs/") for name in pictures), pictures


def test_every_dependency_has_its_exact_pin(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pins = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {_normalized(line.split("==")[0]) for line in pins if "==" in line}
    assert {name for name in wanted if _normalized(re.split(r"[<>=!\[ ]", name)[0]) not in pinned} == set()
    assert len(wanted) >= 30
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+", line) for line in pins if line and line[0] != "#")


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
