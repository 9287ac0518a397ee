"""Tells subscribers what the source says of itself: `StateAnnouncer`."""

from __future__ import annotations

from typing import Final

from kpi.events import Event, SourceState, SourceStateChanged
from stages.sinks.zmq_publisher import ZmqPublisher

_WHILE_READ: Final[frozenset[SourceState]] = frozenset(
    {"connecting", "streaming", "stale", "frozen", "reconnecting"}
)
"""How the stream ends, the publisher says itself, after its last result."""


class StateAnnouncer:
    """A sink of the run's events that passes the states of the source on to a publisher."""

    def __init__(self, publisher: ZmqPublisher) -> None:
        self._publisher = publisher

    def write(self, ts: float, event: Event) -> None:
        if isinstance(event, SourceStateChanged) and event.state in _WHILE_READ:
            self._publisher.announce(event.state, event.epoch)

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """The publisher is closed by egress."""
