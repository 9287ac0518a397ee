"""The egress thread: waits for results to reach the host and hands them to the sinks."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kpi import emit
from kpi.events import ErrorRaised, FrameKind, FramePublished
from kpi.timing import FrameTimes
from pipeline.chain import Pending
from pipeline.health import Heartbeat
from pipeline.tally import FrameName, Tally
from stages.base import LogitsSink, Sink
from stages.packets import HostPacket

_POLL_S = 0.002
_CLOSE_S = 1.0
"""For the sinks to release what they hold."""


@dataclass(frozen=True, slots=True, eq=False)
class _InFlight:
    frame: FrameName
    kind: FrameKind
    pending: Pending
    times: FrameTimes


class Egress:
    """Owns the sinks: after `start` no other thread touches them.

    Results leave in the order they were submitted. An error of a sink stops the thread and is
    raised by the next `submit`, or by `stop`.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        tally: Tally,
        named: Callable[[HostPacket], HostPacket] = lambda packet: packet,
        failing: Callable[[], None] = lambda: None,
    ) -> None:
        """``named`` gives each packet the names that people gave its objects; ``failing`` is called
        where an error stops the thread, before the sinks say that the stream has ended."""
        self.heart = Heartbeat("egress")
        self._named = named
        self._failing = failing
        self._sinks = tuple(sinks)
        self._tally = tally
        self._queue: queue.SimpleQueue[_InFlight] = queue.SimpleQueue()
        self._waiting: deque[_InFlight] = deque()
        self._stop_by: float | None = None
        self._error: BaseException | None = None
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="egress", daemon=True
        )

    @property
    def wants_masks(self) -> bool:
        """Whether any sink wants the masks of a frame submitted now."""
        return any(sink.wants_masks for sink in self._sinks)

    @property
    def wants_logits(self) -> bool:
        """Whether any sink wants the logits of a frame submitted now."""
        return any(isinstance(sink, LogitsSink) and sink.wants_logits for sink in self._sinks)

    def start(self) -> None:
        self._thread.start()

    def submit(
        self, frame: FrameName, kind: FrameKind, pending: Pending, times: FrameTimes
    ) -> None:
        """Queue one result; raises the error that stopped the thread, if one did."""
        times.waits()
        self._queue.put(_InFlight(frame, kind, pending, times))
        if self._error is not None:
            raise self._error

    def stop(self, timeout_s: float) -> None:
        """Publish what is in flight, at most for `timeout_s`, and close the sinks; what is left
        over counts as stopped.

        Raises the error that stopped the thread, if one did.
        """
        self._stop_by = time.monotonic() + timeout_s
        self._thread.join(timeout_s + _POLL_S + _CLOSE_S)
        self._take()
        for item in self._waiting:
            self._tally.drop(item.frame, "stopped")
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._is_over():
                self.heart.beat()
                self._take()
                while self._is_next_done():
                    self._publish(self._waiting[0])
                    self._waiting.popleft()
                for sink in self._sinks:
                    sink.poll()
        except BaseException as error:
            self._error = error
            self._failing()
        finally:
            self.heart.rest()
            for sink in self._sinks:
                _close(sink)

    def _is_over(self) -> bool:
        if self._stop_by is None:
            return False
        nothing_left = self._queue.empty() and not self._waiting
        return nothing_left or time.monotonic() > self._stop_by

    def _take(self) -> None:
        try:
            self._waiting.append(self._queue.get(timeout=_POLL_S))
            while True:
                self._waiting.append(self._queue.get_nowait())
        except queue.Empty:
            return

    def _is_next_done(self) -> bool:
        done = [_is_done(item) for item in self._waiting]
        return bool(done) and done[0]

    def _publish(self, item: _InFlight) -> None:
        now_ns = time.monotonic_ns()
        item.times.goes_on(now_ns)
        packet = self._named(item.pending.host_packet())
        for sink in self._sinks:
            sink.write(packet)
        self._account(packet, item, now_ns)

    def _account(self, packet: HostPacket, item: _InFlight, now_ns: int) -> None:
        info, stages = packet.info, item.times.stages_ms()
        age_ms = (time.monotonic_ns() - info.captured_ns) / 1e6
        objects = len(packet.object_ids)
        self._tally.publish(info.grabbed_ns, now_ns, age_ms, stages, objects)
        emit(
            FramePublished(
                source_id=info.source_id,
                epoch=info.epoch,
                frame_id=info.frame_id,
                latency_ms=round((now_ns - info.grabbed_ns) / 1e6, 3),
                age_ms=round(age_ms, 3),
                stages_ms=stages,
                objects=objects,
                presence=tuple(round(float(value), 3) for value in packet.presence),
                queue_ms=round(item.times.queue_ms, 3),
                kind=item.kind,
            )
        )


def _is_done(item: _InFlight) -> bool:
    """Whether a result is on the host. While it is seen on its way it does not wait, the device
    works on it; one that is there when first seen has waited for this thread all along."""
    done = item.pending.ready() and item.times.ready()
    if done:
        item.times.waits()
    else:
        item.times.goes_on()
    return done


def _close(sink: Sink) -> None:
    """What a sink cannot write at the end costs what it writes, not the run."""
    try:
        sink.close()
    except Exception as error:
        emit(ErrorRaised(type(sink).__name__, f"{type(error).__name__}: {error}"))
