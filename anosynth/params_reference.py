"""docs/params.md, written from the models of params.yaml: `python -m anosynth.params_reference > docs/params.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from anosynth.params import SLUG_PATTERN, Params

HEAD = f"""# params.yaml, key by key

Written by `python -m anosynth.params_reference` from `anosynth/params.py`; do not edit it by hand.

Every value that changes a result stands in `params.yaml`, and nowhere else. The file is checked as a whole before any
stage starts: an unknown key, a value out of its range, or a name that does not exist ends with one message that lists
all errors with their paths, and exit code 2. Nothing is converted: `"8"` in quotes is no number.

`<name>` stands for a name of your choice. Names are slugs (`{SLUG_PATTERN}`), because they become folders,
stage names and options of commands; what a thing is called in prompts or on disk has fields of its own (`objects`).
"""


def reference() -> str:
    """Return the whole page."""
    schema = Params.model_json_schema()
    pages = [HEAD]
    for section, part in schema["properties"].items():
        pages.append("\n".join(_section(section, part, schema["$defs"])))
    return "\n".join(pages)


def _section(section: str, part: Mapping[str, object], models: Mapping[str, Mapping[str, object]]) -> Iterator[str]:
    yield f"## {section}\n"
    whole = _resolve(part, models)
    named = whole.get("additionalProperties")
    path = f"{section}.<name>" if isinstance(named, dict) else section
    inner = _resolve(named, models) if isinstance(named, dict) else whole
    kinds = inner.get("oneOf")
    for model in [_resolve(one, models) for one in kinds] if isinstance(kinds, list) else [inner]:
        properties = model.get("properties")
        if isinstance(properties, dict) and "kind" in properties:
            yield f"### {path}, kind: {properties['kind']['const']}\n"
        if isinstance(properties, dict) and "description" in model:
            yield _prose(str(model["description"])) + "\n"
        yield "| key | value | default | meaning |"
        yield "| --- | --- | --- | --- |"
        yield from _rows(path, model, models) if isinstance(properties, dict) else [_row(path, model, required=True)]
        yield ""


def _rows(path: str, model: Mapping[str, object], models: Mapping[str, Mapping[str, object]]) -> Iterator[str]:
    properties, required = model["properties"], model.get("required", [])
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    for key, part in properties.items():
        entry = _resolve(part, models)
        named = entry.get("additionalProperties")
        deeper = _resolve(named, models) if isinstance(named, dict) else {}
        if "properties" in entry:
            if "default" in entry:
                meaning = f"{str(entry['description']).rstrip('.')}; if given, the rows below hold"
                yield _row(f"{path}.{key}", {**entry, "description": meaning}, required=False)
            yield from _rows(f"{path}.{key}", entry, models)
        elif "properties" in deeper:
            yield _row(f"{path}.{key}", entry, required=key in required)
            yield from _rows(f"{path}.{key}.<name>", deeper, models)
        else:
            yield _row(f"{path}.{key}", entry, required=key in required)


def _row(path: str, entry: Mapping[str, object], *, required: bool) -> str:
    empty: object = [] if entry.get("type") == "array" else {}
    default = "required" if required else f"`{_plain(entry.get('default', empty))}`"
    meaning = _prose(str(entry.get("description", ""))).replace("|", "\\|")
    return f"| `{path}` | {_value(entry)} | {default} | {meaning} |"


def _resolve(part: Mapping[str, object], models: Mapping[str, Mapping[str, object]]) -> Mapping[str, object]:
    name = str(part.get("$ref", "")).rpartition("/")[2]
    return {**models[name], **{key: value for key, value in part.items() if key != "$ref"}} if name else part


def _value(entry: Mapping[str, object]) -> str:
    if "const" in entry:
        return f"`{entry['const']}`"
    if "enum" in entry:
        assert isinstance(entry["enum"], list)
        return " or ".join(f"`{one}`" for one in entry["enum"])
    if "anyOf" in entry:
        assert isinstance(entry["anyOf"], list)
        return " or ".join(_value(one) for one in entry["anyOf"])
    kind = "mapping" if "properties" in entry else str(entry.get("format", entry.get("type", "mapping")))
    if kind == "array":
        return _array(entry)
    if isinstance(entry.get("additionalProperties"), dict) or kind == "object":
        return "mapping from names"
    limits = [f"{sign} {_plain(entry[word])}" for word, sign in _LIMITS.items() if word in entry]
    return ", ".join([_KINDS.get(kind, kind), *limits])


def _array(entry: Mapping[str, object]) -> str:
    parts = entry.get("prefixItems")
    if isinstance(parts, list):
        return f"[{'; '.join(_value(part) for part in parts)}]"
    inner = entry.get("items")
    least = f", at least {entry['minItems']}" if "minItems" in entry else ""
    return f"list of {_value(inner) if isinstance(inner, dict) else 'values'}{least}"


_KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "`true` or `false`",
    "null": "`null`",
}
_LIMITS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "multipleOf": "multiple of",
    "minLength": "length ≥",
    "maxLength": "length ≤",
}


def _prose(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_plain(one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_plain(one)}' for key, one in value.items())}}}"
    return str(value)


if __name__ == "__main__":
    print(reference(), end="")
