from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anosynth.errors import DataError
from anosynth.sources.files import list_images, natural_key
from tests.sources.trees import write


def test_ten_comes_after_nine() -> None:
    names = ["10.png", "9.png", "a10b2", "a9b30", "a10b1", "007.png", "7.png"]
    assert sorted(names, key=natural_key) == ["007.png", "7.png", "9.png", "10.png", "a9b30", "a10b1", "a10b2"]


@given(st.sets(st.text(max_size=8), max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_names_does_not_depend_on_the_order_they_came_in(names: set[str], random: Random) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)
    assert sorted(shuffled, key=natural_key) == sorted(names, key=natural_key)


def test_hidden_files_and_notes_are_passed_over_but_nothing_else_is(tmp_path: Path) -> None:
    taken = ["1.xyz", "2.png", "10.JPG", "bild ä 3.bmp"]
    for name in (".DS_Store", "._1.png", "Thumbs.db", "README.md", "list.csv", *taken):
        write(tmp_path / name, b"x")
    assert [path.name for path in list_images(tmp_path, what="images")] == taken


def test_a_folder_among_the_images_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "more" / "1.png", b"x")
    with pytest.raises(DataError, match=r"more: a folder among the normal images"):
        list_images(tmp_path, what="normal images")


def test_a_missing_folder_is_an_error_that_lists_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "goods").mkdir()
    with pytest.raises(DataError, match=r"no such folder, it should hold the normal images; folders beside it: goods"):
        list_images(tmp_path / "good", what="normal images")
