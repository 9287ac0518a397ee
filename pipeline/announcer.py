"""Tells subscribers what the source says of itself: `StateAnnouncer`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from kpi.events import Event, SourceState, SourceStateChanged

_WHILE_READ: Final[frozenset[SourceState]] = frozenset(
    {"connecting", "streaming", "stale", "frozen", "reconnecting"}
)
"""How the stream ends, they say themselves, after the last result."""


class Announcing(Protocol):
    """A sink that tells those outside how the stream is."""

    def announce(self, state: SourceState, epoch: int) -> None:
        """What holds from now on; callable from any thread."""


class StateAnnouncer:
    """A sink of the run's events that passes the states of the source on."""

    def __init__(self, told: Sequence[Announcing]) -> None:
        self._told = tuple(told)

    def write(self, ts: float, event: Event) -> None:
        if isinstance(event, SourceStateChanged) and event.state in _WHILE_READ:
            for each in self._told:
                each.announce(event.state, event.epoch)

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """They are closed by egress."""
