"""Passes the run's events on to whoever subscribes to `kpi/`: `KpiTopic`."""

from __future__ import annotations

from kpi.detail import EverySecond
from kpi.events import Event
from kpi.jsonl import to_json
from stages.sinks.zmq_publisher import ZmqPublisher
from stages.wire import encode_kpi


class KpiTopic:
    """A sink of the run's events: each as one message, those of single frames as one a second."""

    def __init__(self, publisher: ZmqPublisher, source_id: str) -> None:
        self._publisher = publisher
        self._source_id = source_id
        self._seconds = EverySecond(source_id)

    def write(self, ts: float, event: Event) -> None:
        for at, told in self._seconds.lines(ts, event):
            if self._publisher.wants("kpi"):
                line = to_json({"ts": round(at, 6), **told.as_dict()}).encode()
                self._publisher.offer("kpi", encode_kpi(self._source_id, told.event, line))

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """The publisher is closed by egress."""
