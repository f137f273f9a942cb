"""A project whose stages are a few lines each, so that the flow itself is what a test waits for."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness

from tests.toy import make_project

GRAPH = """\
stages:
  index:
    matrix:
      category: ${grid.categories}
    cmd: python tasks/index.py ${item}
    outs:
      - data/index/${item.category}
  generate_pairs:
    foreach: ${grid.pairs}
    do:
      cmd: python tasks/generate_pairs.py ${item}
      deps:
        - data/index/${item.category}
      outs:
        - data/pairs/${item.category}/${item.defect}/${item.method}
  report:
    cmd: python tasks/report.py
    deps:
      - data/pairs
      - orders
    outs:
      - results/report
"""

INDEX = """\
import sys
from pathlib import Path


def run(*, layout, category): ...


print("reading:  50%|#####     | 1/2", file=sys.stderr, end="\\r")
Path("data/index").mkdir(parents=True, exist_ok=True)
Path("data/index", sys.argv[2]).write_text("one record")
print("index: 1 record")
"""

# Ends as `orders` says, with the code of its own line; every start leaves a line in `starts`.
PAIRS = """\
import os
import sys
from pathlib import Path


def run(*, layout, category, defect, method, only=None): ...


method, part = sys.argv[6], sys.argv[8] if "--only" in sys.argv else "all"
with open("starts", "a") as starts:
    print(method, part, os.environ.get("CUDA_VISIBLE_DEVICES", ""), file=starts)
tried = Path("starts").read_text().count(f"{method} {part} ")
for order in Path("orders").read_text().splitlines():
    if order.split()[:3] == [method, part, str(tried)]:
        print("generate_pairs: the store said no;\\ntry something else", file=sys.stderr)
        sys.exit(int(order.split()[3]))
if part == "all":
    folder = Path("data/pairs", sys.argv[2], sys.argv[4], method)
    folder.mkdir(parents=True)
    (folder / "pool").write_text(method)
"""

REPORT = """\
import json
from pathlib import Path


def run(*, layout): ...


Path("results/report").mkdir(parents=True)
found = {"washer": {"unet": {"real": {"pixel_ap": {"mean": 0.5, "sd": None, "low": 0.4, "high": None}}}}}
Path("results/report/report.json").write_text(json.dumps({"detection": found, "verdict": "It helps."}))
"""


@pytest.fixture
def small_project(tmp_path: Path, repository: Path) -> Path:
    """A DVC project of four stages in a repository of its own."""
    root = make_project(tmp_path / "small project")
    (root / "dvc.yaml").write_text(GRAPH, encoding="utf-8")
    (root / "orders").write_text("", encoding="utf-8")
    (root / "tasks").mkdir()
    for name, text in (("index", INDEX), ("generate_pairs", PAIRS), ("report", REPORT)):
        (root / "tasks" / f"{name}.py").write_text(text, encoding="utf-8")
    (root / ".gitignore").write_text("/data\n/results\n/starts\n", encoding="utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    (root / ".dvc").mkdir()
    shutil.copyfile(repository / ".dvc" / "config", root / ".dvc" / "config")
    return root


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A temporary Prefect server with a database of its own."""
    with prefect_test_harness(server_startup_timeout=180):
        yield
