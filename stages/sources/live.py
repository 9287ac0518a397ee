"""What keeps a live source going whatever its connection does: `LiveSource`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from kpi import emit
from kpi.events import SourceState, SourceStateChanged
from stages.base import Buffer, Picture
from stages.sources.backoff import Backoff
from stages.sources.continuity import Continuity
from stages.sources.feed import Arrival, CalledFeed, Dial, Feed, FeedError
from stages.sources.freeze import FreezeWatch
from stages.sources.live_section import LiveSection
from stages.sources.live_states import LiveStates
from stages.sources.region import RegionError

SLICE_S: Final = 0.1
"""How long a feed may wait at a time; how soon `close` and the watch on silence are heeded."""
_CLOSE_WAIT_S: Final = 0.3  # leaves time to whoever has a second to stop in all


class LiveSource:
    """Pictures of a live transport, for ever: a `Source` and a `SelfTelling` one.

    A connection that is lost, or silent for too long, is made anew, each attempt after a wait
    (see `Backoff`), until `close`; one that waits for a sender to call has time. What begins an
    epoch is told in `Continuity`, what the states mean in `live_states.py`; the end is told by
    whoever reads. Only `SourceError` from a feed, for what no other attempt can mend, is raised; a
    picture that is too small for the region is such a one only if it is the first.

    ``clock`` is monotonic seconds; ``pause`` waits so many, less once the source is closed.
    """

    tells_states: Final = True

    def __init__(
        self,
        config: LiveSection,
        dial: Dial,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.source_id = config.source_id
        roi = config.roi
        self.size_hw = config.size_hw if roi is None else (roi.height, roi.width)
        self._config = config
        self._dial = dial
        self._clock = clock
        self._closed = threading.Event()
        self._pause = self._closed.wait if pause is None else pause
        self._backoff = Backoff() if backoff is None else backoff
        self._states = LiveStates(self._tell)
        self._continuity = Continuity()
        self._freeze = FreezeWatch()
        self._reading = threading.Lock()
        self._feed: Feed | None = None
        self._fresh = False
        """Whether the feed has not given a picture yet."""
        self._heard = 0.0
        """When the feed was dialled (or called), gave its last picture, or was first listened to
        again."""

    def read(self, buffer: Buffer) -> Picture | None:
        """See `stages.base.Source.read`."""
        with self._reading:
            try:
                return self._next(buffer)
            except BaseException:
                self._end("failed")
                raise
            finally:
                if self._closed.is_set() or self._states.over:
                    self._hang_up()

    def close(self) -> None:
        """See `stages.base.Source.close`."""
        self._closed.set()
        if self._reading.acquire(timeout=_CLOSE_WAIT_S):
            try:
                self._hang_up()
            finally:
                self._reading.release()

    def _next(self, buffer: Buffer) -> Picture | None:
        if self._states.now is None:
            self._go("connecting")
        self._heard = self._clock()  # what passed since the last read was not the sender's silence
        while not self._closed.is_set() and not self._states.over:
            try:
                arrival = self._listen(buffer)
            except FeedError as error:
                self._lose(str(error))
            except RegionError as error:
                if not self._continuity.begun:
                    raise
                self._lose(str(error))
            except EOFError:
                self._end("ended")
            else:
                if arrival is not None:
                    return self._picture(arrival)
        self._end("ended")
        return None

    def _listen(self, buffer: Buffer) -> Arrival | None:
        """The next picture, or None after a while; raises `FeedError` after too long a silence."""
        if self._feed is None:
            self._feed = self._dial()
            self._fresh = True
            self._heard = self._clock()
            self._continuity.connect()
        arrival = self._feed.read(buffer, SLICE_S)
        if arrival is None:
            self._watch_silence()
        return arrival

    def _watch_silence(self) -> None:
        if isinstance(self._feed, CalledFeed) and not self._feed.is_called:
            self._heard = self._clock()
            return
        config, silent_s = self._config, self._clock() - self._heard
        limit_s = config.connect_within_s if self._fresh else config.reconnect_after_s
        if limit_s is not None and silent_s >= limit_s:
            raise FeedError(f"no picture for {silent_s:.1f} s")
        if silent_s >= config.stale_after_s and self._states.now in ("streaming", "frozen"):
            self._go("stale", f"no picture for {config.stale_after_s:g} s")

    def _picture(self, arrival: Arrival) -> Picture:
        self._heard = self._clock()
        self._backoff.reset()
        before = self._continuity.epoch
        epoch = self._continuity.follow(arrival)
        if self._fresh or epoch != before:
            self._freeze.reset()
        self._fresh = False
        self._tell_picture(arrival)
        return Picture(
            pixels=arrival.pixels,
            epoch=epoch,
            captured_ns=arrival.captured_ns,
            captured_unix_ns=arrival.captured_unix_ns,
            spacing_mm=self._config.spacing_mm or arrival.spacing_mm,
            pose=arrival.pose,
            origin_yx=arrival.origin_yx,
            full_hw=arrival.full_hw,
            boxes=arrival.boxes,
            ycbcr=arrival.ycbcr,
        )

    def _tell_picture(self, arrival: Arrival) -> None:
        limit = self._config.frozen_after
        if limit is not None and isinstance(arrival.pixels, np.ndarray):
            self._freeze.see(arrival.pixels)
        if limit is None or self._freeze.repeats < limit:
            self._go("streaming")
        elif self._states.now != "frozen":
            self._go("frozen", f"{limit} pictures equalled the one before")

    def _lose(self, reason: str) -> None:
        """Give the connection up and wait until it is time for the next."""
        self._hang_up()
        self._go("reconnecting", reason)
        self._pause(self._backoff.next_s())

    def _hang_up(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def _end(self, state: SourceState) -> None:
        if not self._states.over:
            self._go(state)

    def _go(self, state: SourceState, reason: str | None = None) -> None:
        self._states.go(state, self._continuity.epoch, reason)

    def _tell(self, state: SourceState, epoch: int, reason: str | None) -> None:
        if not self._states.over:
            emit(SourceStateChanged(self.source_id, epoch, state, reason))
