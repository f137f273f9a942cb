"""The branch exchange against a plain length-two attention."""

import math

import pytest
import torch

from anosynth.diffusion.interaction import FoldedInteraction, Interaction


def reference(module: Interaction, features: torch.Tensor) -> torch.Tensor:
    """Length-two softmax attention between the branches, written as the paper draws it."""
    pairs, positions, width = features.shape[0] // 2, features.shape[1], features.shape[2]
    z = module.in_map(module.norm(features)).reshape(2, pairs * positions, module.inner).transpose(0, 1)
    q, k, v = module.q_map(z), module.k_map(z), module.v_map(z)
    attention = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(module.inner), dim=-1)
    mixed = module.out_map(attention @ v).transpose(0, 1).reshape(2 * pairs, positions, width)
    return features + mixed


def make(width: int, inner: int, *, zero_output: bool = False) -> Interaction:
    generator = torch.Generator().manual_seed(5)
    module = Interaction(width, inner, zero_output=zero_output, generator=generator)
    with torch.no_grad():
        module.norm.weight.uniform_(0.5, 1.5, generator=generator)
        module.norm.bias.uniform_(-0.5, 0.5, generator=generator)
    return module


def features(width: int, pairs: int = 3, positions: int = 10) -> torch.Tensor:
    return torch.randn(2 * pairs, positions, width, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize(("width", "inner"), [(32, 32), (64, 8), (48, 1)])
def test_the_trained_and_the_folded_form_equal_length_two_attention(width: int, inner: int) -> None:
    module, x = make(width, inner), features(width)
    wanted = reference(module.double(), x.double())
    module = module.float()
    torch.testing.assert_close(module(x).double(), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(FoldedInteraction(module)(x).double(), wanted, atol=1e-5, rtol=0)


def test_in_bfloat16_the_folded_form_is_as_close_to_float64_as_the_reference_form() -> None:
    module, x = make(64, 64), features(64, pairs=8)
    wanted = reference(module.double(), x.double())
    module = module.float()
    folded = FoldedInteraction(module).bfloat16()
    half = module.bfloat16()
    ours = (folded(x.bfloat16()).double() - wanted).pow(2).mean()
    theirs = (reference(half, x.bfloat16()).double() - wanted).pow(2).mean()
    assert ours <= 1.1 * theirs


def test_a_zero_output_changes_nothing_at_step_zero() -> None:
    module, x = make(32, 8, zero_output=True), features(32)
    torch.testing.assert_close(module(x), x, atol=0, rtol=0)
    torch.testing.assert_close(FoldedInteraction(module)(x), x, atol=0, rtol=0)


def test_swapping_the_branches_swaps_the_result() -> None:
    module, x = make(32, 8), features(32)
    swapped = torch.cat(x.chunk(2)[::-1])
    torch.testing.assert_close(torch.cat(module(swapped).chunk(2)[::-1]), module(x), atol=1e-6, rtol=0)


def test_a_pair_does_not_see_its_neighbours_in_the_batch() -> None:
    module, x = make(32, 32), features(32, pairs=4)
    alone = torch.cat([x[1:2], x[5:6]])
    torch.testing.assert_close(module(alone), module(x)[[1, 5]], atol=1e-6, rtol=0)


def test_an_inner_width_above_the_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"inner width is 40; it must lie in \[1, 32\]"):
        Interaction(32, 40, zero_output=True, generator=torch.Generator())
