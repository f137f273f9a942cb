"""The flow itself, on a real temporary server, with stages of a few lines."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client

from anosynth.errors import ParamsError
from flows.pipeline import PipelineError, main, pipeline
from flows.verbs import fill, repro
from tests.toy import toy_params, write_params

PERLIN, CUTPASTE = "generate_pairs@washer-scratch-perlin", "generate_pairs@washer-scratch-cutpaste"

pytestmark = pytest.mark.slow


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    for verb in (fill, repro):
        monkeypatch.setattr(verb, "retry_delay_seconds", [0, 0])


def lock(root: Path) -> dict[str, object]:
    found = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    assert isinstance(found, dict)
    return found


def starts(root: Path) -> list[str]:
    return (root / "starts").read_text(encoding="utf-8").splitlines() if (root / "starts").is_file() else []


async def artifacts() -> dict[str, list[str]]:
    async with get_client() as client:
        found: dict[str, list[str]] = {}
        for artifact in await client.read_artifacts():
            found.setdefault(str(artifact.key), []).append(str(artifact.data))
        return found


def test_temporary_trouble_is_retried_and_everything_is_made_shown_and_recorded(
    small_project: Path, prefect_server: None, no_delay: None
) -> None:
    (small_project / "orders").write_text("perlin 0:1 1 75\ncutpaste all 1 75\n", encoding="utf-8")
    pipeline(str(small_project), slices=2)
    assert set(lock(small_project)) == {"index@washer", PERLIN, CUTPASTE, "report"}
    assert sorted(starts(small_project)) == [
        "cutpaste 0:1 ", "cutpaste 1:2 ", "cutpaste all ", "cutpaste all ",
        "perlin 0:1 ", "perlin 0:1 ", "perlin 1:2 ", "perlin all ",
    ]  # fmt: skip
    shown = asyncio.run(artifacts())
    (report,) = shown["report"]
    assert json.loads(report) == [
        {
            "category": "washer",
            "detector": "unet",
            "arm": "real",
            "pixel_ap": 0.5,
            "pixel_ap low": 0.4,
            "pixel_ap high": None,
        }
    ]
    assert shown["progress-index-washer"] == ["100"]
    assert sorted(shown["progress-generate-pairs-washer-scratch-perlin-0-1"]) == ["0", "100"]

    written = (small_project / "dvc.lock").read_bytes()
    pipeline(str(small_project), slices=2)
    assert (small_project / "dvc.lock").read_bytes() == written
    assert len(starts(small_project)) == 8
    status = subprocess.run([sys.executable, "-m", "dvc", "status", "--quiet"], cwd=small_project, check=False)
    assert status.returncode == 0


def test_wrong_input_is_not_retried_and_stops_only_what_depends_on_it(
    small_project: Path, prefect_server: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_project / "orders").write_text("perlin all 1 2\n", encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        main(["--root", str(small_project), "--slices", "1", "--max-workers", "1"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert (
        f"pipeline: {PERLIN} ended with exit code 2: generate_pairs: the store said no;\ntry something else\n"
        "not reached: report\n"
    ) in said
    assert set(lock(small_project)) == {"index@washer", CUTPASTE}
    assert sorted(starts(small_project)) == ["cutpaste all ", "perlin all "]


def test_trouble_that_stays_ends_with_its_own_exit_code(
    small_project: Path, prefect_server: None, no_delay: None
) -> None:
    (small_project / "orders").write_text("".join(f"perlin all {n} 75\n" for n in (1, 2, 3, 4)), encoding="utf-8")
    with pytest.raises(PipelineError, match="ended with exit code 75") as caught:
        pipeline(str(small_project), targets=[PERLIN], slices=1)
    assert caught.value.code == 75
    assert starts(small_project) == ["perlin all "] * 3


def test_bad_params_end_the_flow_before_any_stage(small_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(small_project, toy_params({"grid": {"categories": ["washer", "x; touch pwned"]}}))
    with pytest.raises(SystemExit) as caught:
        main(["--root", str(small_project)])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("pipeline: params.yaml has 1 error:\n  grid.categories.1: is 'x; touch")
    with pytest.raises(ParamsError, match="a key is a slug"):
        pipeline.fn(str(small_project))
    assert not (small_project / "dvc.lock").exists()
    assert not (small_project / "pwned").exists()
    assert not starts(small_project)


@pytest.mark.parametrize("option", ["--max-workers", "--slices"])
def test_counts_are_at_least_one(small_project: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--root", str(small_project), option, "0"])
    assert caught.value.code == 2
    assert "both are at least 1" in capsys.readouterr().err
