"""A pydantic error as one line for a person: key, what stood there, what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

UNKNOWN_KEY = "unknown_key"
"""Type of the error of a section whose class alone knows its keys; its message begins with one."""
_VALUE_CHARACTERS = 80
_WORDING = {"Input should be ": "expected ", "String should ": "expected to "}


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first mistake in one line, and how many more there are."""
    mistakes = error.errors(include_url=False)
    first = _line(mistakes[0], model)
    return first if len(mistakes) == 1 else f"{first} (and {len(mistakes) - 1} more)"


def _line(mistake: Any, model: type[BaseModel]) -> str:  # noqa: ANN401 (pydantic's ErrorDetails)
    key = ".".join(str(part) for part in mistake["loc"])
    message = str(mistake["msg"]).removeprefix("Value error, ")
    if mistake["type"] == "extra_forbidden":
        return f"{key}: unknown key{_suggestion(mistake['loc'], model)}"
    if mistake["type"] == UNKNOWN_KEY:
        return f"{key}.{message}"
    if mistake["type"] == "missing":
        return f"{key}: missing key (expected a value)"
    for opening, expected in _WORDING.items():
        if message.startswith(opening):
            message = expected + message.removeprefix(opening)
            return f"{key}: got {_shown(mistake['input'])}, {message}"
    return f"{key}: {message}" if key else message


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _VALUE_CHARACTERS else text[:_VALUE_CHARACTERS] + "…"


def _suggestion(loc: tuple[int | str, ...], model: type[BaseModel]) -> str:
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        inside = () if field is None else (field.annotation, *get_args(field.annotation))
        models = [one for one in inside if isinstance(one, type) and issubclass(one, BaseModel)]
        if not models:
            return ""
        model = models[0]
    return expected_keys(str(loc[-1]), list(model.model_fields))


def expected_keys(key: str, known: Sequence[str]) -> str:
    """What stands behind an unknown key, in brackets: the near one, else all; "" for none."""
    near = get_close_matches(key, known, n=1)
    if near:
        return f" (did you mean {near[0]}?)"
    return f" (expected one of {', '.join(known)})" if known else ""
