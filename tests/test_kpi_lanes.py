"""A sink that hangs costs itself alone, is told of, and does not hold up the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from kpi_lines import event
from kpi_sinks import HungRecorder, HungSink

from kpi.edge_events import RecorderState, SubscriberState
from kpi.events import ErrorRaised, Event, EventsDropped
from kpi.guarded import EventSink
from kpi.logger import KpiLogger
from kpi.memory import MemorySink

NUMBERS = [event(number) for number in range(100)]


@pytest.fixture
def hung() -> Iterator[HungSink]:
    sink = HungSink()
    yield sink
    sink.release.set()


@pytest.fixture
def recorder() -> Iterator[HungRecorder]:
    sink = HungRecorder()
    yield sink
    sink.release.set()


class Together:
    """Several sinks on one thread, one after the other."""

    def __init__(self, sinks: Sequence[EventSink]) -> None:
        self._sinks = sinks

    def write(self, ts: float, event: Event) -> None:
        for sink in self._sinks:
            sink.write(ts, event)

    def flush(self) -> None: ...

    def close(self) -> None: ...


def within(seconds: float, done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def emit_slowly(logger: KpiLogger, events: Sequence[Event]) -> None:
    """So that few wait at once."""
    for one in events:
        logger.emit(one)
        time.sleep(0.001)


@pytest.mark.parametrize("shared", [False, True])
def test_the_other_sinks_have_everything_within_a_second(hung: HungSink, shared: bool) -> None:
    """On a thread that they shared with the one that hangs they would have nothing."""
    healthy = MemorySink()
    sinks: list[EventSink] = [hung, healthy]
    logger = KpiLogger([Together(sinks)] if shared else sinks)
    logger.emit(NUMBERS[0])
    assert hung.entered.wait(10)
    for one in NUMBERS[1:]:
        logger.emit(one)
    assert within(1.0, lambda: healthy.of(SubscriberState) == NUMBERS) is not shared
    assert not logger.close(timeout=0.2)


def test_what_it_loses_is_counted_by_sink_and_told_last(hung: HungSink) -> None:
    healthy = MemorySink()
    logger = KpiLogger([hung, healthy], capacity=40, period_s=0.001)
    emit_slowly(logger, NUMBERS)
    assert within(10, lambda: len(healthy.of(SubscriberState)) == 100)
    assert hung.entered.is_set()
    assert logger.lost["HungSink"] >= 60, "beyond the 40 that may wait for it"
    assert within(10, lambda: bool(healthy.of(EventsDropped))), "told while the run goes on"
    assert not logger.close(timeout=0.3)
    assert logger.dropped == 0
    last = healthy.events[-1]
    assert last == EventsDropped(dropped=0, lost=logger.lost)
    told = [error.message for error in healthy.of(ErrorRaised)]
    assert told == [f"is left hanging; {logger.lost['HungSink']} events lost"]
    assert logger.lost == {"HungSink": len(healthy.events) - 2, "MemorySink": 0}


@pytest.mark.parametrize("released", [False, True])
def test_close_waits_as_long_as_it_may_and_no_longer(hung: HungSink, released: bool) -> None:
    healthy = MemorySink()
    logger = KpiLogger([hung, healthy])
    logger.emit(NUMBERS[0])
    assert hung.entered.wait(10)
    logger.emit(NUMBERS[1])
    if released:
        hung.release.set()
    begin = time.monotonic()
    assert logger.close(timeout=1.0) is released
    assert time.monotonic() - begin < 2.0
    assert hung.closed is released
    assert healthy.closed, "the others are closed in either case"
    report = logger.report()
    assert report.abandoned == (() if released else ("HungSink",))
    assert report.outages == {"HungSink": 0 if released else 1, "MemorySink": 0}
    assert report.lost["HungSink"] == (0 if released else 2)


def test_an_abandoned_sink_is_asked_nothing_more(hung: HungSink) -> None:
    logger = KpiLogger([hung], period_s=0.001)
    logger.emit(NUMBERS[0])
    assert hung.entered.wait(10)
    emit_slowly(logger, NUMBERS[1:5])
    assert not logger.close(timeout=0.1)
    lost = logger.lost
    hung.release.set()
    assert within(10, lambda: "kpi-HungSink" not in {t.name for t in threading.enumerate()})
    assert hung.written == NUMBERS[:1], "the call that hung came back, and was the last"
    assert not hung.closed
    assert logger.lost == lost


def test_a_hang_is_told_once_and_so_is_its_end(
    monkeypatch: pytest.MonkeyPatch, recorder: HungRecorder
) -> None:
    monkeypatch.setattr("kpi.lane._HANG_S", 0.05)
    logger = KpiLogger([recorder, told := MemorySink()], period_s=0.005)
    emit_slowly(logger, NUMBERS)
    assert within(10, lambda: bool(told.of(RecorderState)))
    emit_slowly(logger, NUMBERS)
    recorder.release.set()
    assert within(10, lambda: len(told.of(RecorderState)) > 1)
    assert logger.close(timeout=30)
    states = [(state.recorder, state.state, state.reason) for state in told.of(RecorderState)]
    assert states == [("kpi", "paused", "it hangs"), ("kpi", "recording", "it hung")]
    report = logger.report()
    assert report.outages == report.recoveries == {"HungRecorder": 1, "MemorySink": 0}
    assert report.lost == {"HungRecorder": 0, "MemorySink": 0}, "it was late, and lost nothing"


def test_a_sink_that_is_slow_but_comes_round_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpi.lane._HANG_S", 1.0)

    class Slow(MemorySink):
        def write(self, ts: float, event: Event) -> None:
            time.sleep(0.01)
            super().write(ts, event)

    logger = KpiLogger([slow := Slow()], period_s=0.005)
    emit_slowly(logger, NUMBERS)
    assert logger.close(timeout=30)
    assert logger.report().outages == {"Slow": 0}
    assert slow.of(SubscriberState) == NUMBERS
