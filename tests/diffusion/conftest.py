"""A toy backbone for the session, and one of its own for a test that changes weights."""

import pytest

from anosynth.diffusion import toy
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.params import ComputeParams


@pytest.fixture(scope="session")
def compute() -> ComputeParams:
    return ComputeParams(threads=1, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def backbone(compute: ComputeParams) -> LatentDiffusion:
    """Shared: leave its weights as they are."""
    return LatentDiffusion.on(toy.build(0), compute=compute)


@pytest.fixture
def own_backbone(compute: ComputeParams) -> LatentDiffusion:
    """The same, for this test alone."""
    return LatentDiffusion.on(toy.build(0), compute=compute)
