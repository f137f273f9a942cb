"""One LoRA of the text encoder, for the prompts of both branches (optional in DualAnoDiff, on in its published runs).

The frozen weights are never touched: while `adapted` is open, each attention projection adds its update to what it puts
out. So prompts can no longer be embedded once and for all, and the encoder is as before when it closes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from anosynth.errors import BackboneError

if TYPE_CHECKING:
    from anosynth.diffusion.text import TextEncoder


class LowRankUpdate(nn.Module):
    """What is added to one frozen linear map W: y = W x + scale * B A x.

    A starts as N(0, 1/rank^2), B at zero (as in the published code), so that at first nothing changes.
    """

    def __init__(self, base: nn.Linear, *, rank: int, scale: float, generator: torch.Generator) -> None:
        """Create the update of `base`, which is only looked at."""
        super().__init__()
        self.scale = scale
        self.down = nn.Parameter(torch.randn(rank, base.in_features, generator=generator) / rank)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, features: Tensor, mapped: Tensor) -> Tensor:
        """Add the update, computed in its own format, to what the frozen map put out.

        Args:
            features: input of the frozen map, [..., in].
            mapped: its output, [..., out], in any floating dtype, which is kept.
        """
        update = features.to(self.down.dtype) @ self.down.T @ self.up.T
        return mapped + (self.scale * update).to(mapped.dtype)


class TextLoRA(nn.Module):
    """Low-rank updates of q, k, v and out in every attention layer of a text encoder, by the projections' names."""

    def __init__(self, encoder: TextEncoder, *, rank: int, scale: float, generator: torch.Generator) -> None:
        """Create the updates for an encoder.

        Args:
            encoder: only looked at.
            rank: r of every update.
            scale: factor of every update.
            generator: CPU generator of the initial weights.
        """
        super().__init__()
        projections = encoder.attention_projections()
        self.names = tuple(projections)
        self.updates = nn.ModuleList(
            [LowRankUpdate(base, rank=rank, scale=scale, generator=generator) for base in projections.values()]
        )

    def by_name(self) -> dict[str, LowRankUpdate]:
        """The updates by projection, in the encoder's order."""
        return {
            name: update
            for name, update in zip(self.names, self.updates, strict=True)
            if isinstance(update, LowRankUpdate)
        }


@contextmanager
def adapted(encoder: TextEncoder, lora: TextLoRA | None) -> Iterator[None]:
    """Let an encoder embed prompts with a LoRA; gradients flow to it unless the caller switched them off.

    Args:
        encoder: its weights are not changed, and it is as before at the end.
        lora: made for this encoder, on its device; None leaves the encoder alone.

    Raises:
        BackboneError: if the LoRA was made for an encoder of another shape.
    """
    with ExitStack() as hooks:
        if lora is not None:
            for base, update in _fitting(encoder, lora):
                hooks.enter_context(base.register_forward_hook(_adding(update)))
        yield


def _adding(update: LowRankUpdate) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def add(_: nn.Module, given: tuple[Tensor, ...], mapped: Tensor) -> Tensor:
        added: Tensor = update(given[0], mapped)
        return added

    return add


def _fitting(encoder: TextEncoder, lora: TextLoRA) -> list[tuple[nn.Linear, LowRankUpdate]]:
    bases, updates = encoder.attention_projections(), lora.by_name()
    wanted = {name: (base.in_features, base.out_features) for name, base in bases.items()}
    found = {name: (update.down.shape[1], update.up.shape[0]) for name, update in updates.items()}
    strange = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if strange:
        raise BackboneError(
            f"the adapter was made for another text encoder: {strange[0]} is missing, unexpected or of another size "
            f"(and {len(strange) - 1} more are); personalize it again on this backbone"
        )
    return [(base, updates[name]) for name, base in bases.items()]
