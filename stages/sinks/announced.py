"""What a publisher says of its stream, and when: `Announced`, `StateClock`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kpi.events import SourceState
from stages.packets import PacketInfo

STATE_EVERY_S: Final = 1.0
NEWCOMERS_EVERY_S: Final = 0.25
"""A state goes to everybody, and takes the place of a result in a full queue: who subscribes again
and again must not make others lose theirs."""


@dataclass(frozen=True, slots=True)
class State:
    """How the stream is, and its newest epoch."""

    state: SourceState
    epoch: int


@dataclass(frozen=True, slots=True)
class _Newest:
    epoch: int
    came_s: float
    stale: bool


class Announced:
    """The state that holds, and whether the newest result is live; set by any thread, read by
    any."""

    def __init__(
        self,
        stale_after_s: float,
        late_after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A result is stale where it is older than ``stale_after_s`` as it comes, or where none
        follows it for ``late_after_s``."""
        self._stale_after_s = stale_after_s
        self._late_after_s = late_after_s
        self._clock = clock
        self._lock = threading.Lock()
        self._newest: _Newest | None = None
        self._since_s = 0.0
        self.now = State("connecting", 0)

    def set(self, state: SourceState, epoch: int) -> None:
        """From now on; none follows `ended` or `failed`."""
        with self._lock:
            if self.now.state not in ("ended", "failed"):
                self.now = State(state, epoch)
                self._since_s = self._clock()

    def result(self, info: PacketInfo) -> bool:
        """Take note of a result, after which a stream is no longer `connecting`; whether it is
        stale: too old, or of an epoch before the newest."""
        now_s = self._clock()
        with self._lock:
            state, epoch = self.now.state, max(self.now.epoch, info.epoch)
            self.now = State("streaming" if state == "connecting" else state, epoch)
            too_old = now_s - info.captured_ns / 1e9 > self._stale_after_s
            stale = info.stale or info.epoch < epoch or too_old
            self._newest = _Newest(info.epoch, now_s, stale)
        return stale

    @property
    def stale(self) -> bool:
        """Whether the newest result was stale, its epoch is over by now, or none follows it."""
        with self._lock:
            newest, epoch = self._newest, self.now.epoch
        if newest is None:
            return False
        return newest.stale or newest.epoch < epoch or self._is_past(newest.came_s)

    @property
    def stuck(self) -> bool:
        """Whether results came, and do no more although the source streams."""
        with self._lock:
            newest, streams = self._newest, self.now.state == "streaming"
            since_s = self._since_s
        if newest is None or not streams:
            return False
        return self._is_past(max(newest.came_s, since_s))

    def _is_past(self, at_s: float) -> bool:
        return self._clock() - at_s > self._late_after_s


class StateClock:
    """When the state, unchanged, is to be said again; one thread's."""

    def __init__(self) -> None:
        self._due_s, self._newcomers_s = 0.0, 0.0
        self._joined = False

    def said(self) -> None:
        """It was said just now."""
        now_s = time.monotonic()
        self._due_s = now_s + STATE_EVERY_S
        if self._joined:
            self._newcomers_s = now_s + NEWCOMERS_EVERY_S
        self._joined = False

    def is_due(self, joined: bool) -> bool:
        """Whether it is; ``joined``: somebody began to listen since the last look."""
        self._joined |= joined
        due_s = min(self._due_s, self._newcomers_s) if self._joined else self._due_s
        return time.monotonic() >= due_s
