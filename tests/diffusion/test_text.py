"""CLIP's tokenizer and text encoder: real vocabulary, no silent garbage."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.text import ClipText, TextEmbedding
from anosynth.errors import BackboneError

START, END = "<|startoftext|>", "<|endoftext|>"
NUM_PIECES = 49408


@pytest.fixture(scope="module")
def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's pieces as open_clip ships them: 256 bytes, the same at a word's end, 48,894 merges, two marks."""
    spec = find_spec("open_clip")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    packed = Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : NUM_PIECES - 512 - 2 + 1]
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    assert len(pieces) == len(set(pieces)) == NUM_PIECES
    return {piece: index for index, piece in enumerate(pieces)}, merges


def text_model(num_pieces: int = NUM_PIECES) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=num_pieces,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=num_pieces - 2,
        eos_token_id=num_pieces - 1,
    )
    with torch.random.fork_rng(devices=[]):
        return CLIPTextModel(config)


def test_the_real_vocabulary_gives_the_published_token_numbers(
    vocabulary: tuple[dict[str, int], list[tuple[str, str]]],
) -> None:
    text = ClipText(CLIPTokenizer(vocab=vocabulary[0], merges=vocabulary[1]), text_model())
    ids = text.token_ids(["a photo of a cat", "A  Photo of a CAT", ""])
    assert ids.shape == (3, 77)
    assert ids[0].tolist() == [49406, 320, 1125, 539, 320, 2368] + [49407] * 71
    assert torch.equal(ids[0], ids[1])
    assert ids[2].tolist() == [49406] + [49407] * 76


def test_a_tokenizer_opened_by_its_old_argument_names_is_refused(
    vocabulary: tuple[dict[str, int], list[tuple[str, str]]], tmp_path: Path
) -> None:
    """It takes them in silence and maps every piece of every prompt to the unknown token."""
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("")
    broken = CLIPTokenizer(vocab_file=str(tmp_path / "vocab.json"), merges_file=str(tmp_path / "merges.txt"))
    with pytest.raises(BackboneError, match=r"knows 0 of \d+ pieces of the prompt"):
        ClipText(broken, text_model())


def test_a_tokenizer_of_another_text_encoder_is_refused(
    vocabulary: tuple[dict[str, int], list[tuple[str, str]]],
) -> None:
    with pytest.raises(BackboneError, match="the text encoder knows 600; tokenizer and text_encoder do not belong"):
        ClipText(CLIPTokenizer(vocab=vocabulary[0], merges=vocabulary[1]), text_model(600))


def test_states_of_a_prompt_do_not_depend_on_its_companions(backbone: LatentDiffusion) -> None:
    prompts = ["a photo of normal cable", "a photo of cable, scratched", ""]
    together = backbone.embed(prompts)
    assert together.states.shape == (3, 77, backbone.text.width)
    assert together.mask is None
    for index, prompt in enumerate(prompts):
        assert torch.allclose(together.states[index], backbone.embed([prompt]).states[0], atol=1e-5)
    assert not torch.allclose(together.states[0], together.states[1], atol=1e-2)


def test_a_prompt_that_is_too_long_is_cut_aloud(backbone: LatentDiffusion, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="anosynth.diffusion.text"):
        states = backbone.embed(["x" * 80, "y" * 75]).states
    assert states.shape == (2, 77, 32)
    said = [record.getMessage() for record in caplog.records if record.name == "anosynth.diffusion.text"]
    assert len(said) == 1
    assert said[0].endswith("x' has 80 pieces; the last 5 are cut off")


def test_rows_and_joins_keep_states_and_masks_together() -> None:
    states = torch.arange(12.0).reshape(3, 2, 2)
    mask = torch.tensor([[True, False], [True, True], [False, False]])
    picked = TextEmbedding(states, mask).rows([2, 0, 0])
    assert picked.states[:, 0, 0].tolist() == [8.0, 0.0, 0.0]
    assert picked.mask is not None
    assert picked.mask[:, 0].tolist() == [False, True, True]
    joined = picked.followed_by(TextEmbedding(states, mask))
    assert len(joined) == 6
    assert joined.mask is not None
    assert torch.equal(joined.mask[3:], mask)
    assert TextEmbedding(states).followed_by(TextEmbedding(states)).mask is None
