"""Counting and telling what was wrong with a stream, without a flood: `Complaints`."""

from __future__ import annotations

import time
from typing import Final

from kpi import emit
from kpi.events import ErrorRaised

_EVERY_NS: Final = 1_000_000_000


class Complaints:
    """What a source could not use, as `error` events: at most one a second for messages that
    were refused, each with the count so far, and one for each other matter."""

    def __init__(self, source_id: str) -> None:
        self.refused = 0
        """Messages, since the source was made."""
        self.source_id = source_id
        self._told_ns: int | None = None
        self._told: set[str] = set()

    def refuse(self, reason: str) -> None:
        """A message was refused."""
        self.refused += 1
        now_ns = time.monotonic_ns()
        if self._told_ns is None or now_ns - self._told_ns >= _EVERY_NS:
            self._told_ns = now_ns
            emit(ErrorRaised(self.source_id, f"{reason} (refused so far: {self.refused})"))

    def once(self, matter: str, message: str) -> None:
        """Tell ``message``, the first time that ``matter`` comes up."""
        if matter not in self._told:
            self._told.add(matter)
            emit(ErrorRaised(self.source_id, message))
