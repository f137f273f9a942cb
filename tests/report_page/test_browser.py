"""The page in Debian's Chromium, headless: no script error, no sideways scrolling, filters by keyboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report_page.content import written

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)"),
]

# Unchecks a pool by pressing the space bar's click on a focused box, and notes what a person would see.
PROBE = """
<script>
window.addEventListener("load", () => {
  const shown = () => [...document.querySelectorAll(".sample")].filter((one) => one.offsetParent !== null).length;
  const before = shown();
  const box = document.querySelector('input[name="pool"][value="normals"]');
  box.focus();
  const focused = document.activeElement === box;
  const outline = getComputedStyle(box).outlineStyle;
  box.click();
  const said = document.querySelector("[data-count]").textContent;
  const paper = getComputedStyle(document.body).backgroundColor;
  const broken = [...document.images].filter((one) => one.complete && !one.naturalWidth).length;
  const found = {before, after: shown(), focused, outline, said, paper, broken,
    width: document.documentElement.clientWidth, content: document.documentElement.scrollWidth};
  document.body.setAttribute("data-found", JSON.stringify(found));
});
</script>
"""


def chromium(folder: Path, *arguments: str) -> str:
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}", *arguments, f"file://{folder / 'report.html'}",
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


@pytest.mark.parametrize("width", [500, 1280])
def test_filters_work_nothing_scrolls_sideways_and_no_picture_is_broken(tmp_path: Path, width: int) -> None:
    html = written().replace("</body>", f"{PROBE}</body>")
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    dom = chromium(tmp_path, f"--window-size={width},900", "--virtual-time-budget=3000", "--dump-dom")
    attribute = re.search(r'data-found="([^"]*)"', dom)
    assert attribute is not None
    found = json.loads(attribute[1].replace("&quot;", '"'))
    assert (found["before"], found["after"], found["said"]) == (4, 3, "3 of 4 samples shown")
    assert found["focused"]
    assert found["broken"] == 0
    assert found["content"] <= found["width"] == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_scheme_and_fits_a_phone(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "report.html").write_text(written(), encoding="utf-8")
    picture = tmp_path / "phone.png"
    dark = ["--force-dark-mode"] if scheme == "dark" else []
    chromium(tmp_path, *dark, "--window-size=360,1600", f"--screenshot={picture}")
    pixels = np.array(Image.open(picture).convert("RGB")).astype(int)
    assert pixels.shape == (1600, 360, 3)
    paper = pixels[2, 2].mean()
    assert paper > 240 if scheme == "light" else paper < 40
    assert np.abs(pixels - pixels[2, 2]).max() > 150  # something is written
    assert np.abs(pixels[:, 352:] - pixels[2, 2]).max() < 12  # and nothing reaches over the margin
