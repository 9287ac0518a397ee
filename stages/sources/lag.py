"""How far a stream is behind its sender, and when that is too far: `LagWatch`, `BurstWatch`,
`LagLimit`."""

from __future__ import annotations

from typing import Final

from stages.sources.feed import FeedError

_LATE_FOR_S: Final = 5.0
"""A stream that is late for so long does not catch up by itself."""
_IN_TIME: Final = 0.75
_LONGEST_BURST_NS: Final = 2_000_000_000
_MOST_DRIFT: Final = 2e-3
"""How much slower than ours a sender's clock may run without seeming to fall behind. Quartz is
within 1e-4, but some cameras' stamps run 1e-3 off. A queue that builds up grows by far more."""
_WINDOW_NS: Final = 10_000_000_000
"""Over so long a picture or two come without delay, and what delay all have in common shows."""


class LagWatch:
    """Compares when pictures arrive with the sender's own clock, for one connection.

    Whatever arrived with the least delay so far counts as on time; what arrives later than that,
    by the sender's clock, waited somewhere: in the network, or for us. Where the least delay grows
    from one window to the next by no more than clocks differ, it is the clock, and counts no
    longer; a queue that stays as it is does.
    """

    def __init__(self) -> None:
        self._base_ns = 0
        """Arrival less the sender's clock, of a picture that came at once."""
        self._last: tuple[int, int] | None = None
        self._drift = 0.0
        self._window_ns = 0
        self._least: tuple[int, int] = (0, 0)
        """Delay, arrival of the picture with the least one in this window."""
        self._least_before: tuple[int, int] | None = None

    def lag_ns(self, arrived_ns: int, sender_ns: int) -> int:
        """Nanoseconds (>= 0) that a picture stamped ``sender_ns`` came late; 0 where the sender's
        clock stands still or ran backwards, for then it tells nothing."""
        delay_ns = arrived_ns - sender_ns
        last, self._last = self._last, (arrived_ns, sender_ns)
        if last is None or sender_ns <= last[1]:
            self._base_ns, self._drift = delay_ns, 0.0
            self._least_before = None
            self._begin(arrived_ns, delay_ns)
            return 0
        self._base_ns += round((arrived_ns - last[0]) * self._drift)
        self._base_ns = min(self._base_ns, delay_ns)
        if arrived_ns - self._window_ns >= _WINDOW_NS:
            self._learn()
            self._begin(arrived_ns, delay_ns)
        self._least = min(self._least, (delay_ns, arrived_ns))
        return delay_ns - self._base_ns

    def _begin(self, arrived_ns: int, delay_ns: int) -> None:
        self._window_ns, self._least = arrived_ns, (delay_ns, arrived_ns)

    def _learn(self) -> None:
        before, self._least_before = self._least_before, self._least
        if before is not None:
            drift = (self._least[0] - before[0]) / (self._least[1] - before[1])
            if 0 <= drift <= _MOST_DRIFT:
                self._drift = drift


class BurstWatch:
    """Whether a connection still gives what had waited before it began: what FFmpeg read ahead,
    or the server kept. Such pictures are old, and nothing tells yet by how much. ``is_over``: there
    is none, or no clock to tell it by."""

    def __init__(self, is_over: bool = False) -> None:
        self.is_over = is_over
        self._first_ns = 0
        self._last: tuple[int, int] | None = None

    def see(self, arrived_ns: int, sender_ns: int | None) -> None:
        """A packet arrived, stamped ``sender_ns`` if at all. The burst is over with the first that
        took about as long to come after the one before as the sender's clock says, or after 2 s,
        for a sender may always be faster than its clock."""
        last = self._last
        if self.is_over or sender_ns is None:
            self.is_over = True
        elif last is None:
            self._first_ns = arrived_ns
        else:
            in_time = arrived_ns - last[0] >= _IN_TIME * (sender_ns - last[1])
            self.is_over = in_time or arrived_ns - self._first_ns > _LONGEST_BURST_NS
        self._last = None if sender_ns is None else (arrived_ns, sender_ns)


class LagLimit:
    """A `LagWatch` that gives a stream up which stays later than ``max_lag_s``; None: the sender's
    clock is not to be believed, and nothing is late."""

    def __init__(self, max_lag_s: float | None) -> None:
        self._max_lag_s = max_lag_s
        self._watch = LagWatch()
        self._late_since_ns: int | None = None

    def lag_ns(self, arrived_ns: int, sender_ns: int) -> int:
        """See `LagWatch.lag_ns`; raises `FeedError` once the stream was late for 5 s."""
        if self._max_lag_s is None:
            return 0
        lag_ns = self._watch.lag_ns(arrived_ns, sender_ns)
        if lag_ns < self._max_lag_s * 1e9:
            self._late_since_ns = None
        elif self._late_since_ns is None:
            self._late_since_ns = arrived_ns
        elif arrived_ns - self._late_since_ns > _LATE_FOR_S * 1e9:
            raise FeedError(
                f"the stream is {lag_ns / 1e9:.1f} s late by the sender's clock and does not catch "
                "up (max_lag_s: null where that clock is wrong)"
            )
        return lag_ns
