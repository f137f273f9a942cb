"""From a `run` signature to a command line that refuses what it cannot fill."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from anosynth.errors import DataError, ParamsError, TemporaryError
from anosynth.layout import Layout
from anosynth.params import (
    ComputeParams,
    GeneratePairsParams,
    MethodSpec,
    PerlinMethod,
    load_params,
    parse_params,
)
from tasks._bind import Binding, bind, fill, main
from tests.toy import toy_params, write_params

CALLS: list[dict[str, object]] = []


def run(
    *,
    layout: Layout,
    category: str,
    defect: str,
    method: str,
    seed: int,
    compute: ComputeParams,
    personalize_normals__prompt: str,
    method_spec: MethodSpec,
    generate_pairs: GeneratePairsParams,
    only: slice | None = None,
) -> None:
    CALLS.append(dict(locals()))


ARGUMENTS = ["--category", "washer", "--defect", "scratch", "--method", "perlin"]


@pytest.fixture
def calls() -> list[dict[str, object]]:
    CALLS.clear()
    return CALLS


def test_a_signature_is_sorted_into_what_fills_it() -> None:
    binding = bind(run)
    assert binding == Binding(
        sections=("seed", "compute", "generate_pairs"),
        fields=("personalize_normals__prompt",),
        specs=("method_spec",),
        keys=("category", "defect", "method"),
        sliceable=True,
    )
    assert binding.declared() == {
        "seed", "compute", "generate_pairs", "personalize_normals.prompt", "methods.${item.method}",
    }  # fmt: skip


def positional(layout: Layout) -> None: ...


def with_default(*, layout: Layout, seed: int = 3) -> None: ...


def misspelt_section(*, layout: Layout, generate_pair: object) -> None: ...


def unknown_field(*, layout: Layout, personalize_normals__promt: str) -> None: ...


def field_of_no_section(*, layout: Layout, seed__prompt: str) -> None: ...


def unknown_spec(*, layout: Layout, colour: str, colour_spec: object) -> None: ...


def spec_without_key(*, layout: Layout, method_spec: MethodSpec) -> None: ...


def slice_that_must_be_given(*, layout: Layout, only: slice) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (positional, "'layout' must be keyword-only"),
        (with_default, "'seed' must not have a default"),
        (misspelt_section, "'generate_pair' is no section of params.yaml"),
        (unknown_field, "there is no personalize_normals.promt"),
        (field_of_no_section, "there is no seed.prompt"),
        (unknown_spec, "'colour' is no section"),
        (spec_without_key, "'method_spec' needs the key 'method' beside it"),
        (slice_that_must_be_given, "'only' must have the default None"),
    ],
)
def test_a_parameter_that_nothing_could_fill_is_a_bug(wrong: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        bind(wrong)  # type: ignore[arg-type]


def test_the_command_line_gives_a_stage_what_it_names(toy_project: Path, calls: list[dict[str, object]]) -> None:
    params = load_params(toy_project / "params.yaml")
    main(run, [*ARGUMENTS, "--root", str(toy_project), "--only", "1:3", "--store", "memory://s"])
    assert calls == [
        {
            "layout": Layout(toy_project, "memory://s"),
            "category": "washer",
            "defect": "scratch",
            "method": "perlin",
            "seed": params.seed,
            "compute": params.compute,
            "personalize_normals__prompt": params.personalize_normals.prompt,
            "method_spec": params.methods["perlin"],
            "generate_pairs": params.generate_pairs,
            "only": slice(1, 3),
        }
    ]
    assert isinstance(calls[0]["method_spec"], PerlinMethod)


def test_the_store_may_come_from_the_environment(
    toy_project: Path, calls: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOSYNTH_STORE", "memory://elsewhere")
    main(run, [*ARGUMENTS, "--root", str(toy_project)])
    assert calls[0]["layout"] == Layout(toy_project, "memory://elsewhere")
    assert calls[0]["only"] is None


@pytest.mark.parametrize(("text", "part"), [("0:8", slice(0, 8)), (":8", slice(0, 8)), ("4:", slice(4, None))])
def test_a_part_is_a_range_of_shards(toy_project: Path, calls: list[dict[str, object]], text: str, part: slice) -> None:
    main(run, [*ARGUMENTS, "--root", str(toy_project), "--only", text])
    assert calls[0]["only"] == part


@pytest.mark.parametrize("text", ["", ":", "3", "a:b", "-1:2", "3:3", "5:2", "1:2:3", "0.5:2"])
def test_a_part_that_is_no_range_is_refused(
    toy_project: Path, calls: list[dict[str, object]], capsys: pytest.CaptureFixture[str], text: str
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(run, [*ARGUMENTS, "--root", str(toy_project), f"--only={text}"])
    assert "argument --only" in capsys.readouterr().err
    assert not calls


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category": "nut"}, "--category nut: not in grid.categories of params.yaml; there: washer"),
        ({"method": "cutmix"}, "--method cutmix: not in methods of params.yaml; there: "),
        ({"defect": "dent"}, "washer-dent-perlin: not in grid.pairs of params.yaml; there: washer-scratch-perlin"),
    ],
)
def test_a_key_that_params_does_not_know_is_refused(change: dict[str, str], message: str) -> None:
    keys = {"category": "washer", "defect": "scratch", "method": "perlin", **change}
    with pytest.raises(ParamsError) as caught:
        fill(bind(run), parse_params(toy_params()), keys)
    assert str(caught.value).startswith(message)


def test_a_file_that_is_wrong_elsewhere_stops_every_stage(
    toy_project: Path, calls: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(toy_project, toy_params({"report": {"primary_metric": "accuracy"}, "screan": {}}))
    with pytest.raises(SystemExit, match=r"^2$"):
        main(run, [*ARGUMENTS, "--root", str(toy_project)])
    said = capsys.readouterr().err
    assert said.startswith("test_bind: params.yaml has 2 errors:\n")
    assert "  report.primary_metric: is 'accuracy'; " in said
    assert "  screan: unknown key" in said
    assert not calls


def data_trouble(*, layout: Layout) -> None:
    raise DataError("a.png: broken; replace it")


def passing_trouble(*, layout: Layout) -> None:
    raise TemporaryError("the store is away; run it again")


def full_disk(*, layout: Layout) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "shard.tmp")


def bug(*, layout: Layout) -> None:
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", "nowhere")


@pytest.mark.parametrize(
    ("stage", "code", "said"),
    [
        (data_trouble, 2, "test_bind: a.png: broken; replace it\n"),
        (passing_trouble, 75, "test_bind: the store is away; run it again\n"),
        (
            full_disk,
            2,
            "test_bind: the disk is full ([Errno 28] No space left on device: 'shard.tmp'); free some space ",
        ),
    ],
)
def test_trouble_ends_in_one_sentence_and_its_exit_code(
    toy_project: Path, capsys: pytest.CaptureFixture[str], stage: object, code: int, said: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(stage, ["--root", str(toy_project)])  # type: ignore[arg-type]
    assert caught.value.code == code
    assert caught.value.__cause__ is None
    found = capsys.readouterr().err
    assert found.startswith(said)
    assert found.count("\n") == 1


def test_a_bug_keeps_its_traceback(toy_project: Path) -> None:
    with pytest.raises(FileNotFoundError):
        main(bug, ["--root", str(toy_project)])


def test_help_ends_with_two_commands_that_parse(
    toy_project: Path, calls: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(run, ["--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m tasks.test_bind")
    examples = [line.split()[3:] for line in text.split("examples:")[1].splitlines() if line.strip()]
    assert len(examples) == 2
    for example in examples:
        main(run, [*example, "--root", str(toy_project)])
    assert [call["only"] for call in calls] == [None, slice(0, 4)]
