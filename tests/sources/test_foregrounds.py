from pathlib import Path

import numpy as np
import pytest

from anosynth.errors import DataError
from anosynth.imaging import encode_png, encode_webp
from anosynth.sources.foregrounds import read_foreground

SIZE = (12, 16)


def write(folder: Path, name: str, mask: np.ndarray) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encode_png(mask) if name.endswith(".png") else encode_webp(mask))


def square() -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[3:9, 4:10] = 255
    return mask


def test_a_mask_lies_where_its_image_lies_whatever_its_suffix(tmp_path: Path) -> None:
    mask = square()
    write(tmp_path, "test/bent/000.png", mask)
    assert np.array_equal(read_foreground(tmp_path, "test/bent/000.jpg", size_px=SIZE), mask)
    write(tmp_path, "test/bent/01.side.png", mask)
    assert np.array_equal(read_foreground(tmp_path, "test/bent/01.side.bmp", size_px=SIZE), mask)
    write(tmp_path, "good/7.webp", np.repeat(mask[:, :, None], 3, axis=2))
    assert read_foreground(tmp_path, "good/7.png", size_px=SIZE)[5, 6] == 255


def test_soft_masks_are_cut_at_the_middle_and_other_sizes_are_resized(tmp_path: Path) -> None:
    soft = square()
    soft[3:9, 4:7] = 127
    soft[0, 0] = 128
    write(tmp_path, "a.png", soft)
    assert np.array_equal(read_foreground(tmp_path, "a.png", size_px=SIZE), np.where(soft >= 128, 255, 0))
    write(tmp_path, "one.png", square() // 255)
    assert np.array_equal(read_foreground(tmp_path, "one.png", size_px=SIZE), square())
    large = read_foreground(tmp_path, "a.png", size_px=(24, 32))
    assert large.shape == (24, 32)
    assert set(np.unique(large)) == {0, 255}
    assert np.array_equal(large, np.kron(np.where(soft >= 128, 255, 0), np.ones((2, 2))).astype(np.uint8))


def test_what_is_no_mask_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no foreground mask for test/bent/000.jpg \(000.png or another"):
        read_foreground(tmp_path, "test/bent/000.jpg", size_px=SIZE)
    write(tmp_path, "b.png", np.full(SIZE, 127, np.uint8))
    with pytest.raises(DataError, match="the foreground mask is empty"):
        read_foreground(tmp_path, "b.png", size_px=SIZE)
    (tmp_path / "c.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"c\.png"):
        read_foreground(tmp_path, "c.png", size_px=SIZE)
    for path in ("../b.png", "/b.png"):
        with pytest.raises(DataError, match="does not leave it"):
            read_foreground(tmp_path, path, size_px=SIZE)
