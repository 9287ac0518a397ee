"""`KpiLogger`: takes events without blocking and writes them to its sinks on one thread."""

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
from kpi.guarded import Batch, EventSink, Guarded

_log = logging.getLogger(__name__)

_BATCH = 256
"""Events between two flushes: bounds what a crash or a full disk can cost."""
_DROP_REPORT_S = 1.0


class KpiLogger:
    """Queues events and writes them to every sink from a thread of its own.

    `clock` gives Unix seconds (default: an `AnchoredClock`). At most about `capacity` events wait
    (threads that emit at the same instant may each add one more); what comes beyond is dropped
    and counted. The thread looks every `period_s` seconds instead of being woken by each event,
    so that it seldom competes with the frame loop for the interpreter. Sinks are flushed after
    each batch, but at most every `flush_s` seconds.
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
        self._sinks = [Guarded(sink, self._report, flush_s) for sink in sinks]
        self._clock = clock or AnchoredClock()
        self._capacity = capacity
        self._period_s = period_s
        self._queue: deque[tuple[float, Event]] = deque()  # append and popleft are atomic
        self._count_lock = threading.Lock()
        self._dropped = 0
        self._closing = threading.Event()
        self._abandoned = False
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
        counts: dict[str, int] = {}
        for sink in self._sinks:
            counts[sink.name] = counts.get(sink.name, 0) + sink.lost
        return counts

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
        """Write what is queued, close the sinks, and wait at most `timeout` seconds.

        False if a sink was still busy then: what was still queued counts as dropped, and the
        sinks stay unclosed, for one of them is still at work.
        """
        self._closing.set()
        self._thread.join(timeout)
        if not self._thread.is_alive():
            return True
        if not self._abandoned:
            self._abandoned = True
            self._drop(len(self._queue))
            _log.warning(
                "kpi: a sink hangs or is too slow; %d events were not written", self._dropped
            )
        return False

    def _drop(self, count: int) -> None:
        with self._count_lock:
            self._dropped += count

    def _report(self, event: Event, text: str) -> None:
        _log.warning("kpi: %s", text)
        # Straight into the queue: neither a full one nor the closing may hide an outage.
        self._queue.append((self._clock(), event))

    def _work(self) -> None:
        while not self._closing.wait(self._period_s):
            self._drain()
            for sink in self._sinks:
                sink.flush_due()
            if time.monotonic() >= self._next_drop_report:
                self._write_drops()
        for sink in self._sinks:
            sink.retry()
        self._drain()
        if self._abandoned:
            return
        self._write_drops(last=True)
        for sink in self._sinks:
            sink.close()

    def _drain(self) -> None:
        while self._queue and not self._abandoned:
            size = min(len(self._queue), _BATCH)
            self._write([self._queue.popleft() for _ in range(size)])

    def _write(self, batch: Batch) -> None:
        for sink in self._sinks:  # a whole batch each: one that hangs costs those before it none
            sink.take(batch)

    def _drops(self) -> EventsDropped:
        return EventsDropped(dropped=self._dropped, lost=self.lost)

    def _write_drops(self, *, last: bool = False) -> None:
        drops = self._drops()
        if last or drops != self._drops_written:
            self._write([(self._clock(), drops)])  # not through the queue, which may be full
        self._drops_written = drops
        self._next_drop_report = time.monotonic() + _DROP_REPORT_S
