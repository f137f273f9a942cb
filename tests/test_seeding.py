"""Every random number has an address."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anosynth.seeding import SEED_BITS, numpy_rng, seed_for, torch_generator, torch_generators

PARTS = st.one_of(st.text(max_size=8), st.integers(-(2**70), 2**70))


def naive_seed(*parts: str | int) -> int:
    stream = b""
    for part in parts:
        text = str(part).encode()
        stream += (b"s" if isinstance(part, str) else b"i") + len(text).to_bytes(8, "big") + text
    wide = hashlib.blake2b(stream, digest_size=8, person=b"anosynth-seed").digest()
    return int.from_bytes(wide, "big") // 2


@given(st.integers(), st.lists(PARTS, max_size=5))
def test_a_seed_is_the_hash_of_its_address_and_fits_63_bits(root: int, address: list[str | int]) -> None:
    seed = seed_for(root, *address)
    assert seed == naive_seed(root, *address)
    assert 0 <= seed < 2**SEED_BITS


def test_seeds_are_promised_to_stay_what_they_are() -> None:
    assert seed_for(0) == 7084359312708887068
    assert seed_for(20261121, "generate_pairs", "washer", "scratch", "perlin", 200) == 74952099630474018


def test_another_process_with_another_hash_salt_derives_the_same_seed() -> None:
    code = "from anosynth.seeding import seed_for; print(seed_for(7, 'washer', 3))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for salt in ("1", "2")
    }
    assert found == {str(seed_for(7, "washer", 3))}


def test_addresses_that_look_alike_give_different_seeds() -> None:
    addresses: list[tuple[str | int, ...]] = [
        (), ("",), ("", ""), ("a", "b"), ("ab",), ("a", "b", ""), (7,), ("7",), (7, 0), (70,), (-7,), ("b", "a"),
    ]  # fmt: skip
    pairs = list(itertools.combinations(addresses, 2))
    assert len(pairs) == 66
    for first, second in pairs:
        assert seed_for(1, *first) != seed_for(1, *second), (first, second)
    assert seed_for(1, "a") != seed_for(2, "a")


@pytest.mark.parametrize("part", [True, 1.0, None, np.int64(3), b"x"])
def test_a_part_that_is_neither_text_nor_integer_is_refused(part: object) -> None:
    with pytest.raises(TypeError, match="an address is made of str and int"):
        seed_for(1, part)  # type: ignore[arg-type]


def test_generators_of_one_address_repeat_and_of_two_addresses_differ() -> None:
    first, again, other = (numpy_rng(5, "x", index).standard_normal(64) for index in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.5


def test_one_torch_generator_per_sample_draws_what_it_draws_alone() -> None:
    seeds = [seed_for(5, "x", index) for index in range(3)]
    together = [torch.randn(4, generator=generator) for generator in torch_generators(seeds)]
    assert len(together) == 3
    for seed, noise in zip(seeds, together, strict=True):
        generator = torch_generator(seed)
        assert generator.device.type == "cpu"
        assert torch.equal(torch.randn(4, generator=generator), noise)


def test_the_largest_seed_is_accepted_by_torch() -> None:
    assert torch_generator(2**SEED_BITS - 1).initial_seed() == 2**SEED_BITS - 1
