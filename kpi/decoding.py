"""One line of a KPI log back into its typed event."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass

from kpi.event import Event
from kpi.event_types import EVENT_TYPES

Convert = Callable[[object], object]

LONGEST_LINE = 4 << 20
"""Bytes: a longer line is no KPI event, and is never held in memory whole."""
_LATEST_TS = 1e11
"""Seconds: far beyond any clock, and still a date."""
_INT64 = 1 << 63


class LineError(ValueError):
    """A line is no KPI event; says why in a few words."""


@dataclass(frozen=True, slots=True)
class UnknownEvent:
    """An event of a newer version, or of somebody else who writes KPI lines."""

    name: str


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a log."""

    ts: float
    """Unix seconds."""
    event: Event | UnknownEvent


def decode(line: bytes) -> Record:
    """The event that `line` holds. Raises `LineError`.

    Fields that this version does not know are ignored, as are unknown values of closed lists; a
    required number that is null (NaN when it was written) comes back as NaN.
    """
    if len(line) > LONGEST_LINE:
        raise LineError("too long for an event")
    try:
        loaded = json.loads(line)
    except (ValueError, RecursionError):  # not UTF-8 is a ValueError too
        raise LineError("not JSON") from None
    if not isinstance(loaded, dict):
        raise LineError("not a JSON object")
    ts, name = loaded.get("ts"), loaded.get("event")
    if not isinstance(ts, int | float) or isinstance(ts, bool) or not 0 <= ts < _LATEST_TS:
        raise LineError("no ts in Unix seconds")
    if not isinstance(name, str):
        raise LineError("no event name")
    form = _FORMS.get(name)
    if form is None:
        return Record(float(ts), UnknownEvent(name))
    try:
        return Record(float(ts), form.read(loaded))
    except LineError as error:
        raise LineError(f"{name}: {error}") from None


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    convert: Convert
    default: object
    """`MISSING` where the field must be there."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How the JSON object of one class is read."""

    make: Callable[..., typing.Any]
    fields: tuple[_Field, ...]

    def read(self, value: object) -> typing.Any:  # noqa: ANN401 (whatever the class is)
        if not isinstance(value, dict):
            raise LineError(f"got {_shown(value)}, expected an object")
        found = []
        for field in self.fields:
            given = value.get(field.name, MISSING)
            if given is not MISSING:
                try:
                    found.append(field.convert(given))
                except LineError as error:
                    raise LineError(f"{field.name}: {error}") from None
            elif field.default is not MISSING:
                found.append(field.default)
            else:
                raise LineError(f"no {field.name}")
        return self.make(*found)


def _form(kind: type) -> _Form:
    """Read from the annotations, so that a new field or event needs no line here."""
    hints = typing.get_type_hints(kind)
    return _Form(
        kind,
        tuple(
            _Field(f.name, _converter(hints[f.name]), _default(f.default, hints[f.name]))
            for f in fields(kind)
        ),
    )


def _default(default: object, hint: object) -> object:
    """A field that is None is left out of its line, whether or not None is its default."""
    if default is MISSING and type(None) in typing.get_args(hint):
        return None
    return default


def _converter(hint: object) -> Convert:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (_converter(argument) for argument in arguments if argument is not type(None))
        return lambda value: None if value is None else inner(value)
    if origin is typing.Literal:
        return _converter(type(arguments[0]))
    if origin is tuple:
        return _list_of(_converter(arguments[0]))
    if origin is dict:
        return _object_of(_converter(arguments[1]))
    if isinstance(hint, type) and is_dataclass(hint):
        return _form(hint).read
    return {str: _text, int: _int, float: _float}[typing.cast(type, hint)]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise LineError(f"got {_shown(value)}, expected text")
    return value


def _int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -_INT64 <= value < _INT64:
        raise LineError(f"got {_shown(value)}, expected a 64-bit integer")
    return value


def _float(value: object) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e300:
        raise LineError(f"got {_shown(value)}, expected a number")
    return float(value)


def _list_of(inner: Convert) -> Convert:
    def convert(value: object) -> object:
        if not isinstance(value, list):
            raise LineError(f"got {_shown(value)}, expected a list")
        return tuple(inner(item) for item in value)

    return convert


def _object_of(inner: Convert) -> Convert:
    def convert(value: object) -> object:
        if not isinstance(value, dict):
            raise LineError(f"got {_shown(value)}, expected an object")
        return {key: inner(item) for key, item in value.items()}

    return convert


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


_FORMS = {kind.event: _form(kind) for kind in EVENT_TYPES}
