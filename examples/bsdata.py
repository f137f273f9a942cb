"""BSData, honestly: develop by leaving one training position out at a time; look at the true test rarely, and log it.

    python examples/bsdata.py dev                    # make bsdata-dev
    python examples/bsdata.py dev --positions 277500-315,585000-090 --shots 10 --seeds 1 --steps 150 --pairs 48
    python examples/bsdata.py test --why "release"   # make bsdata-test

Both run the graph of dvc.yaml with examples/bsdata.params.yaml (or --params FILE), each run in a DVC project of its own
under .anosynth/, all of them on one store of shards. ANOSYNTH_BSDATA, or --data, names the folder of the data.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from scipy import stats

from anosynth.errors import EXIT_WRONG_INPUT, AnosynthError, DataError
from anosynth.fingerprint import digest_value
from anosynth.layout import STORE_FOLDER, Layout
from anosynth.params import Params, load_params, parse_params
from anosynth.results import Result, read_result
from anosynth.sources.open import open_source
from anosynth.sources.split import assign_roles

CHECKOUT = Path(__file__).resolve().parent.parent
CATEGORY = "ball_screw"
DEFECT = "pitting"
BASELINE = "real"
CONFIDENCE = 0.95
LOOKS = "docs/test-looks.md"
LOOKS_HEAD = """# Looks at the true test of BSData

One line for every run of `make bsdata-test`, written by the run itself. Choices are made with `make bsdata-dev`, on the
training positions alone; the more lines there are here, the less the last one means.

| date (UTC) | commit | params | why | result: {metric}, mean over seeds |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Measured:
    """One metric of one arm on one test position, averaged over seeds."""

    position: str
    detector: str
    arm: str
    metric: str
    value: float


def positions(params: Params, root: Path) -> dict[str, Counter[str]]:
    """Return the positions that the split lets train, each with its number of normal and anomalous images."""
    obj = params.objects[CATEGORY]
    items = tuple(
        open_source(params.source, category=CATEGORY, obj=obj, defects=(DEFECT,), root=root, seed=params.seed)
    )
    roles = assign_roles(items, params.split, params.seed)
    found: dict[str, Counter[str]] = {}
    for item in items:
        if roles[item.path] == "train":
            found.setdefault(item.group, Counter())[item.defect or "normal"] += 1
    return found


def without(raw: Mapping[str, object], position: str, images: Mapping[str, Counter[str]]) -> dict[str, object]:
    """Return params.yaml for one round of development: `position` is the test, its shots are not there to be chosen."""
    left = sum(count[DEFECT] for other, count in images.items() if other != position)
    sections = {name: dict(raw[name]) for name in ("split", "select_shots")}  # type: ignore[call-overload]
    sections["split"]["held_out_group"] = position
    sections["select_shots"]["anomalous"] = min(sections["select_shots"]["anomalous"], left)
    return {**raw, **sections}


def shortened(
    raw: Mapping[str, object], *, shots: int | None, seeds: int | None, steps: int | None, pairs: int | None
) -> dict[str, object]:
    """Return params.yaml for a shorter development; None leaves a value as it is.

    Args:
        raw: params.yaml.
        shots: pitting shots.
        seeds: of detectors, counted from 0.
        steps: of the U-Net's training.
        pairs: of a pool.
    """
    changed = copy.deepcopy(dict(raw))
    wanted = (
        (("select_shots", "anomalous"), shots),
        (("fit_detector", "seeds"), None if seeds is None else list(range(seeds))),
        (("detectors", "unet", "steps"), steps),
        (("generate_pairs", "n"), pairs),
    )
    for (*way, last), value in wanted:
        section: Any = changed
        for name in way:
            section = section[name]
        if value is not None:
            section[last] = value
    parse_params(changed)
    return changed


def prepare(folder: Path, raw: Mapping[str, object]) -> None:
    """Make or refresh a DVC project that runs the checkout's code: links to it, its graph, and these parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("anosynth", "tasks"):
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(CHECKOUT / name)
    for name in ("dvc.yaml", ".dvcignore"):
        (folder / name).write_bytes((CHECKOUT / name).read_bytes())
    (folder / "params.yaml").write_text(
        yaml.safe_dump(dict(raw), sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    if not (folder / ".dvc").is_dir():
        _dvc(folder, "init", "--no-scm", "--quiet")


def reproduce(folder: Path) -> list[Result]:
    """Run what is stale of the whole graph in a folder made by `prepare`; return what its detectors earned."""
    _dvc(folder, "repro")
    params = parse_params(yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8")))
    layout = Layout(folder)
    return [read_result(layout.evaluation(CATEGORY, detector) / "metrics.json") for detector in params.grid.detectors]


def _dvc(folder: Path, *arguments: str) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "ANOSYNTH_STORE": os.environ.get("ANOSYNTH_STORE") or str(CHECKOUT / STORE_FOLDER / "store"),
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "1",
    }
    ended = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, env=environment, check=False)
    if ended.returncode:
        raise DataError(f"dvc {' '.join(arguments)} ended with {ended.returncode} in {folder}; see what it said above")


def measured(position: str, results: Iterable[Result]) -> list[Measured]:
    """Average every defined metric over seeds."""
    rows = []
    for result in results:
        for arm, seeds in result.metrics.items():
            for metric in dict.fromkeys(name for values in seeds.values() for name in values):
                values = [value for one in seeds.values() if (value := one.get(metric)) is not None]
                if values:
                    rows.append(Measured(position, result.detector, arm, metric, math.fsum(values) / len(values)))
    return rows


def shortcuts(position: str, folder: Path) -> list[Measured]:
    """Read how well each arm tells a position's real normals from their round trips (AUROC, 0.5 is best)."""
    found = json.loads(Layout(folder).shortcuts(CATEGORY).read_text(encoding="utf-8"))["shortcut_auroc"]
    return [
        Measured(position, detector, arm, "shortcut_auroc", math.fsum(seeds.values()) / len(seeds))
        for detector, arms in found.items()
        for arm, seeds in arms.items()
    ]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for a single value)."""
    mean = math.fsum(values) / len(values)
    spread = math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
    return mean, math.sqrt(spread)


def summarize(rows: Sequence[Measured], *, primary: str) -> str:
    """Return Markdown: per detector and arm every metric over positions, and the paired gain of the primary one."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    arms = sorted({(row.detector, row.arm) for row in rows}, key=lambda key: (key[0], key[1] != BASELINE, key[1]))
    at = {(row.detector, row.arm, row.metric, row.position): row.value for row in rows}
    places = list(dict.fromkeys(row.position for row in rows))
    lines = [
        f"Mean ± standard deviation over {len(places)} left-out positions ({', '.join(places)}); seeds averaged first. "
        f"Gain: {primary} against the arm `{BASELINE}` of the same detector, paired by position, with its "
        f"{CONFIDENCE:.0%} t-interval over positions. shortcut_auroc: real normals against their round trips; 0.5 is "
        "best.",
        "",
        f"| detector | arm | {' | '.join(metrics)} | gain in {primary} | better at |",
        "|---|---|" + "---|" * (len(metrics) + 2),
    ]
    for detector, arm in arms:
        cells = []
        for metric in metrics:
            values = [at[key] for place in places if (key := (detector, arm, metric, place)) in at]
            cells.append("{:.3f} ± {:.3f}".format(*mean_and_deviation(values)) if values else "-")
        pairs = [
            (at[here], at[base])
            for place in places
            if (here := (detector, arm, primary, place)) in at and (base := (detector, BASELINE, primary, place)) in at
        ]
        if arm == BASELINE or not pairs:
            cells += ["-", "-"]
        else:
            gains = [one - other for one, other in pairs]
            cells += [
                "{:+.3f} ± {:.3f}".format(*mean_and_deviation(gains)) + _interval(gains),
                f"{sum(g > 0 for g in gains)} of {len(gains)}",
            ]
        lines.append(f"| {detector} | {arm} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(gains: Sequence[float]) -> str:
    """The t-interval of a mean, ` [low, high]`; nothing for one value, or where all are equal."""
    mean, spread = mean_and_deviation(gains)
    if len(gains) < 2 or spread == 0.0:
        return ""
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2.0, len(gains) - 1)) * spread / math.sqrt(len(gains))
    return f" [{mean - half:+.3f}, {mean + half:+.3f}]"


def look_line(results: Sequence[Result], *, metric: str, commit: str, params: str, why: str, now: datetime) -> str:
    """Return the line of docs/test-looks.md about one look at the true test."""
    rows = [row for row in measured("test", results) if row.metric == metric]
    values = ", ".join(f"{row.detector}/{row.arm} {row.value:.4f}" for row in rows) or "undefined"
    reason = " ".join(why.replace("|", "/").split())
    return f"| {now:%Y-%m-%d %H:%M} | {commit} | {params[:12]} | {reason} | {values} |\n"


def develop(raw: Mapping[str, object], *, only: Sequence[str]) -> None:
    """Leave every training position out once, run the graph, and summarize."""
    params = parse_params(dict(raw))
    images = positions(params, CHECKOUT)
    unknown = [place for place in only if place not in images]
    if unknown:
        raise DataError(f"no training position {', '.join(unknown)}; there: {', '.join(images)}")
    base = CHECKOUT / STORE_FOLDER / "bsdata-dev"
    rows: list[Measured] = []
    for place in only or tuple(images):
        missing = [kind for kind in ("normal", DEFECT) if not images[place][kind]]
        if missing:
            print(
                f"{place}: passed over, no {' and no '.join(missing)} image there, so nothing can be measured",
                flush=True,
            )
            continue
        print(f"{place}: left out, {images[place]['normal']} normal and {images[place][DEFECT]} {DEFECT}", flush=True)
        prepare(base / place, without(raw, place, images))
        rows += [*measured(place, reproduce(base / place)), *shortcuts(place, base / place)]
    if not rows:
        raise DataError("no position could be measured; choose others with --positions")
    text = summarize(rows, primary=params.report.primary_metric)
    values = [vars(row) for row in rows]
    (base / "summary.md").write_text(text, encoding="utf-8")
    (base / "summary.json").write_text(json.dumps({"version": 1, "rows": values}, indent=1) + "\n", encoding="utf-8")
    print(f"\n{text}\nin {base / 'summary.md'} and summary.json")


def look(raw: Mapping[str, object], *, why: str) -> None:
    """Run the graph on the true test positions and log that it was looked at."""
    params = parse_params(dict(raw))
    if params.split.held_out_group is not None:
        raise DataError("split.held_out_group is for development; a look at the true test needs null")
    folder = CHECKOUT / STORE_FOLDER / "bsdata-test"
    prepare(folder, raw)
    results = reproduce(folder)
    metric = params.report.primary_metric
    line = look_line(
        results, metric=metric, commit=_commit(), params=digest_value(dict(raw)), why=why, now=datetime.now(UTC)
    )
    log = CHECKOUT / LOOKS
    before = log.read_text(encoding="utf-8") if log.exists() else LOOKS_HEAD.format(metric=metric)
    log.write_text(before + line, encoding="utf-8")
    print(f"{(folder / 'results/report/report.md').read_text(encoding='utf-8')}\nlogged in {log}; commit that line")


def _commit() -> str:
    def git(*arguments: str) -> str:
        ran = subprocess.run(["git", *arguments], cwd=CHECKOUT, check=False, capture_output=True, text=True)
        return ran.stdout.strip() if ran.returncode == 0 else ""

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{LOOKS}")
    return (git("rev-parse", "--short=12", "HEAD") or "no git") + (" + changes" if changed else "")


def read_raw(path: Path, data: str) -> dict[str, object]:
    """Read and validate a params file; `data`, if not empty, replaces source.root."""
    load_params(path)
    raw: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if data:
        raw["source"]["root"] = str(Path(data).resolve())
    root = Path(raw["source"]["root"])
    if not root.is_absolute():
        raw["source"]["root"] = str(CHECKOUT / root)
    return raw


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line; wrong input ends with one sentence and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python examples/bsdata.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["dev", "test"])
    parser.add_argument("--params", type=Path, default=CHECKOUT / "examples" / "bsdata.params.yaml")
    parser.add_argument("--data", default=os.environ.get("ANOSYNTH_BSDATA", ""), help="folder of BSData")
    parser.add_argument("--positions", default="", help="dev: only these, by commas")
    parser.add_argument("--shots", type=int, help="dev: pitting shots, fewer than in --params")
    parser.add_argument("--seeds", type=int, help="dev: so many seeds of detectors, from 0")
    parser.add_argument("--steps", type=int, help="dev: of the U-Net's training")
    parser.add_argument("--pairs", type=int, help="dev: of a pool")
    parser.add_argument("--why", default="not said", help="test: the reason for this look, for the log")
    chosen = parser.parse_args(arguments)
    try:
        raw = read_raw(chosen.params, chosen.data)
        if chosen.command == "dev":
            raw = shortened(raw, shots=chosen.shots, seeds=chosen.seeds, steps=chosen.steps, pairs=chosen.pairs)
            develop(raw, only=[place for place in chosen.positions.split(",") if place])
        else:
            look(raw, why=chosen.why)
    except AnosynthError as error:
        print(f"bsdata: {error}", file=sys.stderr)
        raise SystemExit(EXIT_WRONG_INPUT) from None


if __name__ == "__main__":
    main()
