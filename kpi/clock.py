"""Unix time that does not jump between two events."""

from __future__ import annotations

import time
from collections.abc import Callable

_READINGS = 3
_JITTER_NS = 1_000_000
"""Two readings of the same two clocks may differ so much; to follow that would be a flicker."""


class AnchoredClock:
    """Unix seconds, counted on the monotonic clock and anchored anew every `anchor_s` seconds.

    Between two anchors a setting of the wall clock moves nothing, so the distance of two events
    is a true one; after `anchor_s` seconds the clock follows, so over days it does not drift.
    Callable from any thread, without a lock: two threads that anchor at once do the same twice.
    `unix_ns` and `monotonic_ns` are the clocks behind it.
    """

    def __init__(
        self,
        anchor_s: float = 60.0,
        *,
        unix_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if not anchor_s > 0:
            raise ValueError(f"got anchor_s {anchor_s}, expected more than 0")
        self._anchor_ns = int(anchor_s * 1e9)
        self._unix_ns = unix_ns
        self._monotonic_ns = monotonic_ns
        self._anchor = self._read()

    def __call__(self) -> float:
        now = self._monotonic_ns()
        offset, at = self._anchor
        if now - at >= self._anchor_ns:
            fresh, at = self._read()
            offset = fresh if abs(fresh - offset) > _JITTER_NS else offset
            self._anchor = offset, at
        return (offset + now) / 1e9

    def _read(self) -> tuple[int, int]:
        """Unix minus monotonic time, and when that was; of a few readings the one that was
        interrupted least."""
        _, offset, at = min(self._reading() for _ in range(_READINGS))
        return offset, at

    def _reading(self) -> tuple[int, int, int]:
        before, unix, after = self._monotonic_ns(), self._unix_ns(), self._monotonic_ns()
        return after - before, unix - (before + after) // 2, before
