"""The rule that fails a test which drew from a global generator (tests/conftest.py) sees every kind of draw.

That no *stage* draws from one, and that none depends on one, is proven in tests/pipeline/test_hermetic.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from anosynth.seeding import numpy_rng, torch_generator
from tests.conftest import drawn_since, global_generators


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("random", random.random),
        ("random", lambda: random.shuffle([1, 2, 3])),
        ("numpy.random", lambda: np.random.rand()),  # noqa: NPY002
        ("numpy.random", lambda: np.random.permutation(3)),  # noqa: NPY002
        ("torch", lambda: torch.randn(1)),
        ("torch", lambda: torch.nn.Linear(2, 2)),
        ("torch", lambda: torch.randperm(4)),
    ],
)
def test_a_draw_from_a_global_generator_is_seen(name: str, draw: Callable[[], object]) -> None:
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    before = global_generators()
    assert drawn_since(before) == []
    draw()
    assert drawn_since(before) == [name]
    random.setstate(kept[0])
    np.random.set_state(kept[1])  # noqa: NPY002
    torch.set_rng_state(kept[2])


def test_a_draw_from_a_generator_of_ones_own_is_not() -> None:
    before = global_generators()
    numpy_rng(1, "x").random()
    torch.randn(3, generator=torch_generator(1))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        torch.nn.Linear(2, 2)
    assert drawn_since(before) == []
