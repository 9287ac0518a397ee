"""Sinks that hang."""

from __future__ import annotations

import threading

from kpi.events import Event


class HungSink:
    """Hangs in its first write until released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.entered = threading.Event()
        self.written: list[Event] = []
        """What its writes had done with when they returned."""
        self.closed = False

    def write(self, ts: float, event: Event) -> None:
        self.entered.set()
        self.release.wait()
        self.written.append(event)

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True


class HungRecorder(HungSink):
    recorder = "kpi"
