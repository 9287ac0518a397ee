"""The frame loop and egress with small fakes of our own interfaces: every frame accounted for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kpi.events import ErrorRaised, Event, FrameDropped, FramePublished
from kpi.logger import KpiLogger
from kpi.memory import MemorySink
from kpi.timing import FrameTimes, StageTimer
from pipeline.chain import RESIDENT_STAGES, Wanted
from pipeline.egress import Egress
from pipeline.orchestrator import AuditPlan, Orchestrator
from pipeline.tally import FrameName, Tally
from stages.base import Buffer, Picture, Source
from stages.copies import CopyCount
from stages.detectors.none import NoDetector, NoDetectorConfig
from stages.errors import GpuError, ResidencyError, SourceError, StageError
from stages.grab import Grab
from stages.pack import packet_info
from stages.packets import HostPacket
from stages.records import Encoded, Frame

CPU = torch.device("cpu")
SIZE = (8, 12)
NO_AUDIT = AuditPlan(0, "count")
BOTH_HALVES = pytest.mark.parametrize("half", ["look", "finish"])


class CountingSource:
    """`count` grey pictures; raises `error` after them, where one is given."""

    source_id = "fake"
    size_hw = SIZE

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self._left = count
        self._error = error

    def read(self, buffer: Buffer) -> Picture | None:
        if self._left == 0:
            if self._error is not None:
                raise self._error
            return None
        self._left -= 1
        pixels: NDArray[np.uint8] = buffer(SIZE)
        pixels[...] = self._left % 256
        return Picture(pixels=pixels, epoch=0, captured_ns=time.monotonic_ns())

    def close(self) -> None:
        self._left = 0


class FakePending:
    def __init__(self, frame: Frame, polls: int) -> None:
        self._frame = frame
        self._polls = polls

    def ready(self) -> bool:
        self._polls -= 1
        return self._polls < 0

    def host_packet(self) -> HostPacket:
        floats, ints = np.zeros(0, np.float32), np.zeros(0, np.int32)
        return HostPacket(
            packet_info(self._frame, "none"),
            np.zeros(0, np.int64),
            ints,
            floats,
            floats,
            floats,
            ints,
            np.zeros((0, 4), np.int32),
            ints,
            np.zeros((0, 2), np.float32),
        )


class FakeChain:
    """Does `work` on each frame; its results are ready after `polls` polls."""

    stages = RESIDENT_STAGES
    copies: tuple[CopyCount, ...] = ()

    def __init__(
        self,
        work: Callable[[Frame], object] = lambda frame: None,
        polls: int = 0,
        half: str = "finish",
    ) -> None:
        self._work = work
        self._half = half
        self._polls = polls

    def warm_up(self, frame: Frame) -> None:
        self._work(frame)

    def wait_slot(self, timeout_s: float) -> bool:
        return True

    def look(self, frame: Frame, times: FrameTimes) -> Encoded:
        if self._half == "look":
            self._work(frame)
        with times.stage("detect"):
            detections = NoDetector(NoDetectorConfig(max_detections=1), CPU).detect(frame)
        with times.stage("encode"):
            return Encoded(detections, features=None)

    def finish(self, encoded: Encoded, times: FrameTimes, wanted: Wanted) -> FakePending:
        frame = encoded.detections.frame
        with times.stage("segment"):
            if self._half == "finish":
                self._work(frame)
        return FakePending(frame, self._polls)


class FakeSink:
    wants_masks = False

    def __init__(self, fail_at: int | None = None) -> None:
        self.frame_ids: list[int] = []
        self.closed = False
        self._fail_at = fail_at

    def write(self, packet: HostPacket) -> None:
        if packet.info.frame_id == self._fail_at:
            raise OSError("the sink is full")
        self.frame_ids.append(packet.info.frame_id)

    def poll(self) -> None: ...

    def close(self) -> None:
        self.closed = True


class Rig:
    """A frame loop with a fake chain and a fake sink, and what came of it."""

    def __init__(
        self, chain: FakeChain, sink: FakeSink, plan: AuditPlan = NO_AUDIT, *, warm: bool = True
    ) -> None:
        self.tally = Tally(RESIDENT_STAGES)
        self.egress = Egress((sink,), self.tally)
        timer = StageTimer("cpu")
        self.loop = Orchestrator(chain, self.egress, timer, self.tally, plan, (), warm=warm)
        self.sink = sink
        self.stop = threading.Event()
        self.errors: list[Exception] = []

    def run(self, source: Source, frames: int | None = None, **options: Any) -> Grab:
        grab = Grab(source, CPU, **{"mailbox": "every", "depth": 4, "frames": frames, **options})
        self.tally.upstream = lambda: grab.dropped
        self.egress.start()
        grab.start()
        for step in (
            lambda: self.loop.run(grab, self.stop),
            grab.stop,
            lambda: self.egress.stop(5.0),
        ):
            try:
                step()
            except Exception as error:
                self.errors.append(error)
        return grab

    def accounted(self) -> int:
        return self.tally.published + sum(self.tally.dropped.values())


@contextmanager
def recorded() -> Iterator[MemorySink]:
    sink = MemorySink()
    logger = KpiLogger([sink])
    try:
        with logger.use():
            yield sink
    finally:
        logger.close()


def fails_on(frame_id: int, error: Exception) -> Callable[[Frame], None]:
    def work(frame: Frame) -> None:
        if frame.frame_id == frame_id:
            raise error

    return work


def test_every_frame_is_published_in_order_and_told() -> None:
    with recorded() as events:
        rig = Rig(FakeChain(polls=2), FakeSink())
        grab = rig.run(CountingSource(25))
    assert rig.errors == []
    assert rig.sink.frame_ids == list(range(25))
    assert grab.grabbed == rig.tally.published == 25
    assert [event.frame_id for event in events.of(FramePublished)] == list(range(25))
    assert rig.sink.closed


class SlowSink(FakeSink):
    def write(self, packet: HostPacket) -> None:
        time.sleep(0.02)
        super().write(packet)


@pytest.mark.parametrize("slow", ["look", "finish", "sink"])
def test_waiting_is_told_apart_from_work(slow: str) -> None:
    """Whoever is slow, the frames wait before it, and are worked on for the rest of their way."""
    work = (lambda frame: None) if slow == "sink" else (lambda frame: time.sleep(0.02))
    with recorded() as events:
        sink = SlowSink() if slow == "sink" else FakeSink()
        rig = Rig(FakeChain(work, half=slow), sink)
        rig.run(CountingSource(8))
    told = events.of(FramePublished)
    assert len(told) == 8
    for event in told:
        assert event.queue_ms is not None
        assert 0 <= event.queue_ms <= event.latency_ms
        worked = 0.0 if slow == "sink" else 20.0
        assert event.latency_ms - event.queue_ms >= worked - 1
    waits = [event.queue_ms or 0.0 for event in told]
    assert max(waits) >= 19, "some frame waited while another was worked on"


def test_a_result_that_is_under_way_does_not_wait() -> None:
    with recorded() as events:
        rig = Rig(FakeChain(polls=20), FakeSink())
        rig.run(CountingSource(1))
    (event,) = events.of(FramePublished)
    assert event.queue_ms is not None
    assert event.latency_ms - event.queue_ms > 15, "twenty polls, 2 ms apart"


def test_a_log_that_hangs_costs_no_frame() -> None:
    release, entered = threading.Event(), threading.Event()

    class Hung(MemorySink):
        def write(self, ts: float, event: Event) -> None:
            entered.set()
            release.wait()

    logger = KpiLogger([Hung()], capacity=10, period_s=0.001)
    with logger.use():
        logger.emit(ErrorRaised("test", "the first event, on which it hangs"))
        assert entered.wait(20)
        rig = Rig(FakeChain(), FakeSink())
        grab = rig.run(CountingSource(100))
    assert rig.errors == []
    assert grab.grabbed == rig.tally.published == 100
    assert not logger.close(timeout=0.1)
    assert logger.dropped + logger.lost["Hung"] > 100, "one event a frame, and the first"
    release.set()


def test_a_sink_that_cannot_close_costs_only_its_own() -> None:
    class Full(FakeSink):
        def close(self) -> None:
            raise OSError(28, "No space left on device")

    with recorded() as events:
        rig = Rig(FakeChain(), Full())
        rig.run(CountingSource(3))
    assert rig.errors == []
    assert rig.tally.published == 3
    (error,) = events.of(ErrorRaised)
    assert (error.where, "No space left" in error.message) == ("Full", True)


def test_the_frame_limit_counts_grabbed_frames() -> None:
    rig = Rig(FakeChain(), FakeSink())
    assert rig.run(CountingSource(100), frames=7).grabbed == 7
    assert rig.tally.published == 7


@BOTH_HALVES
def test_out_of_memory_costs_one_frame_and_the_run_goes_on(half: str) -> None:
    with recorded() as events:
        rig = Rig(
            FakeChain(fails_on(3, torch.OutOfMemoryError("no memory")), half=half), FakeSink()
        )
        grab = rig.run(CountingSource(10))
    assert rig.errors == []
    assert rig.tally.dropped == {"oom": 1}
    assert rig.sink.frame_ids == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert grab.grabbed == rig.accounted()
    assert [(e.frame_id, e.reason) for e in events.of(FrameDropped)] == [(3, "oom")]


@BOTH_HALVES
def test_a_failing_stage_ends_the_run_and_every_frame_is_accounted_for(half: str) -> None:
    error = StageError("segment", 5, "it broke")
    rig = Rig(FakeChain(fails_on(5, error), half=half), FakeSink())
    grab = rig.run(CountingSource(1000))
    assert rig.errors == [error]
    assert rig.sink.frame_ids == [0, 1, 2, 3, 4]
    assert rig.tally.dropped["stopped"] >= 1
    assert grab.grabbed == rig.accounted()


@BOTH_HALVES
def test_a_broken_gpu_has_its_own_error(half: str) -> None:
    rig = Rig(
        FakeChain(fails_on(1, torch.AcceleratorError("illegal access")), half=half), FakeSink()
    )
    rig.run(CountingSource(3))
    assert isinstance(rig.errors[0], GpuError)
    assert rig.errors[0].exit_code == 75


def test_an_error_of_the_source_comes_after_its_last_frame() -> None:
    rig = Rig(FakeChain(), FakeSink())
    grab = rig.run(CountingSource(6, SourceError("fake: the cable is out")))
    assert [str(error) for error in rig.errors] == ["fake: the cable is out"]
    assert grab.grabbed == rig.accounted() == rig.tally.published == 6


def test_a_failing_sink_ends_the_run_and_loses_no_count() -> None:
    rig = Rig(FakeChain(), FakeSink(fail_at=4))
    grab = rig.run(CountingSource(500))
    assert "the sink is full" in str(rig.errors[0])
    assert rig.sink.frame_ids == [0, 1, 2, 3]
    assert rig.sink.closed
    assert grab.grabbed == rig.accounted()


def test_stop_ends_an_endless_run_within_seconds() -> None:
    rig = Rig(FakeChain(), FakeSink())
    threading.Timer(0.2, rig.stop.set).start()
    grab = rig.run(CountingSource(-1))
    assert rig.errors == []
    assert grab.grabbed == rig.accounted()
    assert rig.tally.published > 0


def test_a_result_that_never_comes_is_dropped_when_the_run_stops() -> None:
    tally = Tally(RESIDENT_STAGES)
    egress = Egress((FakeSink(),), tally)
    egress.start()
    frame = Frame(torch.zeros(3, *SIZE, dtype=torch.uint8), "fake", 0, 0, 0, 0)
    times = StageTimer("cpu").frame()
    egress.submit(FrameName("fake", 0, 0), "held", FakePending(frame, polls=10**9), times)
    egress.stop(0.2)
    assert tally.published == 0
    assert tally.dropped == {"stopped": 1}


@BOTH_HALVES
def test_the_audit_raises_on_a_stage_that_reads_the_device(half: str) -> None:
    rig = Rig(
        FakeChain(lambda frame: frame.rgb.sum().item(), half=half),
        FakeSink(),
        AuditPlan(None, "raise"),
    )
    grab = rig.run(CountingSource(5))
    assert isinstance(rig.errors[0], ResidencyError)
    assert "item" in str(rig.errors[0])
    assert "test_frame_loop.py" in str(rig.errors[0])
    assert grab.grabbed == rig.accounted()


def test_the_audit_counts_on_the_first_frames_and_lets_them_pass() -> None:
    rig = Rig(FakeChain(lambda frame: frame.rgb.sum().item()), FakeSink(), AuditPlan(3, "count"))
    rig.run(CountingSource(5))
    assert rig.errors == []
    assert rig.tally.published == 5
    assert rig.loop.audited.frames == 3
    assert rig.loop.audited.d2h + rig.loop.audited.syncs >= 3


def test_a_clean_stage_passes_the_audit() -> None:
    rig = Rig(
        FakeChain(lambda frame: frame.rgb.float().mean()), FakeSink(), AuditPlan(None, "raise")
    )
    rig.run(CountingSource(5))
    assert rig.errors == []
    assert (rig.loop.audited.frames, rig.loop.audited.d2h, rig.loop.audited.syncs) == (5, 0, 0)


# A source that is not there when the run begins


def warmed_up(slow_s: float = 0.0) -> tuple[FakeChain, list[int]]:
    """A chain, and the ids of the frames that went through it; a warm-up takes so long."""
    seen: list[int] = []

    def work(frame: Frame) -> None:
        if frame.source_id == "warm-up":
            assert frame.size_hw == SIZE
            time.sleep(slow_s)
        seen.append(-1 if frame.source_id == "warm-up" else frame.frame_id)

    return FakeChain(work), seen


@pytest.mark.parametrize("warm", [True, False])
def test_a_chain_that_is_cold_warms_up_with_the_first_frame(warm: bool) -> None:
    chain, seen = warmed_up()
    rig = Rig(chain, FakeSink(), warm=warm)
    rig.run(CountingSource(3))
    assert seen == ([] if warm else [-1, -1]) + [0, 1, 2]
    assert rig.errors == []


def test_a_frame_that_grew_too_old_by_the_warm_up_is_not_segmented() -> None:
    chain, seen = warmed_up(slow_s=0.3)
    rig = Rig(chain, FakeSink(), warm=False)
    grab = rig.run(CountingSource(6), max_age_ms=200.0)
    assert 0 not in seen
    assert rig.tally.dropped["stale"] >= 1
    assert rig.accounted() == grab.grabbed == 6
