from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from anosynth.errors import DataError
from anosynth.layout import Layout
from tasks import evaluate, fit_detector, report
from tests.tasks.measured import call, change, make_measured


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_measured(tmp_path_factory.mktemp("report") / "project")
    change(root, "fit_detector", {"seeds": [0, 1]})
    for detector in ("patchcore", "unet"):
        call(fit_detector.run, root, category="washer", detector=detector)
        call(evaluate.run, root, category="washer", detector=detector)
    call(report.run, root)
    return root


@pytest.fixture
def project(measured: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured, tmp_path / "project"))


def test_the_report_names_every_detector_arm_pool_and_where_it_comes_from(measured: Path) -> None:
    text = (Layout(measured).report() / "report.md").read_text(encoding="utf-8")
    for part in (
        "| patchcore | real | 4 real normals |",
        "| patchcore | normals | 4 real normals, 5 synthetic normals |",
        "| unet | perlin |",
        "| scratch/cutpaste | 6 | 5 | 1 duplicate | CC0-1.0 |",
        "2 training seeds per arm",
        "**On washer there is insufficient data: 8 groups with 4 anomalous images",
        "| unet | perlin | insufficient data |",
        "threshold with the greatest F1 on the validation images",
        "the toy backbone (random weights",
        "procedural (CC0-1.0)",
        "chosen by first_third, seed 0",
    ):
        assert part in text, part


def test_two_runs_give_equal_files(project: Path) -> None:
    folder = Layout(project).report()
    first = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    call(report.run, project)
    second = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert first == second
    assert len(first) == 7


def test_numbers_in_report_json_are_those_of_the_evaluations(measured: Path) -> None:
    layout = Layout(measured)
    numbers = json.loads((layout.report() / "report.json").read_text(encoding="utf-8"))
    checked = 0
    for detector in ("patchcore", "unet"):
        folder = layout.evaluation("washer", detector)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["metrics"]
        for arm, seeds in metrics.items():
            found = numbers["detection"]["washer"][detector][arm]
            assert numbers["seeds"]["washer"][detector][arm] == 2
            for metric in seeds["0"]:
                mean = (seeds["0"][metric] + seeds["1"][metric]) / 2
                assert found[metric]["mean"] == pytest.approx(mean, abs=2e-6)
                checked += 1
    assert checked == 4 * 7
    assert numbers["pools"]["washer"]["normals"] == {"kept": 5, "refused": {"duplicate": 1}, "rows": 6}


def test_what_dvc_yaml_declares_to_plot_is_what_the_report_writes(measured: Path, repository: Path) -> None:
    graph = yaml.safe_load((repository / "dvc.yaml").read_text(encoding="utf-8"))
    assert graph["metrics"] == ["results/report/report.json"]
    checked = 0
    for entry in graph["plots"]:
        ((path, about),) = entry.items()
        rows = json.loads((measured / path).read_text(encoding="utf-8"))
        template = json.loads((repository / ".dvc" / "plots" / f"{about['template']}.json").read_text(encoding="utf-8"))
        fields = {about["x"], about["y"], "panel"}
        if about["template"] == "series":
            fields |= {"series", "seed"}
        assert template["facet"]["field"] == "panel"
        assert rows
        assert all(fields <= set(row) for row in rows)
        checked += 1
    assert checked == 3


@pytest.mark.slow
def test_dvc_shows_the_metrics_and_the_plots(project: Path, repository: Path) -> None:
    shutil.copytree(repository / ".dvc" / "plots", project / ".dvc" / "plots")
    shutil.copy(repository / ".dvc" / "config", project / ".dvc" / "config")
    shutil.copy(repository / "dvc.yaml", project / "dvc.yaml")
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)

    def dvc(*arguments: str) -> dict:
        command = [sys.executable, "-m", "dvc", *arguments, "--json"]
        return json.loads(subprocess.run(command, cwd=project, check=True, capture_output=True, text=True).stdout)

    shown = dvc("metrics", "show")[""]["data"]["results/report/report.json"]["data"]
    assert shown["seeds"]["washer"]["unet"]["real"] == 2
    plots = dvc("plots", "show")
    assert not plots.get("errors")
    assert len(plots["data"]) == 3
    for ((shown_plot,),) in ((found,) for found in plots["data"].values()):
        assert shown_plot["content"]["data"]["values"]


def test_a_missing_evaluation_ends_in_one_sentence_and_leaves_the_old_report(project: Path) -> None:
    layout = Layout(project)
    shutil.rmtree(layout.evaluation("washer", "unet"))
    with pytest.raises(DataError, match=r"no such file; run: dvc repro evaluate@unet-washer"):
        call(report.run, project)
    assert (layout.report() / "report.md").is_file()
