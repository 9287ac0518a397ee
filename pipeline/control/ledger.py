"""What the channel counts, tells and writes down: `Ledger`."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Final, Literal

from kpi import emit
from kpi.edge_events import ControlCommands, ControlOutcome
from kpi.events import ErrorRaised
from pipeline.control.answers import Answer
from pipeline.control.audit import AuditLog
from pipeline.control.commands import Command, Ping
from pipeline.control.door import Letter
from pipeline.control.limits import Bucket
from pipeline.control.reading import Malformed

_TELL_EVERY_S: Final = 1.0
_NOTES: Final = 100
_NOTES_A_SECOND: Final = 10
"""Lines about what was no new command: files rotate, and a flood is not to drive out the rest."""
Unheard = Malformed | Literal["too_fast"]


class Ledger:
    """Belongs to the channel's thread; `counts` may be read from any."""

    def __init__(self) -> None:
        self.counts: Counter[ControlOutcome] = Counter()
        """How messages and connections ended, since the start."""
        self.audit: AuditLog | None = None
        self._notes = Bucket(_NOTES, time.monotonic())
        self._told: Counter[ControlOutcome] = Counter()
        self._tell_at = 0.0

    def record(self, letter: Letter, command: Command, answer: Answer) -> None:
        """A command ended."""
        self.counts[answer.outcome] += 1
        if self.audit is not None and not isinstance(command, Ping):
            self.audit.write(letter.user, letter.peer, command, answer)

    def repeated(self, letter: Letter, command_id: str) -> None:
        """A command came again."""
        self.counts["repeated"] += 1
        self._note(letter, command_id, {"id": command_id, "outcome": "repeated"})

    def refused(self, letter: Letter, reason: Unheard, answer: Answer) -> None:
        """A message was no command, or was not heard."""
        self.counts[reason] += 1
        self._note(letter, answer.id, answer.model_dump(exclude_defaults=True))

    def _note(self, letter: Letter, command_id: str | None, ended: dict[str, Any]) -> None:
        if self.audit is not None and self._notes.spend(_NOTES_A_SECOND, _NOTES, time.monotonic()):
            self.audit.note(letter.user, letter.peer, command_id, ended)

    def fail(self, where: str, error: Exception) -> None:
        """An error of ours."""
        emit(ErrorRaised("control", f"{where}{type(error).__name__}: {error}"))

    def tell(self, *, now: bool = False) -> None:
        """What is new, once a second."""
        if not now and time.monotonic() < self._tell_at:
            return
        self._tell_at = time.monotonic() + _TELL_EVERY_S
        new = self.counts - self._told
        if new:
            emit(ControlCommands(dict(new)))
        self._told = self.counts.copy()

    def close(self) -> None:
        if self.audit is not None:
            self.audit.close()
