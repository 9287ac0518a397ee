"""A message of a controller, read: a `Command`, or a `CommandError` that says why it is none."""

from __future__ import annotations

import json
from typing import Final, Literal

from pydantic import ValidationError

from pipeline.control.commands import COMMAND, MAX_COMMAND_BYTES, Command

_SHOWN: Final = 160
Malformed = Literal["bad_parts", "not_json", "bad_command"]


class CommandError(ValueError):
    """What came is no command."""

    def __init__(self, reason: Malformed, detail: str, command_id: str | None = None) -> None:
        super().__init__(detail)
        self.reason: Malformed = reason
        self.detail = detail
        self.command_id = command_id


def read_command(raw: bytes) -> Command:
    """The command in one message; raises `CommandError`."""
    if len(raw) > MAX_COMMAND_BYTES:
        raise CommandError("bad_command", f"{len(raw)} bytes, expected at most {MAX_COMMAND_BYTES}")
    try:
        return COMMAND.validate_json(raw)
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_input=False, include_context=False)
    first = mistakes[0]
    if first["type"] == "json_invalid":
        raise CommandError("not_json", "not one JSON object in UTF-8")
    where = ".".join(str(part) for part in first["loc"][1:])
    said = f"{where}: {first['msg']}" if where else first["msg"]
    raise CommandError("bad_command", said[:_SHOWN], id_in(raw))


def id_in(raw: bytes) -> str | None:
    """The id of what may be no command otherwise; None where none can be read."""
    try:
        value = json.loads(raw)
        found = value.get("id") if isinstance(value, dict) else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, str) and 1 <= len(found) <= 64 and found.isascii() else None
