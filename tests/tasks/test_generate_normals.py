"""The stage that makes the normal pool, in a folder of its own."""

from pathlib import Path

import pytest

from anosynth.diffusion.adapters import read_adapter
from anosynth.errors import BackboneError
from anosynth.layout import Layout
from anosynth.params import Params, ToyBackbone
from anosynth.shards.manifest import read_manifest
from anosynth.shards.read import read_samples, verify_folder
from anosynth.shards.store import ShardStore
from anosynth.sources.lock import read_lock
from tasks import personalize_normals
from tasks.generate_normals import run
from tests.tasks.shots import CATEGORY, arguments, with_shots


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, Params]:
    layout, params = with_shots(tmp_path_factory.mktemp("generate") / "project")
    personalize_normals.run(layout=layout, **arguments(personalize_normals.run, params))  # type: ignore[arg-type]
    return layout, params


def generate(layout: Layout, params: Params, only: slice | None = None) -> None:
    run(layout=layout, only=only, **arguments(run, params))  # type: ignore[arg-type]


def shards(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_slice_fills_the_store_and_the_rest_seals_the_pool(
    project: tuple[Layout, Params], capsys: pytest.CaptureFixture[str]
) -> None:
    layout, params = project
    generate(layout, params, slice(1, 2))
    assert "1 shards of washer are in the store (1 made now)" in capsys.readouterr().out
    assert not layout.normals(CATEGORY).exists()
    assert len(ShardStore(layout.store_url()).fingerprints()) == 1
    generate(layout, params)
    printed = capsys.readouterr().out
    assert "6 normals of washer in 2 shards (1 made now)" in printed
    assert printed.count("\n") == 1
    folder = layout.normals(CATEGORY)
    assert verify_folder(folder) == []
    manifest = read_manifest(folder)
    adapter = read_adapter(layout.normal_adapter(CATEGORY))
    assert (manifest.rows, manifest.method) == (6, "personalized")
    assert manifest.upstream["adapter"] == adapter.digest
    found = list(read_samples(folder))
    assert [sample.spec.index for sample in found] == list(range(6))
    shot_ids = tuple(shot.record.sha256 for shot in read_lock(layout.shots(CATEGORY)).normal)
    for sample in found:
        assert sample.image.shape == (params.image.size_px, params.image.size_px, 3)
        assert sample.provenance.shot_ids == shot_ids
        assert sample.provenance.adapter == adapter.digest
        assert sample.provenance.parent_id in (None, *shot_ids)
    before = shards(folder)
    generate(layout, params)
    assert "(0 made now)" in capsys.readouterr().out
    assert shards(folder) == before


def test_shards_made_apart_are_those_made_at_once(project: tuple[Layout, Params], tmp_path: Path) -> None:
    """Another store stands for another machine, or for a run that was killed before its second shard."""
    layout, params = project
    generate(layout, params)
    whole = shards(layout.normals(CATEGORY))
    elsewhere = Layout(layout.root, str(tmp_path / "store"))
    for part in (slice(1, 2), slice(0, 1)):
        generate(elsewhere, params, part)
    generate(elsewhere, params)
    assert shards(layout.normals(CATEGORY)) == whole


def test_a_larger_pool_keeps_the_full_shards_of_a_smaller_one(
    project: tuple[Layout, Params], capsys: pytest.CaptureFixture[str]
) -> None:
    layout, params = project
    generate(layout, params)
    small = shards(layout.normals(CATEGORY))
    capsys.readouterr()
    wanted = params.generate_normals.model_copy(update={"n": 8})
    generate(layout, params.model_copy(update={"generate_normals": wanted}))
    assert "8 normals of washer in 3 shards (1 made now)" in capsys.readouterr().out
    large = shards(layout.normals(CATEGORY))
    kept = {name for name in small if name.endswith(".parquet") and large[name] == small[name]}
    assert kept == {"normals-00000.parquet", "normals-00001.parquet"}


def test_an_adapter_for_another_backbone_stops_it(project: tuple[Layout, Params]) -> None:
    layout, params = project
    other = params.model_copy(update={"backbone": ToyBackbone(kind="toy", seed=9)})
    with pytest.raises(BackboneError, match=r"the adapter was trained on the backbone .* and this one is"):
        generate(layout, other)


def test_without_an_adapter_it_says_which_stage_to_run(tmp_path: Path, project: tuple[Layout, Params]) -> None:
    bare, params = with_shots(tmp_path / "bare")
    with pytest.raises(BackboneError, match=r"adapter\.safetensors is missing; run the stage that trains"):
        generate(bare, params)
