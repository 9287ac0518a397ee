"""A pydantic error as one line for a person: key, what stood there, what was expected."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

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
    """Near names among the top-level keys; deeper sections differ by kind."""
    known = list(model.model_fields) if len(loc) == 1 else []
    near = get_close_matches(str(loc[-1]), known, n=1)
    if near:
        return f" (did you mean {near[0]}?)"
    return f" (expected one of {', '.join(known)})" if known else ""
