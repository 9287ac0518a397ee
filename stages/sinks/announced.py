"""What a publisher says of its stream, and when: `Announced`, `StateClock`."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Final

from kpi.events import SourceState

STATE_EVERY_S: Final = 1.0
NEWCOMERS_EVERY_S: Final = 0.25
"""A state goes to everybody, and takes the place of a result in a full queue: who subscribes again
and again must not make others lose theirs."""


@dataclass(frozen=True, slots=True)
class State:
    """How the stream is, and its newest epoch."""

    state: SourceState
    epoch: int


class Announced:
    """The state that holds; set by any thread, read by any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = State("connecting", 0)

    def set(self, state: SourceState, epoch: int) -> None:
        """From now on; none follows `ended` or `failed`."""
        with self._lock:
            if self.now.state not in ("ended", "failed"):
                self.now = State(state, epoch)

    def raised(self, epoch: int) -> int:
        """The newest epoch, now that a result of ``epoch`` is there, after which a stream is no
        longer `connecting`."""
        with self._lock:
            state, epoch = self.now.state, max(self.now.epoch, epoch)
            self.now = State("streaming" if state == "connecting" else state, epoch)
        return epoch


class StateClock:
    """When the state, unchanged, is to be said again; one thread's."""

    def __init__(self) -> None:
        self._said_s, self._due_s = float("-inf"), 0.0

    def said(self) -> None:
        """It was said just now."""
        self._said_s = time.monotonic()
        self._due_s = self._said_s + STATE_EVERY_S

    def is_due(self, joined: bool) -> bool:
        """Whether it is; ``joined``: somebody began to listen since the last look."""
        if joined:
            self._due_s = min(self._due_s, self._said_s + NEWCOMERS_EVERY_S)
        return time.monotonic() >= self._due_s
