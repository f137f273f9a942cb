"""Bytes to pixels and back."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from anosynth.errors import DataError
from anosynth.imaging import (
    decode_image,
    decode_mask,
    encode_png,
    encode_webp,
    from_unit,
    hamming_bits,
    perceptual_hash,
    resize_image,
    resize_mask,
    to_unit,
)

FORMATS = ("PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG", "PPM")


def colours(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def deep_png(planes: np.ndarray) -> bytes:
    """A 16-bit PNG, which Pillow cannot write in colour: uint16 [H, W, 1 to 4]."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = planes.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in planes)
    head = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("encode", [encode_png, encode_webp])
def test_encoding_keeps_every_pixel_and_repeats_its_bytes(encode: object) -> None:
    checked = 0
    for image in (colours(), colours(1, 1), np.zeros((5, 7, 3), np.uint8)):
        data = encode(image)  # type: ignore[operator]
        decoded = decode_image(data, name="x")
        np.testing.assert_array_equal(decoded.image, image)
        assert decoded.converted_from == ""
        assert encode(image) == data  # type: ignore[operator]
        checked += 1
    assert checked == 3


def test_a_mask_survives_encoding() -> None:
    mask = np.where(colours()[:, :, 0] > 127, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(decode_mask(encode_png(mask), name="m"), mask)


@pytest.mark.parametrize(
    ("mode", "said"),
    [("RGB", ""), ("RGBA", "RGBA"), ("P", "palette"), ("L", "grey"), ("LA", "grey with alpha"), ("1", "1-bit")],
)
def test_every_common_kind_of_png_becomes_8_bit_colour_and_says_so(mode: str, said: str) -> None:
    picture = Image.fromarray(colours()).convert(mode)
    decoded = decode_image(saved(picture, "PNG"), name="x")
    assert decoded.converted_from == said
    np.testing.assert_array_equal(decoded.image, np.asarray(picture.convert("RGB")))


def test_cmyk_is_converted_and_says_so() -> None:
    decoded = decode_image(saved(Image.fromarray(colours()).convert("CMYK"), "TIFF"), name="x")
    assert (decoded.converted_from, decoded.image.shape) == ("CMYK", (24, 32, 3))


def test_transparency_is_ignored_not_blended() -> None:
    planes = np.dstack([colours(), np.zeros((24, 32), np.uint8)])
    decoded = decode_image(saved(Image.fromarray(planes), "PNG"), name="x")
    np.testing.assert_array_equal(decoded.image, planes[:, :, :3])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_scaled_from_their_full_range_and_said(channels: int) -> None:
    rng = np.random.default_rng(channels)
    wide = rng.integers(0, 65536, (6, 9, channels), dtype=np.uint16)
    wide[0, 0], wide[0, 1] = 0, 65535
    decoded = decode_image(deep_png(wide), name="x")
    assert decoded.converted_from == "16-bit"
    grey = wide[:, :, [0, 0, 0]] if channels < 3 else wide[:, :, :3]
    assert np.abs(decoded.image - grey / 257.0).max() <= 1.0
    assert decoded.image[0, 0].tolist() == [0, 0, 0]
    assert decoded.image[0, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("values", [np.linspace(0, 1, 12, dtype=np.float32), np.arange(12, dtype=np.int32) * 100_000])
def test_numbers_without_an_agreed_range_are_refused(values: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"^scan\.tif: its pixels are numbers without an agreed range"):
        decode_image(saved(Image.fromarray(values.reshape(3, 4)), "TIFF"), name="scan.tif")


def test_every_exif_orientation_is_applied_as_pillow_does() -> None:
    picture = Image.fromarray(colours(8, 12))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = saved(picture, "PNG", exif=exif.tobytes())
        wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        decoded = decode_image(data, name="x")
        np.testing.assert_array_equal(decoded.image, np.asarray(wanted))
        assert decoded.converted_from == ("" if orientation == 1 else "EXIF orientation")
    assert orientation == 8


def test_an_orientation_that_does_not_exist_changes_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    decoded = decode_image(saved(Image.fromarray(colours()), "PNG", exif=exif.tobytes()), name="x")
    assert decoded.converted_from == ""


def test_what_is_no_image_is_named() -> None:
    for data in (b"", b"not an image", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(DataError, match=r"^a/b\.png: "):
            decode_image(data, name="a/b.png")
        with pytest.raises(DataError, match=r"^a/b\.png: "):
            decode_mask(data, name="a/b.png")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_short_is_an_error_and_never_half_a_picture(kind: str) -> None:
    data = saved(Image.fromarray(colours(64, 64)), kind)
    with pytest.raises(DataError, match=r"^x: .*replace"):
        decode_image(data[: len(data) // 2], name="x")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=60)
@given(damage=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_bytes_give_a_picture_or_a_data_error_and_nothing_else(
    kind: str, damage: list[tuple[int, int]]
) -> None:
    data = bytearray(saved(Image.fromarray(colours(16, 16)), kind))
    for at, value in damage:
        data[at % len(data)] = value
    for decode in (decode_image, decode_mask):
        try:
            decode(bytes(data), name="x")
        except DataError as error:
            assert str(error).startswith("x: ")  # noqa: PT017


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    def claims(width: int, height: int) -> bytes:
        head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        small = encode_png(np.zeros((1, 1, 3), np.uint8))
        return small[:12] + head + struct.pack(">I", zlib.crc32(head)) + small[33:]

    with pytest.raises(DataError, match=r"^x: 13000 x 13000 px is more than 1000000 pixels allowed; resize it$"):
        decode_image(claims(13_000, 13_000), name="x", max_pixels=1_000_000)
    with pytest.raises(DataError, match=r"^x: too large to be an inspection image .* at most 1000000 pixels$"):
        decode_image(claims(60_000, 60_000), name="x", max_pixels=1_000_000)
    with pytest.raises(DataError, match=r"^x: 32 x 24 px is more than 700 pixels allowed; resize it$"):
        decode_image(encode_png(colours()), name="x", max_pixels=700)


@pytest.mark.parametrize("foreground", [1, 128, 255])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK", "I;16"])
def test_a_two_valued_mask_of_any_kind_is_read_as_background_and_foreground(mode: str, foreground: int) -> None:
    wanted = np.zeros((8, 10), np.uint8)
    wanted[2:5, 3:9] = 255
    grey = Image.fromarray((wanted // 255 * (foreground if mode != "1" else 255)).astype(np.uint8))
    picture = Image.fromarray(np.asarray(grey).astype(np.uint16)) if mode == "I;16" else grey.convert(mode)
    data = saved(picture, "TIFF" if mode == "CMYK" else "PNG")
    np.testing.assert_array_equal(decode_mask(data, name="m"), wanted)


def test_a_palette_mask_is_read_by_its_colours() -> None:
    indices = np.zeros((4, 4), np.uint8)
    indices[0] = 1
    picture = Image.fromarray(indices, mode="P")
    picture.putpalette([255, 255, 255, 0, 0, 0])
    mask = decode_mask(saved(picture, "PNG"), name="m")
    np.testing.assert_array_equal(mask, np.where(indices == 0, 255, 0))


@pytest.mark.parametrize("values", [[0, 1, 2], [0, 120, 255], [3, 255]])
def test_a_mask_with_grey_levels_is_refused(values: list[int]) -> None:
    levels = np.array(values * 4, np.uint8).reshape(-1, len(values))
    with pytest.raises(DataError, match=rf"^m: the mask has {len(values)} grey levels .*without smoothing$"):
        decode_mask(encode_png(levels), name="m")


def test_shrinking_by_a_whole_number_averages_the_area() -> None:
    image = colours(24, 32)
    small = resize_image(image, size_px=(6, 8))
    naive = image.reshape(6, 4, 8, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - naive).max() <= 1.0  # Pillow rounds after each of its two passes


def test_resizing_to_the_same_size_or_growing_a_flat_picture_changes_no_value() -> None:
    np.testing.assert_array_equal(resize_image(colours(), size_px=(24, 32)), colours())
    grown = resize_image(np.full((4, 4, 3), 77, np.uint8), size_px=(9, 13))
    assert grown.shape == (9, 13, 3)
    assert (grown == 77).all()


@given(
    height=st.integers(1, 40), width=st.integers(1, 40), new=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    share=st.floats(0.0, 1.0), seed=st.integers(0, 9),
)  # fmt: skip
def test_resizing_a_mask_keeps_its_values_and_never_loses_foreground_or_background(
    height: int, width: int, new: tuple[int, int], share: float, seed: int
) -> None:
    mask = np.where(np.random.default_rng(seed).random((height, width)) < share, 255, 0).astype(np.uint8)
    small = resize_mask(mask, size_px=new)
    assert small.shape == new
    assert small.dtype == np.uint8
    assert set(np.unique(small)) <= {0, 255}
    if mask.any():
        assert small.any()
    if small.size > 1 and not mask.all():
        assert not small.all()


def test_a_line_thinner_than_a_pixel_stays_where_it_was() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[40, 10] = 255
    for picture, value in ((mask, 255), (255 - mask, 0)):
        small = resize_mask(picture, size_px=(8, 8))
        assert np.argwhere(small == value).tolist() == [[5, 1]]


def test_every_grey_value_survives_the_unit_range() -> None:
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    pixels = to_unit(image)
    assert pixels.shape == (1, 3, 16, 16)
    assert pixels.dtype == np.float32
    assert (pixels.min(), pixels.max()) == (-1.0, 1.0)
    np.testing.assert_array_equal(from_unit(pixels), image)
    np.testing.assert_array_equal(from_unit(pixels * 3)[..., 0], np.clip(np.rint(pixels[:, 0] * 382.5 + 127.5), 0, 255))


def test_the_perceptual_hash_is_the_sign_of_low_cosines() -> None:
    image = colours(32, 32)
    grey = np.asarray(Image.fromarray(image).convert("L"), dtype=np.float64)
    low = np.zeros((8, 8))
    for u in range(8):
        for v in range(8):
            for y in range(32):
                for x in range(32):
                    low[u, v] += (
                        grey[y, x] * np.cos(np.pi * (2 * y + 1) * u / 64) * np.cos(np.pi * (2 * x + 1) * v / 64)
                    )
    median = np.median(low.ravel()[1:])
    bits = "".join("1" if value > median else "0" for value in low.ravel())
    assert perceptual_hash(image) == f"{int(bits, 2):016x}"


def test_a_re_encoded_or_brighter_copy_stays_near_and_another_picture_does_not() -> None:
    smooth = resize_image(colours(8, 8), size_px=(128, 128))
    jpeg = decode_image(saved(Image.fromarray(smooth), "JPEG", quality=80), name="x").image
    brighter = np.clip(smooth.astype(int) + 10, 0, 255).astype(np.uint8)
    other = resize_image(colours(8, 8, seed=1), size_px=(128, 128))
    name = perceptual_hash(smooth)
    assert hamming_bits(name, perceptual_hash(jpeg)) <= 6
    assert hamming_bits(name, perceptual_hash(brighter)) <= 6
    assert hamming_bits(name, perceptual_hash(other)) > 12


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_hamming_counts_differing_bits(first: int, second: int) -> None:
    wanted = sum(a != b for a, b in zip(f"{first:064b}", f"{second:064b}", strict=True))
    assert hamming_bits(f"{first:016x}", f"{second:016x}") == wanted
