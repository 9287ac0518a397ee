"""KpiLogger: never blocks, loses nothing silently, survives its sinks."""

from __future__ import annotations

import contextvars
import subprocess
import sys
import threading
import time

import pytest

import kpi
from kpi.edge_events import SubscriberState
from kpi.emit import current_logger
from kpi.events import ErrorRaised, Event, EventsDropped
from kpi.logger import KpiLogger
from kpi.memory import MemorySink


def event(number: int) -> SubscriberState:
    return SubscriberState(topic="result/cam", subscribers=number)


class FlakySink(MemorySink):
    """Fails in `failing` ("write" or "flush") while one is set; counts the events it saw."""

    def __init__(self, failing: str | None) -> None:
        super().__init__()
        self.failing = failing
        self.seen = threading.Semaphore(0)

    def write(self, ts: float, event: Event) -> None:
        try:
            self._fail("write")
            super().write(ts, event)
        finally:
            self.seen.release()

    def flush(self) -> None:
        self._fail("flush")

    def _fail(self, where: str) -> None:
        if self.failing == where:
            raise OSError(28, "No space left on device")


def test_events_keep_their_order_and_time() -> None:
    sink = MemorySink()
    ticks = iter(range(100, 200))
    logger = KpiLogger([sink], clock=lambda: float(next(ticks)))
    for number in range(5):
        logger.emit(event(number))
    assert logger.close(timeout=30)
    assert sink.records[:5] == [(100.0 + n, event(n)) for n in range(5)]
    assert sink.records[5][1] == EventsDropped(dropped=0, lost={"MemorySink": 0})
    assert sink.closed


def test_emit_without_a_logger_does_nothing() -> None:
    assert current_logger.get() is None
    kpi.emit(event(1))


def test_use_sets_the_logger_for_its_block_only() -> None:
    sink = MemorySink()
    logger = KpiLogger([sink])
    with logger.use():
        kpi.emit(event(1))
    kpi.emit(event(2))
    logger.close(timeout=30)
    assert sink.of(SubscriberState) == [event(1)]


@pytest.mark.parametrize(("copied", "arrive"), [(True, [event(7)]), (False, [])])
def test_events_arrive_from_a_thread_in_a_copied_context(copied: bool, arrive: list[Event]) -> None:
    sink = MemorySink()
    logger = KpiLogger([sink])
    with logger.use():
        context = contextvars.copy_context() if copied else contextvars.Context()
        thread = threading.Thread(target=context.run, args=(kpi.emit, event(7)))
        thread.start()
        thread.join()
    logger.close(timeout=30)
    assert sink.of(SubscriberState) == arrive


def test_many_threads_lose_nothing() -> None:
    sink = MemorySink()
    logger = KpiLogger([sink], capacity=100_000)
    threads = [
        threading.Thread(target=lambda: [logger.emit(event(n)) for n in range(2000)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logger.close(timeout=30)
    assert len(sink.of(SubscriberState)) == 8000
    assert logger.dropped == 0


def test_emit_after_close_is_counted() -> None:
    logger = KpiLogger([sink := MemorySink()])
    logger.close(timeout=30)
    logger.emit(event(1))
    assert logger.close(timeout=30), "a second close is harmless"
    assert logger.dropped == 1
    assert sink.of(SubscriberState) == []


@pytest.mark.parametrize("where", ["write", "flush"])
def test_a_failing_sink_is_reported_once_per_outage_and_stops_nobody(where: str) -> None:
    flaky, healthy = FlakySink(where), MemorySink()
    logger = KpiLogger([flaky, healthy], period_s=0.001)
    for number in range(20):
        logger.emit(event(number))
        assert flaky.seen.acquire(timeout=10)
    flaky.failing = None
    while len(healthy.of(ErrorRaised)) < 2:  # the report of the recovery
        logger.emit(event(99))
        time.sleep(0.001)  # no more than a sink takes
    flaky.failing = where
    logger.emit(event(100))
    logger.close(timeout=30)
    reports = [error.message for error in healthy.of(ErrorRaised)]
    assert [error.where for error in healthy.of(ErrorRaised)] == ["kpi.FlakySink"] * len(reports)
    failures = [text for text in reports if "No space left" in text]
    assert len(failures) == 2, "one an outage, also for the one that began as the logger closed"
    assert sum("works again" in text for text in reports) == 1
    assert [e for e in healthy.of(SubscriberState) if e.subscribers < 20] == [
        event(n) for n in range(20)
    ]
    assert logger.lost["FlakySink"] >= 20
    assert logger.lost["MemorySink"] == 0
    last = healthy.events[-1]
    assert isinstance(last, EventsDropped)
    assert last.lost["FlakySink"] >= 20


def test_drops_are_reported_while_the_run_goes_on() -> None:
    sink = MemorySink()
    logger = KpiLogger([sink], capacity=1, period_s=0.001)
    with logger.use():
        for number in range(1000):
            kpi.emit(event(number))
    dropped = logger.dropped
    assert dropped > 0
    deadline = threading.Event()
    while not sink.of(EventsDropped) and not deadline.wait(0.01):
        pass
    assert 0 < sink.of(EventsDropped)[0].dropped <= dropped
    logger.close(timeout=30)


HEAVY = ("torch", "prometheus_client", "uvicorn", "starlette", "pynvml", "numpy")


@pytest.mark.parametrize(
    ("modules", "loads"),
    [
        ("kpi, kpi.events, kpi.emit, kpi.logger, kpi.memory, kpi.jsonl, kpi.timing", set()),
        ("kpi.device", set()),
        ("kpi.nvml", {"pynvml"}),
        ("kpi.prometheus", {"prometheus_client"}),
    ],
)
def test_light_modules_stay_light(modules: str, loads: set[str]) -> None:
    script = f"import {modules}, sys; print(*(set({HEAVY}) & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=kpi_root()
    )
    assert set(run.stdout.split()) == loads


def kpi_root() -> str:
    return kpi.__path__[0].rpartition("/")[0]
