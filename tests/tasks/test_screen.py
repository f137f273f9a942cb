import shutil
from pathlib import Path

import pytest

from anosynth.errors import ShardError
from anosynth.layout import Layout
from anosynth.params import load_params
from anosynth.shards.read import read_rows, read_verdicts
from tasks import generate_pairs, screen
from tests.tasks.measured import call, change, make_measured


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny project with the control arms' pools; its normal pool is drawn."""
    root = make_measured(tmp_path_factory.mktemp("screen") / "project")
    for method in ("perlin", "cutpaste"):
        call(generate_pairs.run, root, category="washer", defect="scratch", method=method)
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "project"))


def test_every_sample_of_every_pool_gets_one_verdict(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = call(screen.run, project, category="washer")
    verdicts = read_verdicts(layout.verdicts("washer"))
    ids = []
    folders = [layout.normals("washer"), *(layout.pairs("washer", "scratch", one) for one in ("perlin", "cutpaste"))]
    for folder in folders:
        ids += read_rows(folder, ["sample_id"])["sample_id"].to_pylist()
    assert list(verdicts) == ids
    assert len(ids) == 18
    kept = sum(verdict.keep for verdict in verdicts.values())
    assert f"screen: {kept} of 18 samples of washer kept, refused: " in capsys.readouterr().out
    pairs = [verdict for name, verdict in verdicts.items() if name.startswith("pairs/")]
    assert all("shot_similarity" in verdict.measures and "mask_ratio" in verdict.measures for verdict in pairs)
    assert all("normal_distance" in verdicts[name].measures for name in ids[:6])
    assert sum(verdict.keep for verdict in pairs) >= 8


def test_two_runs_write_the_same_bytes_and_touch_no_pool(project: Path) -> None:
    layout = Layout(project)
    pools = sorted((project / "data").rglob("*.parquet"))
    before = {path: path.stat().st_mtime_ns for path in pools if "verdicts" not in path.parts}
    call(screen.run, project, category="washer")
    first = layout.verdicts("washer").read_bytes()
    call(screen.run, project, category="washer")
    assert layout.verdicts("washer").read_bytes() == first
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(before) >= 6


def test_limits_decide_and_reasons_are_counted(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(project, "screen", {"min_mask_ratio": 0.9, "max_mask_ratio": 1.0})
    layout = call(screen.run, project, category="washer")
    assert "12 tiny" in capsys.readouterr().out
    verdicts = read_verdicts(layout.verdicts("washer"))
    assert {v.reason for name, v in verdicts.items() if name.startswith("pairs/")} == {"tiny"}
    opened = {"min_mask_ratio": 0.0, "min_on_object": 0.0, "max_shot_similarity": 1.0, "max_normal_similarity": 1.0}
    change(project, "screen", {**opened, "max_duplicate_similarity": 1.0, "max_border_ratio": 1.0})
    layout = call(screen.run, project, category="washer")
    assert "screen: 18 of 18 samples of washer kept, refused: none" in capsys.readouterr().out


def test_a_missing_pool_is_named_and_old_verdicts_stay(project: Path) -> None:
    layout = call(screen.run, project, category="washer")
    before = layout.verdicts("washer").read_bytes()
    (layout.pairs("washer", "scratch", "cutpaste") / "manifest.json").unlink()
    with pytest.raises(ShardError, match="run: dvc repro generate_pairs@washer-scratch-cutpaste"):
        call(screen.run, project, category="washer")
    assert layout.verdicts("washer").read_bytes() == before
    assert load_params(layout.params()).grid.pair_keys("washer")[1].method == "cutpaste"
