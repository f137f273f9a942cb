"""Paths come from one place."""

from __future__ import annotations

import inspect
from pathlib import Path

from anosynth.layout import Layout

KEYS = {"category": "washer", "defect": "scratch", "method": "perlin", "detector": "unet", "arm": "real"}


def all_paths(layout: Layout) -> dict[str, Path]:
    found = {}
    for name, method in inspect.getmembers(layout, inspect.ismethod):
        if not name.startswith("_") and name != "store_url":
            found[name] = method(*(KEYS[key] for key in inspect.signature(method).parameters))
    return found


def test_no_two_artefacts_share_a_path_or_lie_in_each_other() -> None:
    paths = all_paths(Layout(Path("/project")))
    assert len(paths) >= 11
    for name, path in paths.items():
        assert path.is_relative_to("/project")
        for other, elsewhere in paths.items():
            assert name == other or not path.is_relative_to(elsewhere), (name, other)


def test_every_key_of_a_path_shows_in_it() -> None:
    layout = Layout(Path("/project"))
    checked = 0
    for name, method in inspect.getmembers(layout, inspect.ismethod):
        for key in inspect.signature(method).parameters if not name.startswith("_") else ():
            values = {**KEYS, key: "elsewhere"}
            changed = method(*(values[each] for each in inspect.signature(method).parameters))
            assert "elsewhere" in changed.parts or changed.stem == "elsewhere", (name, key)
            checked += 1
    assert checked >= 12


def test_the_store_is_local_unless_named() -> None:
    assert Layout(Path("/project")).store_url() == "/project/.anosynth/store"
    assert Layout(Path("/project"), "memory://pool").store_url() == "memory://pool"
