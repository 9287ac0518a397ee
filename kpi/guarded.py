"""What a sink of events is, and how one that fails is kept from harming anything else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, Protocol

from kpi.edge_events import RecorderState, RecorderStateName
from kpi.events import ErrorRaised, Event

P = ParamSpec("P")
Batch = Sequence[tuple[float, Event]]
"""(Unix seconds, event), oldest first."""

_RETRY_S = 1.0
"""A paused recorder tries again so often, so that a disk with little room is no flicker."""


class EventSink(Protocol):
    """Where events go. Called by one thread, its own; may raise, may be slow, may hang.

    One with an attribute `recorder`, a name, is a recorder: its outages are told as
    `RecorderState`, and it rests between two tries.
    """

    def write(self, ts: float, event: Event) -> None:
        """Take one event; `ts` is Unix seconds."""

    def flush(self) -> None:
        """Make what was written visible to readers. Where it raises, everything written since
        the last flush is lost, or as much of it as an `EventsLostError` says."""

    def close(self) -> None:
        """Release everything; no call follows."""


class EventsLostError(Exception):
    """A flush gave up `count` records; the message says why."""

    def __init__(self, count: int, reason: str) -> None:
        super().__init__(reason)
        self.count = count


class Guarded:
    """A sink whose failures stop neither the run nor the other sinks.

    An outage lasts from the first failing call to the first flush after a batch without one; it
    is told when it begins and when it ends, through `tell` (an event, and the same for a person).
    A recorder whose flush fails is paused: it rests before it tries again. Flushes at most every
    `flush_s` seconds.
    """

    def __init__(self, sink: EventSink, tell: Callable[[Event, str], None], flush_s: float) -> None:
        self.name = type(sink).__name__
        self.lost = 0
        """Records that a call that failed cost."""
        self.through = 0
        """Events that a flush made visible."""
        self.outages = 0
        self.recoveries = 0
        self._sink = sink
        self._recorder: str | None = getattr(sink, "recorder", None)
        self._tell = tell
        self._flush_s = flush_s
        self._flush_at = self._retry_at = 0.0
        self._held = 0
        self._refused = False
        self._failure: str | None = None
        self._paused = False
        self._given_up = False

    @property
    def fails(self) -> bool:
        """Whether an outage goes on."""
        return self._failure is not None

    @property
    def flush_in_s(self) -> float | None:
        """Seconds until what was written is to be flushed; None where nothing waits for that."""
        return max(0.0, self._flush_at - time.monotonic()) if self._held else None

    def take(self, batch: Batch) -> None:
        """Write a batch, and flush where that is due."""
        if time.monotonic() < self._retry_at:
            self.lost += len(batch)
            return
        tried = [self._error(self._sink.write, ts, event) for ts, event in batch]
        errors = [error for error in tried if error is not None]
        self._held += len(batch) - len(errors)
        self._refused = bool(errors)
        if errors:
            self._lose(len(errors), errors[0])
        self.flush_due()

    def flush_due(self) -> None:
        """Flush what was written, where the last flush is long enough ago."""
        if self._held and time.monotonic() >= self._flush_at:
            self._flush()

    def settle(self) -> None:
        """Flush whatever was written; rest no longer, for what comes now is the last."""
        self._retry_at = self._flush_at = 0.0
        self.flush_due()

    def close(self) -> None:
        self.settle()
        error = self._error(self._sink.close)
        if error is not None:
            self._lose(0, error)

    def give_up(self) -> None:
        """Ask nothing more of the sink; callable from any thread, also while a call hangs."""
        self._given_up = True

    def say(self, text: str, state: RecorderStateName, reason: str, lost: int) -> None:
        """Tell that the sink is out of order, or no longer; a recorder's outage is a pause."""
        event: Event = ErrorRaised(f"kpi.{self.name}", text)
        if self._recorder is not None:
            event = RecorderState(self._recorder, state, reason, lost)
        self._tell(event, f"{self.name}: {text}")

    def _flush(self) -> None:
        held, self._held = self._held, 0
        self._flush_at = time.monotonic() + self._flush_s
        error = self._error(self._sink.flush)
        if error is None:
            self.through += held
            self._works_again()
            return
        pauses = self._recorder is not None
        if pauses:
            self._retry_at = time.monotonic() + _RETRY_S
        self._lose(held, error, pauses=pauses)

    def _lose(self, count: int, error: Exception, *, pauses: bool = False) -> None:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, EventsLostError):
            self.through += max(0, count - error.count)
            count, reason = error.count, str(error)
        self.lost += count
        self.outages += self._failure is None
        if self._failure is None or (pauses and not self._paused):
            self._failure, self._paused = reason, pauses
            self._tell_outage(reason, "paused", reason)

    def _works_again(self) -> None:
        if self._failure is not None and not self._refused:
            self.recoveries += 1
            text = f"works again; {self.lost} events lost so far"
            self._tell_outage(text, "recording", self._failure)
            self._failure, self._paused = None, False

    def _tell_outage(self, text: str, state: RecorderStateName, reason: str) -> None:
        if self._paused:
            self.say(text, state, reason, self.lost)
        else:  # a mistake in one event pauses no recorder
            self._tell(ErrorRaised(f"kpi.{self.name}", text), f"{self.name}: {text}")

    def _error(
        self, call: Callable[P, None], *args: P.args, **kwargs: P.kwargs
    ) -> Exception | None:
        try:
            if not self._given_up:
                call(*args, **kwargs)
        except Exception as error:
            return error
        return None
