"""The gate lets a right params.yaml through, with a note that never changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from anosynth.errors import DataError
from anosynth.layout import Layout
from anosynth.params import MVTecSource, load_params
from tasks.check_params import CONTENT, main, run
from tests.toy import toy_params, write_params


def test_an_allowed_edit_leaves_the_note_as_it_was(toy_project: Path) -> None:
    layout = Layout(toy_project)
    notes = set()
    for size_px in (64, 128):
        write_params(toy_project, toy_params({"image": {"size_px": size_px}}))
        main(run, ["--root", str(toy_project)])
        notes.add(layout.params_check().read_text(encoding="utf-8"))
    assert notes == {CONTENT}
    assert sorted(path.name for path in layout.params_check().parent.iterdir()) == [layout.params_check().name]


def test_a_source_that_is_not_there_is_refused_with_its_path(toy_project: Path) -> None:
    source = MVTecSource(kind="mvtec", root="../parts", licence="CC-BY-4.0")
    with pytest.raises(DataError, match=r"project/\.\./parts: no such folder; set source\.root in params\.yaml"):
        run(layout=Layout(toy_project), source=source)
    assert not Layout(toy_project).params_check().exists()
    (toy_project.parent / "parts").mkdir()
    run(layout=Layout(toy_project), source=source)
    assert Layout(toy_project).params_check().is_file()


def test_the_rendered_source_needs_no_folder(toy_project: Path) -> None:
    run(layout=Layout(toy_project), source=load_params(toy_project / "params.yaml").source)
    assert Layout(toy_project).params_check().is_file()
