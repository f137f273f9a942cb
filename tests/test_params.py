"""params.yaml is refused as a whole, with every error and its path, or accepted as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anosynth.errors import ParamsError
from anosynth.params import (
    EmbeddedFeatures,
    Params,
    PatchCoreSpec,
    PerlinMethod,
    ProceduralSource,
    load_params,
    parse_params,
)
from tests.toy import toy_params, write_params


def refused(overrides: dict[str, object]) -> list[str]:
    """The lines of the error that the toy params get with these overrides, without the head line."""
    with pytest.raises(ParamsError) as caught:
        parse_params(toy_params(overrides))
    head, *lines = str(caught.value).splitlines()
    assert head == f"params.yaml has {len(lines)} error{'s' * (len(lines) > 1)}:"
    return [line.removeprefix("  ") for line in lines]


def test_the_committed_file_is_right(repository: Path) -> None:
    params = load_params(repository / "params.yaml")
    assert isinstance(params.source, ProceduralSource)
    assert isinstance(params.features, EmbeddedFeatures)
    assert isinstance(params.methods["perlin"], PerlinMethod)
    assert isinstance(params.detectors["patchcore"], PatchCoreSpec)


def test_the_committed_file_meets_the_floors_of_the_main_run(repository: Path) -> None:
    params = load_params(repository / "params.yaml")
    assert isinstance(params.source, ProceduralSource)
    assert len(params.grid.categories) >= 1
    assert params.image.size_px >= 128
    assert params.source.size_px >= 128
    assert params.select_shots.normal >= 8
    assert params.select_shots.anomalous >= 4
    assert params.generate_normals.n >= 48
    assert params.generate_pairs.n >= 64
    assert len({arm for key in params.grid.detectors for arm in params.detectors[key].arms}) >= 3
    assert len(params.fit_detector.seeds) >= 2
    assert params.source.num_test_normal + params.source.num_test_anomalous >= 40


def test_params_are_frozen(repository: Path) -> None:
    params = load_params(repository / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        params.seed = 3
    with pytest.raises(ValueError, match="frozen"):
        params.image.size_px = 256


def test_all_errors_come_at_once_with_their_paths() -> None:
    lines = refused(
        {
            "screan": {"min_mask_ratio": 0.1},
            "compute": {"threads": 0, "dtype": "float16"},
            "generate_normals": {"strength": [0.5, 3.0], "stepps": 4},
            "detectors": {"unet": {"kind": "unet", "arms": ["real"], "steps": 0}},
            "source": {"kind": "mvtec", "root": "", "licence": "x"},
        }
    )
    found = {line.split(":")[0] for line in lines}
    assert {
        "screan", "compute.threads", "compute.dtype", "generate_normals.strength.1", "generate_normals.stepps",
        "detectors.unet.steps", "source.root",
    } <= found  # fmt: skip
    assert all(line.split(": ")[1].startswith(("is ", "unknown key", "missing")) for line in lines)


def test_a_path_is_the_yaml_path_without_the_kind_of_a_union() -> None:
    (line,) = refused({"methods": {"perlin": {"kind": "perlin", "threshold": 1.5}}})
    assert line == "methods.perlin.threshold: is 1.5; Input should be less than 1"


def test_a_missing_section_is_named() -> None:
    raw = toy_params()
    del raw["screen"]
    with pytest.raises(ParamsError, match="screen: missing; it must be given"):
        parse_params(raw)


@pytest.mark.parametrize(
    ("methods", "line"),
    [
        ({"perlin": {}}, "methods.perlin: has no kind; it must say which one it is, see docs/params.md"),
        ({"perlin": {"kind": "perlim"}}, "methods.perlin.kind: is 'perlim'; allowed are 'perlin', 'cutpaste'"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(methods: dict[str, object], line: str) -> None:
    (found,) = refused({"methods": methods})
    assert found.startswith(line)


HOSTILE = [
    "x; touch pwned", "$(touch pwned)", "`id`", "a b", "../../etc", "a/b", "Upper", "_x", "", "ä", "a-b", "a\nb", "a\n",
    "x" * 65, "--root", "a'b", 'a"b', "a\\b", "*", "${seed}", "a.b", "a@b", "~",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_no_slug_is_refused_wherever_it_stands(name: str) -> None:
    base = toy_params()
    pair = {"category": "washer", "defect": "scratch", "method": "perlin"}
    washer = base["objects"]["washer"]  # type: ignore[index]
    places: list[tuple[str, dict[str, object]]] = [
        ("grid.categories.1", {"grid": {"categories": ["washer", name]}, "objects": {name: washer}}),
        ("grid.detectors.0", {"grid": {"detectors": [name]}}),
        ("grid.pairs.p.defect", {"grid": {"pairs": {"p": {**pair, "defect": name}}}}),
        ("grid.pairs.p.method", {"grid": {"pairs": {"p": {**pair, "method": name}}}}),
        ("grid.pairs.p.category", {"grid": {"pairs": {"p": {**pair, "category": name}}}}),
        ("detectors.unet.arms.0", {"detectors": {"unet": {"kind": "unet", "steps": 1, "arms": [name]}}}),
        (f"methods.{name}", {"methods": {name: {"kind": "perlin"}}}),
        (f"arms.{name}", {"arms": {name: {}}}),
        (f"objects.{name}", {"objects": {name: washer}}),
    ]
    for path, overrides in places:
        with pytest.raises(ParamsError) as caught:
            parse_params(toy_params(overrides))
        assert f"  {path}: " in str(caught.value)
        assert "a key is a slug" in str(caught.value)


def test_a_pair_has_no_other_options_and_the_name_of_its_fields() -> None:
    pair = {"category": "washer", "defect": "scratch", "method": "perlin"}
    (line,) = refused({"grid": {"pairs": {"washer-scratch-perlin": {**pair, "x; touch pwned": 1}}}})
    assert line.startswith("grid.pairs.washer-scratch-perlin.x; touch pwned: unknown key")
    (line,) = refused({"grid": {"pairs": {"x; touch pwned": pair}}})
    assert line == ("grid.pairs: the key 'x; touch pwned' must read 'washer-scratch-perlin', like its own fields")


def test_every_name_that_does_not_exist_is_reported() -> None:
    unet = {"kind": "unet", "steps": 1, "arms": ["real", "imagined"]}
    patchcore = {"kind": "patchcore", "arms": ["real"]}
    lines = refused(
        {
            "grid": {"detectors": ["unet", "oracle"]},
            "detectors": {"unet": unet, "patchcore": patchcore},
            "arms": {"real": {}, "odd": {"methods": ["gan"]}},
        }
    )
    assert lines == [
        "grid.detectors: 'oracle' is not in detectors; there: one_to_normal, patchcore, unet",
        "detectors.unet.arms: 'imagined' is not in arms; there: cutpaste, normals, odd, perlin, real",
        "arms.odd.methods: 'gan' is not in grid.pairs; there: cutpaste, perlin",
    ]


def test_the_projection_is_not_trained_on_the_categories_of_the_run() -> None:
    washer, disc = {"name": "steel washer"}, {"name": "disc", "folder": "washer"}
    for objects, key in (({"pill": {"name": "pill"}, "washer": washer}, "washer"), ({"disc": disc}, "disc")):
        (line,) = refused({"train_projection": {"objects": objects}})
        assert line == (
            f"train_projection.objects.{key}: is one of the run's own categories (grid.categories), and the projection "
            "must not learn from what it is used on; remove it"
        )
    # by the folder of the run's own category too, which goes by another name
    (line,) = refused(
        {"objects": {"washer": {**washer, "folder": "bolt"}}, "train_projection": {"objects": {"bolt": disc}}}
    )
    assert line.startswith("train_projection.objects.bolt: is one of the run's own categories")
    assert parse_params(toy_params({"train_projection": {"objects": {"pill": {"name": "pill"}}}}))


def test_an_auxiliary_set_is_a_source_whose_categories_are_named() -> None:
    visa = {"kind": "visa", "root": "visa", "licence": "CC-BY-4.0"}
    (line,) = refused({"train_projection": {"source": visa}})
    assert line == (
        "train_projection.objects: is {}; name the categories of train_projection.source that are trained on"
    )
    objects = {"candle": {"name": "candle"}}
    params = parse_params(toy_params({"train_projection": {"source": visa, "objects": objects}}))
    assert params.train_projection.source is not None
    assert params.train_projection.source.kind == "visa"
    raw = toy_params()
    del raw["train_projection"]  # files that were written before this section stay right
    assert parse_params(raw).train_projection.source is None


def test_not_every_shot_can_be_held_out() -> None:
    lines = refused({"personalize_normals": {"held_out": 4}, "select_shots": {"normal": 4}})
    assert lines == [
        "personalize_normals.held_out: 4 of 4 normal shots (select_shots.normal) would be kept out of training; "
        "allowed: 0 to 3"
    ]


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        ({"compute": {"threads": True}}, "compute.threads"),
        ({"compute": {"threads": "2"}}, "compute.threads"),
        ({"compute": {"threads": 2.0}}, "compute.threads"),
        ({"personalize_normals": {"lr": "0.1"}}, "personalize_normals.lr"),
        ({"personalize_normals": {"alpha": float("inf")}}, "personalize_normals.alpha"),
        ({"personalize_normals": {"alpha": float("nan")}}, "personalize_normals.alpha"),
        ({"arms": {"real": {"real_pairs": "yes"}}}, "arms.real.real_pairs"),
        ({"arms": {"real": {"real_pairs": 1}}}, "arms.real.real_pairs"),
        ({"seed": None}, "seed"),
        ({"seed": -1}, "seed"),
        ({"image": {"size_px": 129}}, "image.size_px"),
        ({"grid": {"categories": "washer"}}, "grid.categories"),
        ({"generate_normals": {"strength": [0.2]}}, "generate_normals.strength"),
    ],
)
def test_nothing_is_converted_or_rounded_into_a_value(overrides: dict[str, object], path: str) -> None:
    assert any(line.startswith(path) for line in refused(overrides))


def test_a_range_runs_from_low_to_high() -> None:
    (line,) = refused({"generate_normals": {"strength": [0.5, 0.2]}})
    assert line == "generate_normals.strength: [0.5, 0.2] is a range, low before high"


def test_a_name_stands_once_in_a_grid() -> None:
    assert refused({"grid": {"detectors": ["unet", "unet"]}}) == [
        "grid.detectors: a name stands twice in ['unet', 'unet']"
    ]


def test_lists_of_the_grid_keep_the_order_of_the_file() -> None:
    params = parse_params(toy_params())
    assert [pair.method for pair in params.grid.pair_keys("washer")] == ["perlin", "cutpaste"]
    assert params.grid.defects("washer") == ("scratch",)
    assert params.grid.pair_keys("nut") == ()


def test_numbers_with_an_exponent_are_numbers_as_they_are_for_dvc(tmp_path: Path) -> None:
    path = write_params(tmp_path, toy_params())
    text = path.read_text(encoding="utf-8")
    for written, value in (("1e-4", 1e-4), ("2.5E-3", 2.5e-3), (".5e0", 0.5)):
        path.write_text(text.replace("lr: 0.0001", f"lr: {written}"), encoding="utf-8")
        assert load_params(path).personalize_normals.lr == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "params.yaml is not readable YAML: the key 'seed' stands twice"),
        ("a: {b: 1, b: 2}\n", "params.yaml is not readable YAML: the key 'b' stands twice"),
        ("seed: [1\n", "params.yaml is not readable YAML: "),
        ("- seed\n", "params.yaml holds list, not a mapping of sections"),
        ("", "params.yaml holds NoneType, not a mapping of sections"),
        ("seed: !!python/object/apply:os.system [id]\n", "params.yaml is not readable YAML: "),
        ("7: {}\n", "params.yaml is not readable YAML: a key is not text; put it into quotes"),
        ("seed: 2026-11-21\n", "  seed: is '2026-11-21'; "),
    ],
)
def test_a_file_that_is_no_mapping_of_sections_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"params\.yaml does not exist; run the command in the project's folder"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParamsError, match="not readable YAML"):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(ParamsError, match="cannot be read"):
        load_params(tmp_path)


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=4)
KEYS = st.sampled_from([*Params.model_fields, "kind", "x"])


@given(
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
        max_leaves=10,
    )
)
def test_whatever_the_file_holds_the_answer_is_params_or_a_params_error(raw: object) -> None:
    with pytest.raises(ParamsError, match=r"^params\.yaml "):
        parse_params(raw)
