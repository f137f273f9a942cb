"""The pipeline as a Prefect flow: the stages of dvc.yaml in their order, several at once, with their progress.

    python -m flows.pipeline                       everything, on a temporary server
    python -m flows.pipeline --targets screen      up to and with one stage

Flow parameters select, they never configure: values stand in params.yaml, the graph in dvc.yaml.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger

from anosynth.errors import EXIT_PROBLEMS, EXIT_WRONG_INPUT, AnosynthError
from anosynth.layout import Layout
from anosynth.params import Params, load_params
from flows.graph import is_sliceable, parts, read_stages
from flows.verbs import Slots, StageError, fill, is_stale, repro


class PipelineError(Exception):
    """Stages failed; the text has one paragraph for each that did, and names what was not reached.

    Attributes:
        code: exit code: 2 if a stage refused its input, else that of the first failure.
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@flow(name="anosynth", flow_run_name="pipeline in {root}", persist_result=False)
def pipeline(root: str = ".", targets: list[str] | None = None, max_workers: int = 2, slices: int = 2) -> None:
    """Run the stages of dvc.yaml, each after its upstream, generation cut into parts that run side by side.

    Args:
        root: the project's folder.
        targets: stages to end with; None: all.
        max_workers: processes at once.
        slices: parts that the shards of one pool are cut into; 1 leaves generation to the stage itself.

    Raises:
        AnosynthError: if params.yaml, a target or dvc.yaml is wrong; no stage has started then.
        PipelineError: if a stage failed.
    """
    folder = Path(root).resolve()
    params = load_params(Layout(folder).params())
    stages = read_stages(folder, targets or ())
    slots = Slots(max_workers, _devices(params))
    done: dict[str, PrefectFuture[float]] = {}
    filled: dict[str, PrefectFuture[float]] = {}
    for stage in stages:
        before = [done[name] for name in stage.upstream]
        shards: list[PrefectFuture[float]] = []
        ranges = parts(stage, params, slices=slices) if is_sliceable(stage.task, folder) else ()
        if ranges:
            stale = is_stale.submit(stage, root=folder, slots=slots, wait_for=before, return_state=False)
        for part in ranges:
            shards.append(fill.submit(stage, part, stale=stale, root=folder, slots=slots, return_state=False))
            filled[f"{stage.name} {part}"] = shards[-1]
        ready = [*before, *shards]
        done[stage.name] = repro.submit(stage, root=folder, slots=slots, wait_for=ready, return_state=False)
    _conclude({**filled, **done})
    _show_report(folder)


def _devices(params: Params) -> list[str]:
    """One GPU per process, dealt out in turn, where the environment offers several."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if params.compute.device == "cuda" else []
    return visible if len(visible) > 1 else []


def _conclude(futures: dict[str, PrefectFuture[float]]) -> None:
    failures, unreached = [], []
    for name, future in futures.items():
        future.wait()
        state = future.state
        error = state.result(raise_on_failure=False) if state.is_failed() else None
        if isinstance(error, StageError):
            failures.append(error)
        elif not state.is_completed():
            unreached.append(name)
    if failures or unreached:
        codes = [error.code for error in failures]
        text = "\n".join([*map(str, failures), *([f"not reached: {', '.join(unreached)}"] if unreached else [])])
        raise PipelineError(text, EXIT_WRONG_INPUT if EXIT_WRONG_INPUT in codes else (*codes, EXIT_PROBLEMS)[0])


def _show_report(root: Path) -> None:
    path = Layout(root).report() / "report.json"
    if path.is_file():
        report = json.loads(path.read_text(encoding="utf-8"))
        rows = report_rows(report["detection"])
        create_table_artifact(rows, key="report", description=report["verdict"])
        get_run_logger().info("report: %s rows, %s", len(rows), path)


def report_rows(
    detection: dict[str, dict[str, dict[str, dict[str, dict[str, float | None]]]]],
) -> list[dict[str, object]]:
    """Flatten report.json's `detection` (category, detector, arm, metric, numbers) to one row per arm.

    A metric is its mean over seeds; its interval over groups stands beside it as `<metric> low` and `<metric> high`.
    """
    return [
        {"category": category, "detector": detector, "arm": arm}
        | {
            f"{name}{suffix}": found[number]
            for name, found in metrics.items()
            for suffix, number in (("", "mean"), (" low", "low"), (" high", "high"))
        }
        for category, detectors in detection.items()
        for detector, arms in detectors.items()
        for arm, metrics in arms.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    """Run the flow from the command line; exit code 0 done, 2 wrong input, else that of the stage that failed."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.pipeline",
        description=(__doc__ or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", default=".", help="project folder with params.yaml and dvc.yaml (default: here)")
    parser.add_argument("--targets", nargs="+", metavar="STAGE", help="stages to end with (default: all)")
    parser.add_argument("--max-workers", type=int, default=2, metavar="N", help="processes at once (default: 2)")
    parser.add_argument("--slices", type=int, default=2, metavar="N", help="parts per pool, side by side (default: 2)")
    parsed = parser.parse_args(arguments)
    if parsed.max_workers < 1 or parsed.slices < 1:
        parser.error(f"--max-workers is {parsed.max_workers} and --slices is {parsed.slices}; both are at least 1")
    try:
        load_params(Layout(Path(parsed.root)).params())  # before a server is started for nothing
        pipeline(parsed.root, parsed.targets, parsed.max_workers, parsed.slices)
    except AnosynthError as error:
        print(f"pipeline: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except PipelineError as error:
        print(f"pipeline: {error}", file=sys.stderr)
        raise SystemExit(error.code) from None


if __name__ == "__main__":
    main()
