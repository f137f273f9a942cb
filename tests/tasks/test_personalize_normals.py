"""The stage that trains the anomaly-free generator, in a folder of its own."""

from pathlib import Path

import pytest
import torch

from anosynth.diffusion.adapters import read_adapter
from anosynth.diffusion.latent import backbone_identity
from anosynth.errors import BackboneError, DataError
from anosynth.layout import Layout
from anosynth.params import Params, PretrainedBackbone
from tasks.personalize_normals import run
from tests.tasks.shots import CATEGORY, arguments, with_shots


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, Params]:
    return with_shots(tmp_path_factory.mktemp("personalize") / "project")


def test_an_adapter_of_the_shots_is_written_and_found_again(
    project: tuple[Layout, Params], capsys: pytest.CaptureFixture[str]
) -> None:
    layout, params = project
    run(layout=layout, **arguments(run, params))
    adapter = read_adapter(layout.normal_adapter(CATEGORY))
    assert adapter.backbone == backbone_identity(params.backbone)
    assert adapter.rank == params.personalize_normals.rank
    assert len(list(adapter.facts["shot_ids"])) == params.select_shots.normal  # type: ignore[call-overload]
    assert torch.get_num_threads() == params.compute.threads
    first = capsys.readouterr().out
    assert first.count("\n") == 1
    assert f"4 steps on {params.select_shots.normal} shots" in first
    files = {file.name: file.read_bytes() for file in layout.normal_adapter(CATEGORY).iterdir()}
    assert sorted(files) == ["adapter.json", "adapter.safetensors"]
    for name in files:
        (layout.normal_adapter(CATEGORY) / name).unlink()
    run(layout=layout, **arguments(run, params))
    assert "found in the store" in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in layout.normal_adapter(CATEGORY).iterdir()} == files


def test_a_backbone_folder_that_is_not_there_stops_it(project: tuple[Layout, Params]) -> None:
    layout, params = project
    given = arguments(run, params) | {"backbone": PretrainedBackbone(kind="pretrained", path="weights/sd15/")}
    with pytest.raises(BackboneError, match=r"the folder .*weights/sd15 does not exist"):
        run(layout=layout, **given)


def test_without_chosen_shots_it_says_which_stage_to_run(project: tuple[Layout, Params], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="shots"):
        run(layout=Layout(tmp_path), **arguments(run, project[1]))
