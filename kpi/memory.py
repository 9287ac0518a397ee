"""A sink that keeps events in memory, for tests and for short audits."""

from __future__ import annotations

from typing import TypeVar

from kpi.events import Event

E = TypeVar("E", bound=Event)


class MemorySink:
    """Keeps every event it is given, without bound; readable from any thread."""

    def __init__(self) -> None:
        self.records: list[tuple[float, Event]] = []
        """(Unix seconds, event), in the order of writing."""
        self.closed = False

    @property
    def events(self) -> list[Event]:
        return [event for _, event in list(self.records)]

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def write(self, ts: float, event: Event) -> None:
        self.records.append((ts, event))

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        self.closed = True
