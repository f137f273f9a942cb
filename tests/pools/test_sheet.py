import sys
from pathlib import Path

import pytest
from PIL import Image

from anosynth.pools import __main__ as drawing


def test_the_sheet_has_a_row_per_category_and_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drawing, "ROWS", (("wood", "stain"), ("washer", "scratch")))
    path = tmp_path / "arms.png"
    monkeypatch.setattr(sys, "argv", ["pools", str(path), "--columns", "2", "--size-px", "48"])
    drawing.main()
    assert Image.open(path).size == (5 * 50, 4 * 50)
    assert f"250 x 200 px written to {path}" in capsys.readouterr().out
