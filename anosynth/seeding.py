"""Where every random number comes from: one root seed and an address, hashed.

No function of this project draws from a global generator; see docs/architecture.md, "Randomness".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SEED_BITS = 63


def seed_for(root: int, *address: str | int) -> int:
    """Derive the seed of one random decision from the root seed and its address.

    Args:
        root: the project's root seed (params.yaml: seed), any integer.
        address: names and indices, for example ("generate_pairs", "bottle", "hole", "perlin", 200).
            The type counts: "7" and 7 are different addresses.

    Returns:
        An integer in [0, 2**63). Equal arguments give equal seeds on every machine and in every process.

    Raises:
        TypeError: if a part of the address is neither str nor int (bool is refused: it hashes like an int).
    """
    digest = hashlib.blake2b(digest_size=8, person=b"anosynth-seed")
    for part in (root, *address):
        if isinstance(part, bool) or not isinstance(part, str | int):
            raise TypeError(f"an address is made of str and int, got {part!r} ({type(part).__name__})")
        kind = b"s" if isinstance(part, str) else b"i"
        data = str(part).encode()
        digest.update(kind + len(data).to_bytes(8, "big") + data)
    return int.from_bytes(digest.digest(), "big") >> (64 - SEED_BITS)


def numpy_rng(root: int, *address: str | int) -> np.random.Generator:
    """Return a fresh NumPy generator (PCG64) for one address; see `seed_for`."""
    return np.random.Generator(np.random.PCG64(seed_for(root, *address)))


def torch_generator(seed: int) -> torch.Generator:
    """Return a fresh CPU torch generator for one seed in [0, 2**63); noise drawn from it is then moved."""
    import torch

    generator = torch.Generator(device="cpu")
    generator.manual_seed(seed)
    return generator


def torch_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return one fresh CPU generator per sample, so that sample b draws only from generators[b]."""
    return [torch_generator(seed) for seed in seeds]
