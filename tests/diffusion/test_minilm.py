"""The frozen sentence encoder as a text part of a backbone."""

from pathlib import Path

import pytest
import torch

from anosynth.diffusion.minilm import MAX_TOKENS, MiniLMTextEncoder, package_folder
from anosynth.errors import BackboneError

PROMPTS = ["a photo of rusty iron", "a photo of a red and blue striped plastic cap with a deep scratch", ""]


@pytest.fixture(scope="module")
def encoder() -> MiniLMTextEncoder:
    return MiniLMTextEncoder()


def test_padding_changes_no_real_token(encoder: MiniLMTextEncoder) -> None:
    padded = encoder.embed(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([encoder.tokenizer.encode(prompt).ids])
        with torch.no_grad():
            alone = encoder.model(input_ids=ids).last_hidden_state[0]
        assert torch.equal(padded.mask[row].nonzero().flatten(), torch.arange(len(alone)))
        assert (padded.states[row, : len(alone)] - alone).abs().max() < 1e-4
        assert (padded.states[row, len(alone) :] == 0).all()
    assert row == 2


def test_states_have_one_length_whatever_the_prompts(encoder: MiniLMTextEncoder) -> None:
    assert encoder.width == 384
    for prompts in (PROMPTS, PROMPTS[:1], ["word " * 200]):
        embedding = encoder.embed(prompts)
        assert embedding.states.shape == (len(prompts), MAX_TOKENS, 384)
        assert embedding.mask is not None
        assert embedding.mask.shape == (len(prompts), MAX_TOKENS)
    assert embedding.mask.all()


def test_sentences_of_one_meaning_lie_closer_than_others(encoder: MiniLMTextEncoder) -> None:
    embedding = encoder.embed(["a photo of rusty iron", "a picture of corroded metal", "a photo of green grass"])
    counts = embedding.mask.sum(dim=1, keepdim=True)
    mean = torch.nn.functional.normalize(embedding.states.sum(dim=1) / counts, dim=1)
    assert mean[0] @ mean[1] > mean[0] @ mean[2] + 0.2


def test_a_prompt_with_an_unknown_piece_is_refused_and_the_empty_prompt_is_not(encoder: MiniLMTextEncoder) -> None:
    assert encoder.embed(["", "a photo of Größe M8×20"]).mask.sum(dim=1)[0] == 2
    names = ("①", "ᚠᚢ", "٣", "螺母")
    for prompt, name in [(template.format(name), name) for name in names for template in ("{}", "a {} washer")]:
        with pytest.raises(BackboneError, match=f"does not know '{name[0]}.*in the prompt '{prompt}'; write the name"):
            encoder.embed(["a photo of a washer", prompt])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((package_folder() / "config.json").read_bytes())
    with pytest.raises(BackboneError, match=r"model\.safetensors is missing; reinstall"):
        MiniLMTextEncoder(tmp_path)
