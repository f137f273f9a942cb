"""From a stage's `run` signature to its command line: sections of params.yaml, layout and keys, nothing else.

The signature is the contract of a stage. Every parameter is keyword-only and is one of

    layout                the folders
    only                  a slice of the stage's shard jobs: `only: slice | None = None`
    <section>             that section of params.yaml, by the same word
    <section>__<field>    one value of a section: `personalize_normals.prompt` in dvc.yaml
    <key>_spec            the entry of section <key>s that --<key> names: `methods.${item.method}` in dvc.yaml
    <key>                 a slug from the command line: category, defect, method or detector

so that a stage has no way to read a value that its `params:` list in dvc.yaml does not name.
"""

from __future__ import annotations

import argparse
import errno
import inspect
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anosynth.errors import EXIT_WRONG_INPUT, AnosynthError, ParamsError
from anosynth.layout import Layout
from anosynth.params import Params, Section, load_params

SPEC_SUFFIX = "_spec"
FIELD_MARK = "__"
KEYS = ("category", "defect", "method", "detector")


@dataclass(frozen=True)
class Binding:
    """How the parameters of one `run` function are filled.

    Attributes:
        sections: parameters that are sections of params.yaml, by the same word.
        fields: parameters `<section>__<field>`, one value of a section.
        specs: parameters `<key>_spec`, filled with the entry `<key>s.<value of --key>` of params.yaml.
        keys: parameters that come from the command line as slugs (category, defect, method, detector).
        sliceable: True if `run` takes `only`, a slice of its shard jobs.
    """

    sections: tuple[str, ...]
    fields: tuple[str, ...]
    specs: tuple[str, ...]
    keys: tuple[str, ...]
    sliceable: bool

    def declared(self) -> frozenset[str]:
        """What the stage's `params:` list in dvc.yaml must hold, before `${item.<key>}` is resolved."""
        specs = {f"{name.removesuffix(SPEC_SUFFIX)}s.${{item.{name.removesuffix(SPEC_SUFFIX)}}}" for name in self.specs}
        return frozenset({*self.sections, *(name.replace(FIELD_MARK, ".") for name in self.fields), *specs})


def bind(run: Callable[..., None]) -> Binding:
    """Read a `run` signature; the module's docstring lists what a parameter may be.

    Raises:
        TypeError: if a parameter is positional, has a default other than `only: slice | None = None`, or names nothing
            that params.yaml or the command line could fill.
    """
    sections, fields, specs, keys, sliceable = [], [], [], [], False
    for name, parameter in inspect.signature(run).parameters.items():
        where = f"{run.__module__}.run: parameter {name!r}"
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise TypeError(f"{where} must be keyword-only")
        if name == "only":
            if parameter.default is not None:
                raise TypeError(f"{where} must have the default None")
            sliceable = True
        elif parameter.default is not inspect.Parameter.empty:
            raise TypeError(f"{where} must not have a default")
        elif name == "layout":
            continue
        elif name in Params.model_fields:
            sections.append(name)
        elif FIELD_MARK in name:
            _check_field(name, where)
            fields.append(name)
        elif name.endswith(SPEC_SUFFIX) and f"{name.removesuffix(SPEC_SUFFIX)}s" in Params.model_fields:
            specs.append(name)
        elif name in KEYS:
            keys.append(name)
        else:
            raise TypeError(f"{where} is no section of params.yaml, no <section>__<field>, no <key>_spec and no key")
    for name in specs:
        if name.removesuffix(SPEC_SUFFIX) not in keys:
            raise TypeError(
                f"{run.__module__}.run: {name!r} needs the key {name.removesuffix(SPEC_SUFFIX)!r} beside it"
            )
    return Binding(tuple(sections), tuple(fields), tuple(specs), tuple(keys), sliceable)


def _check_field(name: str, where: str) -> None:
    section, _, field = name.partition(FIELD_MARK)
    kind = Params.model_fields[section].annotation if section in Params.model_fields else None
    if not (isinstance(kind, type) and issubclass(kind, Section) and field in kind.model_fields):
        raise TypeError(f"{where} names no value of params.yaml: there is no {section}.{field}")


def main(run: Callable[..., None], arguments: list[str] | None = None) -> None:
    """Build the command line of a stage, validate the whole params.yaml, run the stage and exit.

    Exit codes: 0 done, 2 wrong input or a full disk (one sentence on stderr), 75 temporary trouble; a bug ends with a
    traceback.
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
        print(f"{_stage(run)}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"{_stage(run)}: the disk is full ({error}); free some space and run the command again, finished shards "
            "and checkpoints are kept",
            file=sys.stderr,
        )
        raise SystemExit(EXIT_WRONG_INPUT) from None


def _stage(run: Callable[..., None]) -> str:
    return Path(str(sys.modules[run.__module__].__file__)).stem


def fill(binding: Binding, params: Params, keys: dict[str, str]) -> dict[str, object]:
    """Return the keyword arguments of a `run` except `layout` and `only`.

    Raises:
        ParamsError: if a key is unknown to params.yaml.
    """
    filled: dict[str, object] = {name: getattr(params, name) for name in binding.sections}
    for name in binding.fields:
        section, _, field = name.partition(FIELD_MARK)
        filled[name] = getattr(getattr(params, section), field)
    if "category" in keys and keys["category"] not in params.grid.categories:
        raise ParamsError(
            f"--category {keys['category']}: not in grid.categories of params.yaml; "
            f"there: {', '.join(params.grid.categories)}"
        )
    for name in binding.specs:
        key = name.removesuffix(SPEC_SUFFIX)
        entries = getattr(params, f"{key}s")
        if keys[key] not in entries:
            raise ParamsError(f"--{key} {keys[key]}: not in {key}s of params.yaml; there: {', '.join(sorted(entries))}")
        filled[name] = entries[keys[key]]
    if {"category", "defect", "method"} <= keys.keys():
        pair = f"{keys['category']}-{keys['defect']}-{keys['method']}"
        if pair not in params.grid.pairs:
            raise ParamsError(f"{pair}: not in grid.pairs of params.yaml; there: {', '.join(params.grid.pairs)}")
    return {**filled, **keys}


def _slice(text: str) -> slice:
    start, colon, stop = text.partition(":")
    if not (colon and (start + stop).isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not START:STOP, for example 0:8")
    part = slice(int(start or 0), int(stop) if stop else None)
    if part.stop is not None and part.start >= part.stop:
        raise argparse.ArgumentTypeError(f"{text!r} holds no shard: START must be below STOP")
    return part


def _parser(run: Callable[..., None], binding: Binding) -> argparse.ArgumentParser:
    stage = _stage(run)
    example = " ".join([f"python -m tasks.{stage}", *(f"--{key} {_EXAMPLES[key]}" for key in binding.keys)])
    second = f"{example} --only 0:4" if binding.sliceable else f"{example} --root /path/to/project"
    parser = argparse.ArgumentParser(
        prog=f"python -m tasks.{stage}",
        description=(sys.modules[run.__module__].__doc__ or "").strip(),
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
