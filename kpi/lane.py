"""One sink on a thread of its own, so that one that hangs costs nobody but itself."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from typing import Final

from kpi.guarded import Batch, Guarded

_HANG_S: Final = 5.0
"""A call that lasts so long is told as an outage; a busy disk stalls for a second or two."""


class Lane:
    """A sink, the events that wait for it, and its thread.

    At most `capacity` events wait; what comes beyond is lost to this sink. Only the lane's own
    thread calls the sink; the other methods are the logger's thread's, and none of them waits
    longer than it is told to.
    """

    def __init__(self, sink: Guarded, capacity: int) -> None:
        self.name = sink.name
        self._sink = sink
        self._capacity = capacity
        self._orders: queue.SimpleQueue[Batch | threading.Event | None] = queue.SimpleQueue()
        self._handed = self._taken = 0  # of events; each is written by one thread only
        self._overflowed = 0
        self._busy_since: float | None = None
        self._settled = threading.Event()
        self._hangs = False
        self._hung = self._went_on = 0
        self._lost_for_good: int | None = None
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._work,), name=f"kpi-{self.name}", daemon=True
        )
        self._thread.start()

    @property
    def lost(self) -> int:
        """Events that the sink did not take: it failed, too many waited, or it was abandoned."""
        if self._lost_for_good is not None:
            return self._lost_for_good
        return self._sink.lost + self._overflowed

    @property
    def abandoned(self) -> bool:
        return self._lost_for_good is not None

    @property
    def outages(self) -> int:
        """Times the sink failed or hung."""
        return self._sink.outages + self._hung

    @property
    def recoveries(self) -> int:
        """Times it worked again."""
        return self._sink.recoveries + self._went_on

    def post(self, batch: Batch) -> None:
        """Queue a batch, or as much of it as may wait."""
        room = self._capacity - (self._handed - self._taken)
        if room < len(batch):
            self._overflowed += len(batch) - max(0, room)
            batch = batch[: max(0, room)]
        if batch:
            self._handed += len(batch)
            self._orders.put(batch)

    def look(self) -> None:
        """Tell, once each, that a call hangs and that it came back."""
        since = self._busy_since
        if since is not None and time.monotonic() - since > _HANG_S:
            self._tell_hang()
        elif self._hangs:
            self._hangs = False
            self._went_on += 1
            if not self._sink.fails:  # it tells of that itself
                text = f"goes on; {self.lost} events lost so far"
                self._sink.say(text, "recording", "it hung", self.lost)

    def settle(self) -> None:
        """Have everything queued written and flushed, without waiting for it."""
        self._settled = threading.Event()
        self._orders.put(self._settled)

    def await_settled(self, by: float) -> bool:
        """Whether that was done by monotonic time `by`."""
        return self._settled.wait(max(0.0, by - time.monotonic()))

    def finish(self) -> None:
        """Have the sink closed once it has taken what is queued, without waiting for it."""
        self._orders.put(None)

    def await_finished(self, by: float) -> bool:
        self._thread.join(max(0.0, by - time.monotonic()))
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Leave the sink to its hanging call, unclosed: what is not known to have got through is
        lost."""
        if self._lost_for_good is None:
            self._lost_for_good = lost = self._overflowed + self._handed - self._sink.through
            self._sink.give_up()
            self._hung += not self._hangs
            self._sink.say(f"is left hanging; {lost} events lost", "paused", "it hangs", lost)

    def _tell_hang(self) -> None:
        if not self._hangs:
            self._hangs = True
            self._hung += 1
            if not self._sink.fails:
                self._sink.say("hangs", "paused", "it hangs", self.lost)

    def _work(self) -> None:
        while not self.abandoned:
            order = self._next()
            if order is None:
                self._sink.close()
                return
            self._busy_since = time.monotonic()
            if isinstance(order, threading.Event):
                self._sink.settle()
                order.set()
            elif order:
                self._sink.take(order)
                self._taken += len(order)
            else:
                self._sink.flush_due()
            self._busy_since = None

    def _next(self) -> Batch | threading.Event | None:
        """What to do next; nothing, where a flush is due."""
        try:
            return self._orders.get(timeout=self._sink.flush_in_s)
        except queue.Empty:
            return ()
