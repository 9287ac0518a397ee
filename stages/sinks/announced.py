"""What a publisher says of its stream: `Announced`."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from kpi.events import SourceState


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
