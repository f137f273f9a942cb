"""The training corpus: deterministic, resumable, truthfully captioned, and none of it from what is held out."""

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

from anosynth.params import ProceduralSource, load_params
from anosynth.pretraining import corpus, fields, materials, rendering
from anosynth.pretraining.corpus import CorpusSpec, open_corpus, picture, render_corpus, render_pieces
from anosynth.pretraining.evaluate import read_prompts
from anosynth.pretraining.recipe import load_recipe
from anosynth.pretraining.rendering import DAMAGE, DAMAGE_WORDS, MATERIALS, OBJECTS, caption, render
from anosynth.seeding import seed_for
from anosynth.sources.procedural.demo import CATEGORIES
from anosynth.sources.procedural.listing import items
from tests.contracts.test_stages import closure

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
    standard = {
        "__future__",
        "colorsys",
        "collections",
        "copy",
        "dataclasses",
        "json",
        "multiprocessing",
        "os",
        "pathlib",
    }
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


def test_no_module_of_the_corpus_reaches_the_demo_parts_and_their_ranges() -> None:
    reached: set[str] = set()
    for module in (corpus, fields, materials, rendering):
        reached |= closure(module.__name__)
    assert {"anosynth.pretraining.rendering", "anosynth.pretraining.fields", "anosynth.seeding"} <= reached
    assert not {name for name in reached if name.startswith("anosynth.sources")}
    assert "anosynth.sources.procedural.ranges" in closure("anosynth.sources.procedural.demo")


def test_no_picture_shares_a_seed_with_a_picture_of_the_demo_parts(repository: Path) -> None:
    recipe, params = load_recipe(repository / "pretrain.yaml"), load_params(repository / "params.yaml")
    assert isinstance(params.source, ProceduralSource)
    most = ProceduralSource(
        kind="procedural",
        num_train_normal=max(100, params.source.num_train_normal),
        num_test_normal=max(100, params.source.num_test_normal),
        num_train_anomalous=max(100, params.source.num_train_anomalous),
        num_test_anomalous=max(100, params.source.num_test_anomalous),
    )
    roots = {recipe.seed, params.seed, *range(4)}  # the default run, tests/toy (the same seed), other tests
    corpus_seeds = {seed_for(recipe.seed, "pretrain_corpus", index) for index in range(recipe.corpus.num_images)}
    first, *_ = items(most, category="washer", defects=(), seed=params.seed)
    assert first.read_image.args[2] == seed_for(params.seed, "procedural", "washer", "train", "good", 0)
    pictures = {
        (category, item.read_image.args[2])
        for root in roots
        for category in CATEGORIES
        for item in items(most, category=category, defects=(), seed=root)
    }
    # What a renderer draws from is addressed again below the seed of its picture.
    drawn = {
        seed_for(seed, "procedural", category, purpose)
        for category, seed in pictures
        for purpose in ("material", "light", "camera", "pose", "shape", "sensor")
    }
    assert len(corpus_seeds) == recipe.corpus.num_images == 24000
    assert len(pictures) >= len(roots) * len(CATEGORIES) * 400
    assert not corpus_seeds & {seed for _, seed in pictures}
    assert not corpus_seeds & drawn


def test_a_picture_depends_on_its_index_alone() -> None:
    first, words, subject = picture(SPEC, 5)
    again, same_words, _ = picture(CorpusSpec(seed=3, num_images=800, size_px=64, damage_ratio=0.2), 5)
    assert np.array_equal(first, again)
    assert words == same_words
    assert subject in {*MATERIALS, *OBJECTS}
    assert not np.array_equal(first, picture(SPEC, 6)[0])


def test_every_subject_renders_a_picture_with_contrast() -> None:
    for subject in (*MATERIALS, *OBJECTS):
        image, words = render(np.random.default_rng(1), 64, subject=subject, damage=None)
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.uint8
        assert image.std() > 1.5, words
    assert len(MATERIALS) + len(OBJECTS) >= 60


def _names(words: str, damage: str) -> bool:
    return any(phrase in words for phrase in DAMAGE_WORDS[damage])


def _changed_px(damage: str, subject: str, index: int) -> tuple[int, str]:
    """Pixels of a damaged picture that differ from the sound one by more than exposure does, and the caption."""
    plain, _ = render(np.random.default_rng(index), 160, subject=subject, damage=None)
    hurt, words = render(np.random.default_rng(index), 160, subject=subject, damage=damage)
    return int((np.abs(hurt.astype(int) - plain).max(axis=2) > 12).sum()), words


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damage_is_seen_on_the_object_where_the_caption_names_it(damage: str) -> None:
    named = 0
    for subject in OBJECTS:
        changed, words = _changed_px(damage, subject, 1)
        named += _names(words, damage)
        assert changed >= 25 if _names(words, damage) else changed == 0, (words, changed)
    assert named >= 7


def test_a_damage_that_cannot_be_seen_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "DAMAGE", dict.fromkeys(DAMAGE, lambda rng, surface: surface))
    for damage, subject in (("scratch", "gear"), ("stain", "painted_sheet")):
        changed, words = _changed_px(damage, subject, 1)
        assert changed == 0
        assert not _names(words, damage)


def test_an_object_is_called_by_the_metal_that_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_OBJECT_STUFF", {"coin": ("hammered_copper",)})
    drawn = []
    hammered = MATERIALS["hammered_copper"]

    def recorded(rng: np.random.Generator, view: fields.View) -> materials.Surface:
        drawn.append(hammered(rng, view))
        return drawn[-1]

    monkeypatch.setattr(rendering, "MATERIALS", {**MATERIALS, "hammered_copper": recorded})
    seen = set()
    for index in range(12):
        _, words = render(np.random.default_rng(index), 64, subject="coin", damage=None)
        red, green, blue = drawn[-1].albedo.mean(axis=(0, 1))
        metal = "copper" if green < (red + blue) / 2 else "brass"
        assert f"{metal} coin" in words, words
        seen.add(metal)
    assert seen == {"copper", "brass"}


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


def test_several_processes_render_the_pictures_of_one(tmp_path: Path) -> None:
    spec = CorpusSpec(seed=3, num_images=800, size_px=16, damage_ratio=0.2)
    render_corpus(spec, tmp_path, processes=3)
    whole = open_corpus(spec, tmp_path)
    assert len(whole) == 800
    for index in (0, 399, 400, 799):
        image, words, _ = picture(spec, index)
        assert np.array_equal(whole.image(index), image)
        assert whole.captions[index] == words
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(before) == 4
    render_corpus(spec, tmp_path, processes=3)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_corpus_that_does_not_fill_its_pieces_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 400"):
        CorpusSpec(seed=3, num_images=401, size_px=64, damage_ratio=0.2)
