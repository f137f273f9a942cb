"""Digests name things by what shaped them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anosynth.fingerprint import canonical_json, digest_bytes, digest_file, digest_pixels, digest_value

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_change_a_digest(value: dict[str, object], random: object) -> None:
    keys = list(value)
    random.shuffle(keys)  # type: ignore[attr-defined]
    assert digest_value({key: value[key] for key in keys}) == digest_value(value)


def test_values_that_differ_have_different_digests() -> None:
    values: list[object] = [
        1,
        1.0,
        "1",
        True,
        None,
        [],
        {},
        [1],
        [[1]],
        {"a": 1},
        {"a": [1]},
        {"a": "1"},
        [1, 2],
        [2, 1],
    ]
    digests = {digest_value(value) for value in values}
    assert len(digests) == len(values) == 14


def test_the_canonical_form_is_promised() -> None:
    assert canonical_json({"b": [1, 2.5], "ä": None, "a": True}) == '{"a":true,"b":[1,2.5],"ä":null}'.encode()
    assert digest_value({"a": 1}) == hashlib.blake2b(b'{"a":1}', digest_size=16).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_a_number_that_is_not_finite_has_no_digest(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest_value(value)


@pytest.mark.parametrize("value", [{1: 2}, {"a": {None: 1}}, [{(1,): 1}], {"a": {1, 2}}, b"x", Path("x")])
def test_a_value_that_is_not_json_has_no_digest(value: object) -> None:
    with pytest.raises(TypeError):
        digest_value(value)


@given(st.binary(max_size=64))
def test_a_file_has_the_digest_of_its_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("digest") / "file"
    path.write_bytes(data)
    assert digest_file(path) == digest_bytes(data) == hashlib.blake2b(data, digest_size=16).hexdigest()


def test_a_file_longer_than_one_block_is_read_to_its_end(tmp_path: Path) -> None:
    data = bytes(range(256)) * (3 * 4096) + b"end"
    (tmp_path / "long").write_bytes(data)
    assert len(data) > 3 * (1 << 20)
    assert digest_file(tmp_path / "long") == digest_bytes(data)


def test_pixels_are_named_by_value_and_shape_and_not_by_memory_layout() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert digest_pixels(image) == digest_pixels(np.asfortranarray(image))
    assert digest_pixels(image) == hashlib.sha256(b"2x4x3;" + image.tobytes()).hexdigest()
    assert digest_pixels(image) != digest_pixels(image.reshape(4, 2, 3))
    other = image.copy()
    other[1, 3, 2] ^= 1
    assert digest_pixels(image) != digest_pixels(other)


def test_only_8_bit_pixels_are_named() -> None:
    with pytest.raises(ValueError, match="uint8, got float32"):
        digest_pixels(np.zeros((2, 2), np.float32))  # type: ignore[arg-type]
