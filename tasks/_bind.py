"""From a stage's `run` signature to its command line: sections of params.yaml, layout and keys, nothing else."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anosynth.errors import AnosynthError, ParamsError
from anosynth.layout import Layout
from anosynth.params import Params, load_params

SPEC_SUFFIX = "_spec"


@dataclass(frozen=True)
class Binding:
    """How the parameters of one `run` function are filled.

    Attributes:
        sections: parameters that are sections of params.yaml, by the same word.
        specs: parameters `<key>_spec`, filled with the entry `<key>s.<value of --key>` of params.yaml.
        keys: parameters that come from the command line as slugs (category, defect, method, detector).
        sliceable: True if `run` takes `only`, a slice of its shard jobs.
    """

    sections: tuple[str, ...]
    specs: tuple[str, ...]
    keys: tuple[str, ...]
    sliceable: bool


def bind(run: Callable[..., None]) -> Binding:
    """Read a `run` signature: keyword-only parameters `layout`, sections, `<key>_spec`, `only`, and keys.

    Raises:
        TypeError: if a parameter is positional or has a default other than `only: slice | None = None`.
    """
    sections, specs, keys, sliceable = [], [], [], False
    for name, parameter in inspect.signature(run).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise TypeError(f"{run.__module__}.run: parameter {name!r} must be keyword-only")
        if name == "only":
            sliceable = True
        elif parameter.default is not inspect.Parameter.empty:
            raise TypeError(f"{run.__module__}.run: parameter {name!r} must not have a default")
        elif name == "layout":
            continue
        elif name in Params.model_fields:
            sections.append(name)
        elif name.endswith(SPEC_SUFFIX):
            specs.append(name)
        else:
            keys.append(name)
    return Binding(tuple(sections), tuple(specs), tuple(keys), sliceable)


def main(run: Callable[..., None], arguments: list[str] | None = None) -> None:
    """Build the command line of a stage, validate the whole params.yaml, run the stage and exit.

    Exit codes: 0 done, 2 wrong input (one sentence on stderr), 75 temporary trouble; a bug ends with a traceback.
    """
    binding = bind(run)
    parsed = _parser(run, binding).parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        layout = Layout(Path(parsed.root), parsed.store or os.environ.get("ANOSYNTH_STORE", ""))
        filled = fill(binding, load_params(layout.params()), {key: getattr(parsed, key) for key in binding.keys})
        extra = {"only": parsed.only} if binding.sliceable else {}
        run(layout=layout, **filled, **extra)
    except AnosynthError as error:
        print(f"{run.__module__ if run.__module__ != '__main__' else Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def fill(binding: Binding, params: Params, keys: dict[str, str]) -> dict[str, object]:
    """Return the keyword arguments of a `run` except `layout` and `only`.

    Raises:
        ParamsError: if a key is unknown to params.yaml.
    """
    filled: dict[str, object] = {name: getattr(params, name) for name in binding.sections}
    filled.update(keys)
    for name in binding.specs:
        key = name.removesuffix(SPEC_SUFFIX)
        section = getattr(params, f"{key}s")
        if keys[key] not in section:
            raise ParamsError(f"--{key} {keys[key]}: not in {key}s of params.yaml; there: {', '.join(sorted(section))}")
        filled[name] = section[keys[key]]
    if "category" in keys and keys["category"] not in params.grid.categories:
        raise ParamsError(f"--category {keys['category']}: not in grid.categories {params.grid.categories}")
    return filled


def _slice(text: str) -> slice:
    start, _, stop = text.partition(":")
    try:
        return slice(int(start or 0), int(stop) if stop else None)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not START:STOP, for example 0:8") from None


def _parser(run: Callable[..., None], binding: Binding) -> argparse.ArgumentParser:
    module = sys.modules[run.__module__]
    stage = Path(str(module.__file__)).stem
    example = f"python -m tasks.{stage} " + " ".join(f"--{key} {_EXAMPLES.get(key, 'name')}" for key in binding.keys)
    second = f"{example} --only 0:4" if binding.sliceable else f"{example} --root /path/to/project"
    parser = argparse.ArgumentParser(
        prog=f"python -m tasks.{stage}",
        description=(module.__doc__ or "").strip(),
        epilog=f"examples:\n  {example}\n  {second}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for key in binding.keys:
        parser.add_argument(f"--{key}", required=True, help=f"slug of the {key}, as in params.yaml")
    parser.add_argument("--root", default=".", help="project folder with params.yaml (default: here)")
    parser.add_argument("--store", default="", help="fsspec URL of the shard store (default: ANOSYNTH_STORE, or local)")
    if binding.sliceable:
        parser.add_argument(
            "--only", type=_slice, default=None, help="fill these shards only, START:STOP; seal nothing"
        )
    return parser


_EXAMPLES = {"category": "washer", "defect": "scratch", "method": "perlin", "detector": "patchcore"}
