from __future__ import annotations

import base64
import io
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from anosynth.comparison import Bounded
from anosynth.report_page import charts
from anosynth.report_page.markup import drawing, from_markdown, overlay, photo, table
from tests.report_page.content import CONTROLS, HOSTILE, written

VOID = {"meta", "img", "br", "input", "line", "circle", "rect", "polyline"}


class Walk(HTMLParser):
    """Opens and closes every element; collects tags with their attributes."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def walked(html: str) -> Walk:
    walk = Walk()
    walk.feed(html)
    walk.close()
    assert walk.open == []
    return walk


def test_the_verdict_comes_first_and_every_part_is_there() -> None:
    walk = walked(written())
    assert "On washer, + perlin improves image AP of unet by 0." in walk.words
    order = ["improves image AP", "Every arm, by groups", "Gain over the arm real", "Curves", "The gate", "Synthetic"]
    found = [walk.words.index(part) for part in order]
    assert found == sorted(found)
    for part in ("nearest shot, similarity 0.25", "refused: duplicate", "missed scratch by unet", "Provenance"):
        assert part in walk.words, part


def test_the_page_needs_no_network_and_is_the_same_every_time() -> None:
    html = written()
    assert html == written()
    sources = [value for _, attrs in walked(html).seen for key, value in attrs.items() if key in ("src", "href")]
    assert len(sources) >= 15
    assert all(source.startswith(("data:image/", "#")) for source in sources if source is not None)
    assert not re.search(r"https?://|@import|url\(", html)
    assert len(html) < 200_000


def test_hostile_names_are_text_and_nothing_else() -> None:
    plain, hostile = walked(written()), walked(written(name=HOSTILE))
    assert [tag for tag, _ in hostile.seen] == [tag for tag, _ in plain.seen]
    assert [sorted(attrs) for _, attrs in hostile.seen] == [sorted(attrs) for _, attrs in plain.seen]
    assert hostile.words.count(HOSTILE) >= 4
    assert [tag for tag, _ in hostile.seen].count("script") == 1


def test_pictures_have_texts_tables_have_heads_and_filters_have_labels() -> None:
    walk = walked(written())
    images = [attrs for tag, attrs in walk.seen if tag == "img"]
    assert len(images) >= 15
    assert all(attrs["alt"] for attrs in images)
    drawn = [attrs for tag, attrs in walk.seen if tag == "svg"]
    assert len(drawn) == 4
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in drawn)
    heads = [attrs["scope"] for tag, attrs in walk.seen if tag == "th"]
    assert {"col", "row"} == set(heads)
    boxes = [attrs for tag, attrs in walk.seen if tag == "input"]
    assert {(box["name"], box["value"]) for box in boxes} == {
        ("pool", "normals"),
        ("pool", "scratch/perlin"),
        ("verdict", "kept"),
        ("verdict", "duplicate"),
        ("verdict", "tiny"),
    }
    assert [tag for tag, _ in walk.seen].count("label") == len(boxes)
    levels = [int(tag[1]) for tag, _ in walk.seen if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_has_a_contrast_of_4_5_in_light_and_in_dark(scheme: int) -> None:
    blocks = re.findall(r":root \{([^}]*--paper[^}]*)\}", written())
    assert len(blocks) == 2
    colors = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", blocks[scheme]))
    checked = 0
    for ground in ("paper", "panel"):
        for name in ("ink", "soft", "accent", *(f"s{at}" for at in range(8))):
            light, dark = sorted((luminance(colors[ground]), luminance(colors[name])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ground, name)
            checked += 1
    assert checked == 22


def decoded(html: str) -> np.ndarray:
    found = re.search(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', html)
    assert found is not None
    return np.array(Image.open(io.BytesIO(base64.b64decode(found[1]))))


def test_pictures_are_small_and_show_what_they_should() -> None:
    image = np.full((400, 200, 3), (10, 120, 200), np.uint8)
    mask = np.zeros((400, 200), np.uint8)
    mask[100:300, 50:150] = 255
    small = decoded(photo(image, alt="x"))
    assert small.shape == (128, 64, 3)
    assert np.abs(small.astype(int) - (10, 120, 200)).max() <= 3
    ones = decoded(drawing(mask, alt="x"))
    assert (ones.shape, ones.dtype) == ((128, 64), np.bool_)
    assert ones.mean() == pytest.approx(0.25, abs=0.02)
    tinted = decoded(overlay(image, mask, alt="x")).astype(int)
    assert np.abs(tinted[64, 32] - (132, 60, 200)).max() <= 6
    assert np.abs(tinted[5, 5] - (10, 120, 200)).max() <= 6


def test_an_interval_stands_below_its_value_and_other_brackets_stay() -> None:
    html = table(["a", "b", "c"], [["x", "y", "0.5 [0.4, 0.6]"], ["x", "y", "levels [2, 3] at 64"]], caption="t")
    assert '0.5 <span class="interval">[0.4, 0.6]</span>' in html
    assert "levels [2, 3] at 64" in html


def test_the_markdown_of_the_controls_becomes_sections_and_tables() -> None:
    html = from_markdown(CONTROLS)
    assert html in written()
    walk = walked(html)
    assert [tag for tag, _ in walk.seen].count("tr") == 2
    assert "a | b" in walk.words
    assert "<h2>Telling defect types apart</h2><p>Real test images, 95 % interval in brackets.</p>" in html
    assert '0.500 <span class="interval">[0.400, 0.600]</span>' in html
    assert "<b>" not in from_markdown("## <b>\n\n<b>\n\n| <b> |\n| --- |\n| <b> |")
    assert from_markdown("") == ""


def test_a_dot_lies_where_its_value_is() -> None:
    svg = charts.intervals([("a", Bounded(0.25, 0.0, 1.0)), ("b", Bounded(None, None, None))], title="t", zero=False)
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    assert f'cx="{left + 0.25 * (right - left):.1f}"' in svg
    assert f'x1="{left:.1f}" x2="{right:.1f}"' in svg
    assert charts.intervals([("b", Bounded(None, None, None))], title="t", zero=True) == ""
    assert charts.curves({"a": {"0": []}}, title="t") == ""
    assert charts.histogram([], title="t") == ""
