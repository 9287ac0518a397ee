"""The JSON Schema of the KPI log, made from the typed events.

    python -m kpi.schema [FILE]     writes it (default: configs/kpi_events.schema.json)

A line is `ts` (Unix seconds), `event`, and that event's fields. Fields whose value is unknown are
left out; a number that is not finite is null.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from kpi.event import Event
from kpi.event_types import EVENT_TYPES

DEFAULT_PATH = Path(__file__).parent.parent / "configs" / "kpi_events.schema.json"
_TS = {"type": "number", "description": "Unix seconds at which the event was emitted."}

Schema = dict[str, Any]


def kpi_schema() -> Schema:
    """The schema of one line: one of the events, each under its name in `$defs`."""
    modules = [sys.modules[name] for name in dict.fromkeys(kind.__module__ for kind in EVENT_TYPES)]
    described = {name: text for module in modules for name, text in _docstrings(module)}
    definitions = {kind.event: _event(kind, described) for kind in EVENT_TYPES}
    definitions |= {
        part.__name__: _record(part, described, optional_may_be_null=True)
        for module in modules
        for part in _parts(module)
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "One line of kpi.jsonl",
        "oneOf": [{"$ref": f"#/$defs/{kind.event}"} for kind in EVENT_TYPES],
        "$defs": definitions,
    }


def text() -> str:
    """The schema as it lies in the file."""
    return json.dumps(kpi_schema(), indent=2) + "\n"


def _parts(module: ModuleType) -> Iterator[type]:
    """What events are made of."""
    for thing in vars(module).values():
        if not isinstance(thing, type) or thing.__module__ != module.__name__:
            continue
        if is_dataclass(thing) and not issubclass(thing, Event):
            yield thing


def _event(kind: type[Event], described: dict[str, str]) -> Schema:
    record = _record(kind, described, optional_may_be_null=False)
    record["properties"] = {"ts": _TS, "event": {"const": kind.event}, **record["properties"]}
    record["required"] = ["ts", "event", *record["required"]]
    return record


def _record(kind: type, described: dict[str, str], *, optional_may_be_null: bool) -> Schema:
    """An object with the fields of a dataclass. An event leaves out what is None; a part of one
    writes null."""
    hints = get_type_hints(kind)
    properties: Schema = {}
    required = []
    for field in fields(kind):
        hint, optional = _without_none(hints[field.name])
        properties[field.name] = _value(hint, nullable=optional and optional_may_be_null)
        if note := described.get(f"{kind.__name__}.{field.name}"):
            properties[field.name]["description"] = note
        if not optional or optional_may_be_null:
            required.append(field.name)
    made: Schema = {"type": "object", "properties": properties, "required": required}
    if note := described.get(kind.__name__):
        made["description"] = note
    return {**made, "additionalProperties": False}


def _without_none(hint: Any) -> tuple[Any, bool]:  # noqa: ANN401  (a type, in any form)
    if get_origin(hint) not in (Union, UnionType):
        return hint, False
    left = [part for part in get_args(hint) if part is not NoneType]
    if len(left) != 1:
        raise TypeError(f"{hint}: expected one type, or one type and None")
    return left[0], True


def _value(hint: Any, *, nullable: bool = False) -> Schema:  # noqa: ANN401  (a type, in any form)
    if hint is float:
        return {"type": ["number", "null"]}  # null: not finite
    plain = {bool: "boolean", int: "integer", str: "string"}.get(hint)
    if plain is not None:
        return {"type": [plain, "null"] if nullable else plain}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": [*arguments, None] if nullable else list(arguments)}
    if nullable:
        return {"anyOf": [_value(hint), {"type": "null"}]}
    if origin is tuple and arguments[1:] == (...,):
        return {"type": "array", "items": _value(arguments[0])}
    if origin is dict:
        return {
            "type": "object",
            **_keys(arguments[0]),
            "additionalProperties": _value(arguments[1]),
        }
    if is_dataclass(hint) and isinstance(hint, type):
        return {"$ref": f"#/$defs/{hint.__name__}"}
    raise TypeError(f"{hint}: no rule for this type in a JSON Schema")


def _keys(hint: Any) -> Schema:  # noqa: ANN401  (a type, in any form)
    return {} if hint is str else {"propertyNames": _value(hint)}


def _docstrings(module: ModuleType) -> Iterator[tuple[str, str]]:
    """(`Class` or `Class.field`, what its docstring says), on one line each."""
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        if note := ast.get_docstring(node):
            yield node.name, " ".join(note.split())
        for field, after in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                note = ast.literal_eval(after.value)
                yield f"{node.name}.{ast.unparse(field.target)}", " ".join(note.split())


def main(arguments: list[str]) -> None:
    """Write the schema to the file named, or to the one that is shipped."""
    path = Path(arguments[0]) if arguments else DEFAULT_PATH
    path.write_text(text())


if __name__ == "__main__":
    main(sys.argv[1:])
