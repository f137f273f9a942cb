"""Look at a project: its parameters, its data, its environment. The stages run in `python -m tasks.STAGE`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from anosynth.errors import EXIT_PROBLEMS, AnosynthError, ParamsError
from anosynth.layout import Layout

GRACE_S = 3600.0
SHEET_IMAGES = 48

Command = Callable[[argparse.Namespace], int]


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code: 0 ok, 1 problems found, 2 wrong input, 75 temporary trouble."""
    parsed = _parser().parse_args(arguments)
    command: Command = parsed.command
    try:
        return command(parsed)
    except AnosynthError as error:
        print(f"anosynth: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - so that the interpreter's own flush finds no pipe
        return 0


def params(arguments: argparse.Namespace) -> int:
    """Print params.yaml as the stages see it, every default filled in."""
    import yaml

    from anosynth.params import load_params

    values = load_params(_layout(arguments).params()).model_dump(mode="json")
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Prove locks and pools, all of the project or the folders named."""
    from anosynth.looking.verify import Finding, verify_folders, verify_project
    from anosynth.params import load_params

    findings: Iterator[Finding]
    if arguments.folders:
        findings = (finding for folder in arguments.folders for finding in verify_folders(folder))
    else:
        layout = _layout(arguments)
        findings = verify_project(layout, load_params(layout.params()))
    good = bad = 0
    for finding in findings:
        print("\n".join(finding.lines()), flush=True)
        good, bad = good + (not finding.problems), bad + bool(finding.problems)
    print(f"{good} of {good + bad} verified")
    return EXIT_PROBLEMS if bad else 0


def inspect(arguments: argparse.Namespace) -> int:
    """Say what a file or folder is; draw its images."""
    from anosynth.imaging import encode_png
    from anosynth.looking.describe import describe, tiles
    from anosynth.looking.sheet import contact_sheet

    print("\n".join(describe(arguments.path)))
    if arguments.sheet is not None:
        chosen = tiles(arguments.path, at_most=arguments.images)
        if arguments.plain:
            chosen = [replace(tile, mask=None) for tile in chosen]
        arguments.sheet.write_bytes(encode_png(contact_sheet(chosen)))
        print(f"{len(chosen)} images drawn in {arguments.sheet}")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Examine environment and store; with --prune, delete what nobody needs."""
    from anosynth.looking import doctor as doctors
    from anosynth.shards.prune import prune
    from anosynth.shards.store import ShardStore

    layout = _layout(arguments)
    checks = [*doctors.environment(), doctors.project(layout)]
    found, usage = doctors.store(layout, grace_s=arguments.grace_s)
    checks += found
    print("\n".join(check.line() for check in checks))
    if arguments.prune:
        prune(ShardStore(layout.store_url()), usage)
        print(
            f"pruned {len(usage.unused)} entries ({usage.unused_bytes / 1e6:.1f} MB) and "
            f"{len(usage.temporary)} temporary files"
        )
    return EXIT_PROBLEMS if any(check.problem for check in checks) else 0


def export(arguments: argparse.Namespace) -> int:
    """Write the backbone as a self-contained diffusers folder, or a category's pools as an MVTec folder."""
    from anosynth.params import load_params

    layout = _layout(arguments)
    if arguments.format == "mvtec":
        return _export_pools(arguments, layout)
    from anosynth.diffusion.export import export_backbone

    export_backbone(load_params(layout.params()).backbone, arguments.folder, root=layout.root)
    size = sum(file.stat().st_size for file in arguments.folder.rglob("*") if file.is_file())
    print(f"{size / 1e6:.1f} MB written to {arguments.folder}")
    return 0


def _export_pools(arguments: argparse.Namespace, layout: Layout) -> int:
    from anosynth.looking.export_pool import export_mvtec
    from anosynth.params import load_params
    from anosynth.shards.read import read_verdicts

    grid = load_params(layout.params()).grid
    category = arguments.category or (grid.categories[0] if len(grid.categories) == 1 else "")
    if category not in grid.categories:
        raise ParamsError(f"--category is {category!r}; it must be one of {', '.join(grid.categories)}")
    keys = grid.pair_keys(category)
    pools = {
        defect: tuple(layout.pairs(category, key.defect, key.method) for key in keys if key.defect == defect)
        for defect in grid.defects(category)
    }
    verdicts = read_verdicts(layout.verdicts(category))
    done = export_mvtec(arguments.folder, normals=layout.normals(category), pairs=pools, verdicts=verdicts)
    print(f"{done.normals} normals and {sum(done.pairs.values())} pairs of {category} written to {arguments.folder}")
    return 0


def leaks(arguments: argparse.Namespace) -> int:
    """Count the test images that published split rules would have trained on."""
    from anosynth.params import load_params
    from anosynth.selection.leaks import published_rules, summarize_rules
    from anosynth.sources.open import open_source

    layout = _layout(arguments)
    values = load_params(layout.params())
    items = [
        item
        for category in values.grid.categories
        for item in open_source(
            values.source,
            category=category,
            obj=values.objects[category],
            defects=(),
            root=layout.root,
            seed=values.seed,
        )
    ]
    print(summarize_rules(published_rules(items)))
    return 0


def promote(arguments: argparse.Namespace) -> int:
    """Say which data set versions are helpful on validation images; 0 if all are, 1 if one is not, or nobody knows."""
    from anosynth.params import load_params
    from anosynth.promotion import promote as judge

    layout = _layout(arguments)
    names = {"category": arguments.category, "detector": arguments.detector, "arm": arguments.arm}
    helpful = True
    for found in judge(layout, load_params(layout.params()), **names):
        print(f"{found.category}, {found.detector}, arm {found.arm}: {found.decision}: {found.reason}", flush=True)
        print(f"  {layout.promotion(found.category, found.detector, found.arm)}")
        helpful = helpful and found.decision == "helpful"
    return 0 if helpful else EXIT_PROBLEMS


def detect(arguments: argparse.Namespace) -> int:
    """Judge a folder of images with a fitted One-to-Normal bundle; write verdicts and a picture per image."""
    from anosynth.detectors.bundle import open_bundle
    from anosynth.looking.detect import TABLE
    from anosynth.looking.detect import detect as judge

    low, high = arguments.cascade or (0.0, 1.0)
    if low >= high:
        raise ParamsError(f"--cascade {low:g} {high:g}: a band is low before high")
    detector = open_bundle(arguments.bundle, root=arguments.root, cascade=arguments.cascade and (low, high))
    count = judge(detector, arguments.images, arguments.out)
    print(
        f"{count.normal} normal, {count.anomalous} anomalous, {count.refused} refused, {count.twins} twins drawn, in "
        f"{arguments.out / TABLE}"
    )
    return EXIT_PROBLEMS if count.refused else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anosynth",
        description=__doc__,
        epilog="examples:\n  python -m anosynth params\n  python -m anosynth verify",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _add(commands, "params", params, "params", "params --root examples/other-project")

    added = _add(commands, "verify", verify, "verify", "verify data/pairs/washer/scratch/perlin")
    added.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="pools, or folders above them")

    added = _add(
        commands,
        "inspect",
        inspect,
        "inspect data/normals/washer/normals-00000.parquet",
        "inspect data/pairs/washer/scratch/perlin --sheet pairs.png",
    )
    added.add_argument("path", type=Path, help="shard, pool, lock, index, verdict table or adapter")
    added.add_argument("--sheet", type=Path, metavar="PNG", help="draw the images, masks outlined, into this file")
    added.add_argument("--plain", action="store_true", help="leave the outlines away: thin defects vanish below them")
    added.add_argument("--images", type=_positive, default=SHEET_IMAGES, help="at most so many (default: %(default)s)")

    added = _add(commands, "doctor", doctor, "doctor", "doctor --prune")
    added.add_argument("--prune", action="store_true", help="delete store entries that no result under --root names")
    added.add_argument(
        "--grace-s",
        type=float,
        default=GRACE_S,
        metavar="SECONDS",
        help="keep what was written within this time: a running stage may need it (default: %(default)g)",
    )
    added.add_argument("--store", default="", help="fsspec URL of the store (default: ANOSYNTH_STORE, or local)")

    added = _add(
        commands, "export", export, "export --format diffusers backbone", "export --format mvtec --category washer out"
    )
    added.add_argument("--format", choices=("diffusers", "mvtec"), required=True, help="what to write")
    added.add_argument("--category", metavar="NAME", default="", help="of the pools (mvtec); may be left out if alone")
    added.add_argument("folder", type=Path, metavar="FOLDER", help="where to; it must not exist yet")

    _add(commands, "leaks", leaks, "leaks", "leaks --root examples/other-project")

    added = _add(commands, "promote", promote, "promote", "promote --detector unet --arm cutpaste")
    for key in ("category", "detector", "arm"):
        added.add_argument(f"--{key}", metavar="NAME", help=f"only this {key} (default: every one)")

    bundle = "--bundle models/detectors/washer/one_to_normal/real-0"
    added = _add(
        commands,
        "detect",
        detect,
        f"detect {bundle} --images photos --out verdicts",
        f"detect {bundle} --images photos --out verdicts --cascade -1 6",
    )
    added.add_argument("--bundle", type=Path, required=True, metavar="FOLDER", help="one fit: <detector>/<arm>-<seed>")
    added.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="the queries, subfolders included")
    added.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for verdicts.csv and the pictures")
    added.add_argument(
        "--cascade",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="draw a twin only where S_N + S_text lie so many spreads above the references (default: always)",
    )
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, command: Command, *examples: str
) -> argparse.ArgumentParser:
    lines = "\n".join(f"  python -m anosynth {example}" for example in examples)
    summary = (command.__doc__ or "").strip()
    added = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.set_defaults(command=command)
    added.add_argument("--root", type=Path, default=Path(), help="project folder with params.yaml (default: here)")
    return added


def _layout(arguments: argparse.Namespace) -> Layout:
    return Layout(arguments.root, getattr(arguments, "store", "") or os.environ.get("ANOSYNTH_STORE", ""))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
