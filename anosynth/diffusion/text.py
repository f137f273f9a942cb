"""From prompts to what cross-attention reads: the seam every text encoder fits, and CLIP's."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.models.clip.modeling_clip import CLIPAttention

from anosynth.errors import BackboneError

logger = logging.getLogger(__name__)

PROBE = "a photo of normal steel washer"


@dataclass(frozen=True, eq=False)
class TextEmbedding:
    """Token states of B prompts.

    Attributes:
        states: [B, L, d].
        mask: bool [B, L], True where a token is real; None if the network was trained to read the padding too (CLIP).
    """

    states: Tensor
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def rows(self, indices: Sequence[int]) -> TextEmbedding:
        """The prompts with these indices, in this order; an index may stand several times."""
        at = torch.tensor(list(indices), dtype=torch.long, device=self.states.device)
        return TextEmbedding(self.states[at], None if self.mask is None else self.mask[at])

    def followed_by(self, other: TextEmbedding) -> TextEmbedding:
        """Both, one after the other; they come from the same encoder."""
        if self.mask is None or other.mask is None:
            return TextEmbedding(torch.cat([self.states, other.states]))
        return TextEmbedding(torch.cat([self.states, other.states]), torch.cat([self.mask, other.mask]))


class TextEncoder(Protocol):
    """What a backbone needs of its text part."""

    @property
    def width(self) -> int:
        """D, the size of a token state; the U-Net's cross_attention_dim."""
        ...

    def embed(self, prompts: Sequence[str]) -> TextEmbedding:
        """Token states of each prompt, [B, L, d] with L the same in every call, and the mask if padding is hidden.

        The weights are frozen; gradients reach whatever else is trainable in it, unless the caller switched them off.

        Raises:
            BackboneError: if a prompt holds tokens unknown to the vocabulary.
        """
        ...

    def attention_projections(self) -> Mapping[str, nn.Linear]:
        """The maps q, k, v and out of every self-attention layer, by `<number of the layer>.<map>`, in their order."""
        ...

    def move(self, *, device: torch.device, dtype: torch.dtype) -> None:
        """Take the weights to a device and number format, in place."""
        ...


class ClipText:
    """CLIP's text transformer as Stable Diffusion 1.x uses it: all positions, padding included, no mask.

    Attributes:
        tokenizer: byte-level BPE, lower case; the sequence is start, tokens, end, padding.
        model: frozen; its last hidden state (after the final LayerNorm) is what the U-Net attends to.
    """

    def __init__(self, tokenizer: CLIPTokenizer, model: CLIPTextModel) -> None:
        self.tokenizer = tokenizer
        self.model = model.eval().requires_grad_(False)
        self.length = int(model.config.max_position_embeddings)
        self.token_ids([PROBE])

    @property
    def width(self) -> int:
        """See `TextEncoder.width`."""
        return int(self.model.config.hidden_size)

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """Token ids [B, length], padded and cut to the model's positions (77 in CLIP).

        A tokenizer opened with wrong files can map every piece of every prompt to its unknown token without a word,
        so the pieces are looked at.

        Raises:
            BackboneError: if a piece of a prompt is unknown to the vocabulary.
        """
        for prompt in prompts:
            pieces = self.tokenizer(prompt, add_special_tokens=False).input_ids
            unknown = sum(piece == self.tokenizer.unk_token_id for piece in pieces)
            if unknown:
                raise BackboneError(
                    f"the tokenizer knows {len(pieces) - unknown} of {len(pieces)} pieces of the prompt {prompt!r}; "
                    "its vocabulary is damaged or does not belong to this text encoder"
                )
            if len(pieces) > self.length - 2:
                logger.warning(
                    "the prompt %r has %d pieces; the last %d are cut off",
                    prompt,
                    len(pieces),
                    len(pieces) - self.length + 2,
                )
        ids: Tensor = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).input_ids
        if int(ids.max()) >= self.model.config.vocab_size:
            raise BackboneError(
                f"the tokenizer gives token {int(ids.max())}, but the text encoder knows "
                f"{self.model.config.vocab_size}; tokenizer and text_encoder do not belong together"
            )
        return ids

    def embed(self, prompts: Sequence[str]) -> TextEmbedding:
        """See `TextEncoder.embed`."""
        return TextEmbedding(self.model(self.token_ids(prompts).to(self.model.device)).last_hidden_state)

    def attention_projections(self) -> dict[str, nn.Linear]:
        """See `TextEncoder.attention_projections`."""
        layers = [module for module in self.model.modules() if isinstance(module, CLIPAttention)]
        return {
            f"{number}.{name}": base
            for number, layer in enumerate(layers)
            for name, base in (("q", layer.q_proj), ("k", layer.k_proj), ("v", layer.v_proj), ("out", layer.out_proj))
        }

    def move(self, *, device: torch.device, dtype: torch.dtype) -> None:
        """See `TextEncoder.move`."""
        self.model.to(device=device, dtype=dtype)
