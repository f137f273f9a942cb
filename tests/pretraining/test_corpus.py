"""The training corpus: deterministic, resumable, truthfully captioned, and none of it from what is held out."""

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

from anosynth.pretraining import corpus, fields, materials, rendering
from anosynth.pretraining.corpus import CorpusSpec, open_corpus, picture, render_pieces
from anosynth.pretraining.evaluate import read_prompts
from anosynth.pretraining.rendering import DAMAGE, DAMAGE_WORDS, MATERIALS, OBJECTS, caption, render
from anosynth.sources.procedural.demo import CATEGORIES

SPEC = CorpusSpec(seed=3, num_images=400, size_px=64, damage_ratio=0.2)
HELD_OUT_WORDS = ("cast", "brushed", "wood", "fabric", "leather", "tile", "washer", "pill", "tablet")


def test_demo_categories_are_no_subjects_and_no_words_of_the_corpus() -> None:
    subjects = {*MATERIALS, *OBJECTS}
    assert not subjects & set(CATEGORIES)
    seen = 0
    for subject in sorted(subjects):
        for index in range(4):
            _, words = render(np.random.default_rng(index), 64, subject=subject, damage=None)
            assert not set(HELD_OUT_WORDS) & set(words.split()), words
            seen += 1
    assert seen == 4 * len(subjects) > 200


def test_the_corpus_is_made_of_nothing_but_numbers() -> None:
    allowed = {"numpy", "scipy", "PIL", "anosynth"}
    standard = {"__future__", "colorsys", "collections", "dataclasses", "json", "os", "pathlib"}
    checked = 0
    for module in (corpus, fields, materials, rendering):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in allowed | standard, name
                assert not name.startswith("anosynth.sources"), "the demo parts and real images are held out"
                checked += 1
        assert "Image.open" not in inspect.getsource(module)
    assert checked > 15


def test_a_picture_depends_on_its_index_alone() -> None:
    first, words, subject = picture(SPEC, 5)
    again, same_words, _ = picture(CorpusSpec(seed=3, num_images=800, size_px=64, damage_ratio=0.2), 5)
    assert np.array_equal(first, again)
    assert words == same_words
    assert subject in {*MATERIALS, *OBJECTS}
    assert not np.array_equal(first, picture(SPEC, 6)[0])


def test_every_subject_renders_a_picture_with_contrast_and_damage_changes_it() -> None:
    for subject in (*MATERIALS, *OBJECTS):
        image, words = render(np.random.default_rng(1), 64, subject=subject, damage=None)
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.uint8
        assert image.std() > 1.5, words
    for damage in DAMAGE:
        plain = render(np.random.default_rng(2), 64, subject="painted_sheet", damage=None)[0]
        hurt = render(np.random.default_rng(2), 64, subject="painted_sheet", damage=damage)[0]
        assert not np.array_equal(plain, hurt)
    assert len(MATERIALS) + len(OBJECTS) >= 60


def test_captions_say_normal_only_of_the_undamaged() -> None:
    rng = np.random.default_rng(0)
    words = [caption(rng, "rusty iron", "scratch") for _ in range(60)]
    assert all(any(phrase in line for phrase in DAMAGE_WORDS["scratch"]) for line in words)
    assert not any("normal" in line for line in words)
    sound = [caption(rng, "rusty iron", None) for _ in range(60)]
    assert 2 < sum("normal" in line for line in sound) < 30


def test_the_prompts_it_is_judged_by_and_those_it_is_tuned_by_are_twenty_known_materials_each() -> None:
    judged, tuned = read_prompts("eval"), read_prompts("dev")
    assert len(judged) == len(tuned) == 20
    assert not set(judged) & set(tuned)
    assert set(judged) | set(tuned) <= set(MATERIALS)


def test_rendering_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PIECE_ROWS", 4)
    spec = CorpusSpec(seed=3, num_images=12, size_px=64, damage_ratio=0.2)
    pieces = render_pieces(spec, tmp_path, part=0, parts=2)
    assert next(pieces) == 0
    assert len(open_corpus(spec, tmp_path)) == 4
    assert sorted([*pieces, *render_pieces(spec, tmp_path, part=1, parts=2)]) == [1, 2]
    assert list(render_pieces(spec, tmp_path)) == []
    whole = open_corpus(spec, tmp_path)
    assert len(whole) == len(whole.captions) == len(whole.subjects) == 12
    for index in (0, 5, 11):
        image, words, subject = picture(spec, index)
        assert np.array_equal(whole.image(index), image)
        assert (whole.captions[index], whole.subjects[index]) == (words, subject)


def test_a_corpus_that_does_not_fill_its_pieces_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 400"):
        CorpusSpec(seed=3, num_images=401, size_px=64, damage_ratio=0.2)
