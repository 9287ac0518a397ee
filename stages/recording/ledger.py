"""What a writer was offered and what became of it; whether it writes or is paused, and why."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from stages.recording.entries import Gap
from stages.recording.entry import NO_FRAME, Stamp

WriterState = Literal["recording", "paused", "closed"]


@dataclass(frozen=True, slots=True)
class Clock:
    """Two clocks; others in tests."""

    monotonic: Callable[[], float] = time.monotonic
    unix_ns: Callable[[], int] = time.time_ns


@dataclass(frozen=True, slots=True)
class WriterStatus:
    """How a writer fares; `offered` is `written` + `dropped`, always.

    What a writer adds by itself (gaps, states, indices) is not counted.
    """

    state: WriterState
    reason: str | None
    """Why it is paused, or why it ended while it was."""
    offered: int
    written: int
    """Acknowledged: in the file, whatever becomes of this process."""
    dropped: int
    """While paused, and told by `drop`."""
    pauses: int
    written_bytes: int


class Ledger:
    """Counts, gaps that are not yet written, and the pause."""

    def __init__(self, clock: Clock, retry_s: float) -> None:
        """``retry_s``: a pause lasts at least so long."""
        self._clock = clock
        self._retry_s = retry_s
        self._retry_at = 0.0
        self._state: WriterState = "recording"
        self._reason: str | None = None
        self._written = self._dropped = self._pauses = self._written_bytes = 0
        self._gaps: dict[str, Gap] = {}

    @property
    def status(self) -> WriterStatus:
        counts = (self._written + self._dropped, self._written, self._dropped)
        return WriterStatus(self._state, self._reason, *counts, self._pauses, self._written_bytes)

    @property
    def paused(self) -> bool:
        return self._state == "paused"

    @property
    def reason(self) -> str:
        return self._reason or ""

    @property
    def may_retry(self) -> bool:
        return self._clock.monotonic() >= self._retry_at

    def wrote(self, nbytes: int) -> None:
        self._written += 1
        self._written_bytes += nbytes

    def drop(self, reason: str, stamp: Stamp, count: int = 1) -> None:
        """Count entries that are lost, in a gap that is open until `gaps_written`."""
        self._dropped += count
        now = self._clock.unix_ns()
        gap = self._gaps.get(reason) or Gap(reason, 0, since_unix_ns=now)
        first = stamp if gap.first == NO_FRAME else gap.first
        last = gap.last if stamp == NO_FRAME else stamp
        self._gaps[reason] = replace(
            gap, dropped=gap.dropped + count, first=first, last=last, until_unix_ns=now
        )

    def pause(self, reason: str, unsynced_from_seq: int | None = None) -> None:
        """Begin a pause, or put off its end."""
        if not self.paused:
            self._pauses += 1
        self._state, self._reason = "paused", reason
        self._retry_at = self._clock.monotonic() + self._retry_s
        now = self._clock.unix_ns()
        gap = self._gaps.get(reason) or Gap(reason, 0, since_unix_ns=now, until_unix_ns=now)
        if gap.unsynced_from_seq is None:
            gap = replace(gap, unsynced_from_seq=unsynced_from_seq)
        self._gaps[reason] = gap

    def resume(self) -> None:
        self._state, self._reason = "recording", None

    def close(self) -> None:
        """The reason of a pause that lasts stays."""
        self._state = "closed"

    def open_gaps(self) -> tuple[Gap, ...]:
        """A gap a reason, in the order in which they began."""
        now = self._clock.unix_ns()
        return tuple(replace(gap, until_unix_ns=now) for gap in self._gaps.values())

    def gap_written(self, gap: Gap) -> None:
        del self._gaps[gap.reason]
