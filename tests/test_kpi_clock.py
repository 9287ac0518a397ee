"""The clock of the events: steady between two anchors, true over days."""

from __future__ import annotations

import time

import pytest

from kpi.clock import AnchoredClock

S = 10**9


class Clocks:
    """A monotonic clock, and a Unix clock that can be set and that runs at its own rate."""

    def __init__(self) -> None:
        self.monotonic = 5 * S
        self.unix = 1_800_000_000 * S
        self.stalls = 0

    def pass_s(self, seconds: float, rate: float = 1.0) -> None:
        self.monotonic += int(seconds * S)
        self.unix += int(seconds * rate * S)

    def unix_ns(self) -> int:
        if self.stalls:
            self.stalls -= 1
            self.pass_s(0.25)
        return self.unix

    def monotonic_ns(self) -> int:
        return self.monotonic


def clock(clocks: Clocks) -> AnchoredClock:
    return AnchoredClock(60, unix_ns=clocks.unix_ns, monotonic_ns=clocks.monotonic_ns)


def test_it_tells_unix_time() -> None:
    assert AnchoredClock()() == pytest.approx(time.time(), abs=0.05)


def test_a_wall_clock_that_is_set_moves_nothing_until_the_next_anchor() -> None:
    clocks = Clocks()
    now = clock(clocks)
    first = now()
    clocks.unix += 3600 * S
    clocks.pass_s(10)
    assert now() - first == pytest.approx(10, abs=1e-6)
    clocks.pass_s(51)
    assert now() - first == pytest.approx(3661, abs=1e-6), "it follows within a minute"


def test_over_days_it_does_not_drift() -> None:
    clocks = Clocks()
    now = clock(clocks)
    for _ in range(3 * 24 * 60):
        clocks.pass_s(60, rate=1.0001)
        assert abs(now() - clocks.unix / S) < 0.01
    unanchored = 1_800_000_000 + 3 * 86_400
    assert clocks.unix / S - unanchored > 20, "negative control: one anchor would be 26 s off"


def test_anchoring_anew_turns_no_clock_back_by_a_hair() -> None:
    clocks = Clocks()
    now = clock(clocks)
    before = now()
    clocks.unix -= 400_000
    clocks.pass_s(60)
    assert now() - before == pytest.approx(60, abs=1e-7)


def test_an_interrupted_reading_is_not_the_anchor() -> None:
    clocks = Clocks()
    clocks.stalls = 2
    assert clock(clocks)() == pytest.approx(clocks.unix / S, abs=1e-6)


@pytest.mark.parametrize("anchor", [0.0, -1.0, float("nan")])
def test_a_bad_interval_is_refused(anchor: float) -> None:
    with pytest.raises(ValueError, match="expected more than 0"):
        AnchoredClock(anchor)
