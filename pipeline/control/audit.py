"""control.jsonl: who asked for what, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kpi import emit
from kpi.event import Event
from kpi.events import ErrorRaised
from kpi.guarded import EventsLostError
from kpi.jsonl import JsonlSink
from pipeline.control.answers import Answer
from pipeline.control.commands import Command

_FILE_BYTES = 16 << 20
_KEEP = 4
_DATA = {"data"}


@dataclass(frozen=True, slots=True)
class MessageCame(Event):
    """A line about what was no command, was not heard, or came again."""

    event: ClassVar[str] = "message"
    user: str
    peer: str
    command: dict[str, Any]
    """Its id, where it could be read."""
    answer: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CommandEnded(Event):
    """A line about a command."""

    event: ClassVar[str] = "command"
    user: str
    """The name of the controller's key; empty without CURVE."""
    peer: str
    """Its connection, hexadecimal."""
    command: dict[str, Any]
    answer: dict[str, Any]


class AuditLog:
    """Appends a line a command to a file of mode 0600, rotated by size. A disk that is full costs
    lines, not commands; that is told once."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Raises OSError where the file cannot be opened."""
        self._sink = JsonlSink(path, max_bytes=_FILE_BYTES, keep=_KEEP)
        self._clock = clock
        self._told = False

    def write(self, user: str, peer: bytes, command: Command, answer: Answer) -> None:
        said = command.model_dump(exclude_defaults=True)
        if "mask" in said:
            said["mask"] = {"size_hw": said["mask"]["size_hw"]}
        ended = answer.model_dump(exclude_defaults=True, exclude=_DATA)
        self._line(CommandEnded(user, peer.hex(), said, ended))

    def note(self, user: str, peer: bytes, command_id: str | None, ended: dict[str, Any]) -> None:
        """A message that was no command, or not heard as one."""
        said = {} if command_id is None else {"id": command_id}
        self._line(MessageCame(user, peer.hex(), said, ended))

    def _line(self, event: Event) -> None:
        self._sink.write(self._clock(), event)
        try:
            self._sink.flush()
        except EventsLostError as error:
            if not self._told:
                emit(ErrorRaised("control", f"control.jsonl: {error}"))
            self._told = True

    def close(self) -> None:
        self._sink.close()
