"""Refuse a params.yaml that is wrong anywhere, before any other stage runs: the gate that every stage is behind.

`dvc repro` deletes a stage's outputs and hands its command to a shell; both are built from names in params.yaml. So
every other stage is downstream of this one, whose own command and paths hold no name. The command line (tasks/_bind.py)
has validated the whole file before `run` starts. What is written never changes: an allowed edit of params.yaml makes
only those stages stale that read the edited values.
"""

from __future__ import annotations

from anosynth.errors import DataError
from anosynth.layout import Layout
from anosynth.params import PACKAGED, ProceduralSource, SourceSpec
from tasks._bind import main

CONTENT = "params.yaml holds allowed values only.\n"


def run(*, layout: Layout, source: SourceSpec) -> None:
    """Write down that params.yaml was found right, and that the folder of the data is there.

    DVC would say of a missing folder only that it is missing.

    Raises:
        DataError: if source.root is no folder.
    """
    root = layout.root / source.root
    inside_code = isinstance(source, ProceduralSource) or source.root == PACKAGED
    if not inside_code and not root.is_dir():
        raise DataError(f"{root}: no such folder; set source.root in params.yaml to the folder of the data")
    path = layout.params_check()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    fresh.write_text(CONTENT, encoding="utf-8")
    fresh.replace(path)
    print(f"check_params: {layout.params()} is right, noted in {path}")


if __name__ == "__main__":
    main(run)
