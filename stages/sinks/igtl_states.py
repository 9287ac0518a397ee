"""What receivers are told about the stream itself: `StreamState`."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Final

from kpi.events import SourceState
from stages.packets import HostPacket
from stages.sinks.igtl_encode import OK, status

_CODES: Final[dict[SourceState, int]] = {
    "connecting": 13,  # not ready
    "streaming": OK,
    "stale": 7,  # time out, or connection lost
    "frozen": 18,  # hardware failure
    "reconnecting": 16,  # not present
    "ended": 19,  # shut down
    "failed": 2,  # unknown error
}
"""As http://openigtlink.org/protocols/v2_status.html lists them."""
_TEXTS: Final[dict[SourceState, str]] = {
    "connecting": "no picture has come yet",
    "streaming": "results are live",
    "stale": "no picture comes: the last masks are old",
    "frozen": "the same picture comes again and again: the masks are not live",
    "reconnecting": "the source is away: the last masks are old",
    "ended": "the stream has ended",
    "failed": "the stream has failed",
}


@dataclass(frozen=True, slots=True)
class Told:
    """A state, as it is sent."""

    state: SourceState
    text: str

    @property
    def content(self) -> bytes:
        """Of a STATUS message."""
        return status(_CODES[self.state], self.state, self.text)


class StreamState:
    """Heard from the source and from the results, by any thread."""

    def __init__(self, stale_after_s: float) -> None:
        self._stale_after_s = stale_after_s
        self._lock = threading.Lock()
        self._state: SourceState = "connecting"
        self._result_s: float | None = None
        self._result_stale = False

    def announce(self, state: SourceState) -> None:
        """What the source says of itself; nothing follows `ended` or `failed`."""
        with self._lock:
            if self._state not in ("ended", "failed"):
                self._state = state

    def result(self, packet: HostPacket) -> None:
        """A result came."""
        with self._lock:
            self._result_s, self._result_stale = time.monotonic(), packet.info.stale
            if self._state == "connecting":
                self._state = "streaming"

    def now(self) -> Told:
        """`stale` as well where results do not come although the source says nothing of it."""
        with self._lock:
            state, came_s = self._state, self._result_s
            if state != "streaming":
                return Told(state, _TEXTS[state])
            late = came_s is not None and time.monotonic() - came_s > self._stale_after_s
            if late:
                wait = f"{self._stale_after_s:g}"
                return Told("stale", f"no result came for {wait} s: the last masks are old")
            if self._result_stale:
                return Told("stale", _TEXTS["stale"])
            return Told(state, _TEXTS[state])
