"""`KpiLogger`: takes events without blocking and hands them to its sinks."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from kpi.clock import AnchoredClock
from kpi.emit import current_logger
from kpi.events import Event, EventsDropped
from kpi.guarded import EventSink, Guarded
from kpi.lane import Lane
from kpi.log_report import LogReport, by_sink

_log = logging.getLogger(__name__)

_BATCH = 256
"""Events between two flushes: bounds what a crash or a full disk can cost."""
_DROP_REPORT_S = 1.0
_SLACK_S = 1.0
"""For the logger's own thread, which waits for no sink longer than it may."""
_SETTLE_SHARE = 0.8
"""Of the time to close: for what is queued; the rest is for the last event and the closing."""


class KpiLogger:
    """Queues events and hands them to every sink, each of which has a thread of its own.

    `clock` gives Unix seconds (default: an `AnchoredClock`). At most about `capacity` events wait
    (threads that emit at the same instant may each add one more); what comes beyond is dropped
    and counted. A thread looks every `period_s` seconds instead of being woken by each event,
    so that it seldom competes with the frame loop for the interpreter, and hands what it finds
    to the sinks' lanes: as many events may wait for a sink that is slow or hangs, what comes
    beyond is lost to that sink alone, and counted. Sinks are flushed after each batch, but at
    most every `flush_s` seconds.
    """

    def __init__(
        self,
        sinks: Sequence[EventSink],
        *,
        clock: Callable[[], float] | None = None,
        capacity: int = 8192,
        period_s: float = 0.05,
        flush_s: float = 0.0,
    ) -> None:
        self._clock = clock or AnchoredClock()
        self._capacity = capacity
        self._period_s = period_s
        self._queue: deque[tuple[float, Event]] = deque()  # append and popleft are atomic
        self._count_lock = threading.Lock()
        self._dropped = 0
        self._closing = threading.Event()
        self._close_by = 0.0
        guarded = [Guarded(sink, self._report, flush_s) for sink in sinks]
        self._lanes = [Lane(sink, capacity) for sink in guarded]
        self._drops_written = self._drops()
        self._next_drop_report = 0.0
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._work,), name="kpi-logger", daemon=True
        )
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Events that were never queued."""
        return self._dropped

    @property
    def lost(self) -> dict[str, int]:
        """Events each sink did not take, by the name of the sink's class."""
        return by_sink(self._lanes, lambda lane: lane.lost)

    def report(self) -> LogReport:
        """How the log fared up to now; exact once it is closed."""
        return LogReport.of(self._lanes, self._dropped)

    def emit(self, event: Event) -> None:
        """Queue `event` with the time of now; never waits for a sink."""
        if self._closing.is_set() or len(self._queue) >= self._capacity:
            self._drop(1)
        else:
            self._queue.append((self._clock(), event))

    @contextmanager
    def use(self) -> Iterator[KpiLogger]:
        """Make this the logger that `kpi.emit` reaches in the current context."""
        token = current_logger.set(self)
        try:
            yield self
        finally:
            current_logger.reset(token)

    def close(self, timeout: float = 5.0) -> bool:
        """Write what is queued and close the sinks, within about `timeout` seconds.

        False if a sink still hung then: it is abandoned as it is, unclosed, and what it had not
        let through counts as lost to it. The other sinks lose nothing by that.
        """
        if not self._closing.is_set():
            self._close_by = time.monotonic() + timeout
            self._closing.set()
        self._thread.join(timeout + _SLACK_S)
        return not (self._thread.is_alive() or any(lane.abandoned for lane in self._lanes))

    def _drop(self, count: int) -> None:
        with self._count_lock:
            self._dropped += count

    def _report(self, event: Event, text: str) -> None:
        _log.warning("kpi: %s", text)
        # Straight into the queue: neither a full one nor the closing may hide an outage.
        self._queue.append((self._clock(), event))

    def _work(self) -> None:
        while not self._closing.wait(self._period_s):
            self._hand_out()
            for lane in self._lanes:
                lane.look()
            if time.monotonic() >= self._next_drop_report:
                self._write_drops()
        self._settle(by=self._close_by - (1 - _SETTLE_SHARE) * self._left_s())
        self._finish()

    def _left_s(self) -> float:
        return max(0.0, self._close_by - time.monotonic())

    def _hand_out(self) -> None:
        while self._queue:
            size = min(len(self._queue), _BATCH)
            batch = [self._queue.popleft() for _ in range(size)]
            for lane in self._lanes:
                lane.post(batch)

    def _settle(self, by: float) -> None:
        """Have everything written, also what the writing made sinks report."""
        settled = False
        while not settled:
            self._hand_out()
            for lane in self._lanes:
                lane.settle()
            late = [lane for lane in self._lanes if not lane.await_settled(by)]
            settled = not self._queue or time.monotonic() >= by
        for lane in late:
            lane.abandon()

    def _finish(self) -> None:
        """The last event, and the end of every sink."""
        self._hand_out()
        self._write_drops(last=True)
        for lane in self._lanes:
            lane.finish()
        for lane in self._lanes:
            if not (lane.abandoned or lane.await_finished(self._close_by)):
                lane.abandon()

    def _drops(self) -> EventsDropped:
        return EventsDropped(dropped=self._dropped, lost=self.lost)

    def _write_drops(self, *, last: bool = False) -> None:
        drops = self._drops()
        if last or drops != self._drops_written:
            batch = [(self._clock(), drops)]  # not through the queue, which may be full
            for lane in self._lanes:
                lane.post(batch)
        self._drops_written = drops
        self._next_drop_report = time.monotonic() + _DROP_REPORT_S
