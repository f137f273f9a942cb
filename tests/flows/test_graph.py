"""The flow reads DVC's graph and cuts pools into parts; it repeats neither."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from anosynth.errors import DataError, ParamsError
from anosynth.params import Params, parse_params
from flows.graph import Stage, is_sliceable, parts, read_stages
from tests.toy import toy_params

PAIRS = ("generate_pairs@washer-scratch-cutpaste", "generate_pairs@washer-scratch-perlin")


def test_every_stage_comes_after_what_it_reads(small_project: Path) -> None:
    stages = read_stages(small_project)
    assert stages[0].name == "index@washer"
    assert {stage.name: stage.upstream for stage in stages} == {
        "index@washer": (),
        PAIRS[0]: ("index@washer",),
        PAIRS[1]: ("index@washer",),
        "report": PAIRS,
    }
    seen: set[str] = set()
    for stage in stages:
        assert seen.issuperset(stage.upstream)
        seen.add(stage.name)
    assert len(seen) == 4


def test_a_stage_knows_its_command_and_its_task(small_project: Path) -> None:
    stage = next(stage for stage in read_stages(small_project) if stage.name == PAIRS[1])
    assert stage.task == "generate_pairs"
    assert stage.command == (
        "python", "tasks/generate_pairs.py", "--category", "washer", "--defect", "scratch", "--method", "perlin",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (["index"], {"index@washer"}),
        ([PAIRS[1]], {"index@washer", PAIRS[1]}),
        (["generate_pairs"], {"index@washer", *PAIRS}),
        (["report", "index@washer"], {"index@washer", *PAIRS, "report"}),
    ],
)
def test_targets_bring_what_they_need_and_no_more(small_project: Path, targets: list[str], names: set[str]) -> None:
    assert {stage.name for stage in read_stages(small_project, targets)} == names


def test_a_target_that_is_no_stage_is_refused(small_project: Path) -> None:
    with pytest.raises(ParamsError, match=r"target 'reprot' is no stage of dvc\.yaml; there: generate_pairs@washer"):
        read_stages(small_project, ["reprot"])


def test_a_folder_without_a_readable_graph_is_refused(small_project: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="DVC cannot read the graph"):
        read_stages(tmp_path / "empty")
    (small_project / "dvc.yaml").write_text("stages: {index: {cmd: '${nowhere}'}}\n", encoding="utf-8")
    with pytest.raises(DataError, match="DVC cannot read the graph"):
        read_stages(small_project)


def test_only_a_task_that_takes_a_part_is_sliceable(small_project: Path) -> None:
    assert is_sliceable("generate_pairs", small_project)
    assert not is_sliceable("index", small_project)
    assert not is_sliceable("report", small_project)


@given(n=st.integers(1, 300), rows=st.integers(1, 64), slices=st.integers(1, 20))
def test_parts_cover_every_shard_once_and_are_nearly_equal(n: int, rows: int, slices: int) -> None:
    params = parse_params(toy_params({"generate_pairs": {"n": n, "shard_rows": rows}}))
    cut = parts(Stage(PAIRS[0], (), ()), params, slices=slices)
    num_shards = len(range(0, n, rows))
    if min(slices, num_shards) == 1:
        assert cut == ()
        return
    ranges = [range(*map(int, part.split(":"))) for part in cut]
    assert [shard for one in ranges for shard in one] == list(range(num_shards))
    assert len(ranges) == min(slices, num_shards)
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_every_sliceable_task_of_the_project_says_how_many_shards_it_has(repository: Path) -> None:
    tasks = list(yaml.safe_load((repository / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    sliceable = [name for name in tasks if is_sliceable(name, repository)]
    assert {"generate_normals", "generate_pairs"} <= set(sliceable)
    for name in sliceable:
        section = Params.model_fields[name].annotation
        assert section is not None
        assert {"n", "shard_rows"} <= set(section.model_fields)


def test_the_deployment_names_the_flow_and_its_parameters(repository: Path) -> None:
    from flows.pipeline import pipeline

    described = yaml.safe_load((repository / "prefect.yaml").read_text(encoding="utf-8"))
    (deployment,) = described["deployments"]
    assert deployment["entrypoint"] == "flows/pipeline.py:pipeline"
    assert set(deployment["parameters"]) == set(pipeline.parameters.properties)
    assert f"{pipeline.name}/{deployment['name']}" == "anosynth/pipeline"
