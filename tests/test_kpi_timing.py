"""Stage times: pooled, polled, recycled. The device here is a queue of our own."""

from __future__ import annotations

import pytest
from services import require_cuda

from kpi.timing import FrameTimes, StageTimer


class FakeDevice:
    """Marks are passed only when `run` says so, one millisecond apart."""

    def __init__(self) -> None:
        self.recorded = 0
        self.passed = 0
        self.capturing = False

    def run(self) -> None:
        self.passed = self.recorded

    def event(self) -> FakeEvent:
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.mark = 0

    def record(self) -> None:
        if self.device.capturing:
            raise RuntimeError("the mark would be captured")
        self.device.recorded += 1
        self.mark = self.device.recorded

    def query(self) -> bool:
        return 0 < self.mark <= self.device.passed

    def elapsed_time(self, end_event: FakeEvent) -> float:
        if not (self.query() and end_event.query()):
            raise RuntimeError("device not ready")
        return float(end_event.mark - self.mark)

    def synchronize(self) -> None:
        raise AssertionError("the host must never wait")


def run_frame(timer: StageTimer) -> FrameTimes:
    times = timer.frame()
    for name in ("detect", "segment"):
        with times.stage(name):
            pass
    return times


def test_on_the_cpu_there_is_host_time_only() -> None:
    times = run_frame(StageTimer("cpu"))
    assert times.ready()
    ms = times.stages_ms()
    assert list(ms) == ["detect", "segment"]
    assert all(stage.gpu is None and stage.host >= 0 for stage in ms.values())


def test_gpu_time_is_read_once_the_device_has_passed() -> None:
    device = FakeDevice()
    times = run_frame(StageTimer("cuda:0", new_event=device.event))
    assert not times.ready()
    with pytest.raises(RuntimeError, match="before ready"):
        times.stages_ms()
    device.run()
    assert times.ready()
    assert {name: ms.gpu for name, ms in times.stages_ms().items()} == {
        "detect": 1.0,
        "segment": 1.0,
    }


def test_not_ready_while_the_last_stage_runs() -> None:
    device = FakeDevice()
    times = run_frame(StageTimer("cuda:0", new_event=device.event))
    device.passed = device.recorded - 1
    assert not times.ready()


def test_events_go_round() -> None:
    device = FakeDevice()
    timer = StageTimer("cuda:0", new_event=device.event)
    for _ in range(100):
        times = run_frame(timer)
        device.run()
        times.stages_ms()
    assert timer.pairs_made == 2


def test_the_pool_serves_every_frame_in_flight() -> None:
    device = FakeDevice()
    timer = StageTimer("cuda:0", new_event=device.event)
    for _ in range(10):
        in_flight = [run_frame(timer) for _ in range(3)]
        device.run()
        for times in in_flight:
            assert [ms.gpu for ms in times.stages_ms().values()] == [1.0, 1.0]
    assert timer.pairs_made == 6


def test_reading_twice_gives_the_same_and_recycles_once() -> None:
    device = FakeDevice()
    timer = StageTimer("cuda:0", new_event=device.event)
    times = run_frame(timer)
    device.run()
    first = times.stages_ms()
    run_frame(timer)  # takes the recycled events and marks them anew
    assert times.stages_ms() == first
    times.release()
    run_frame(timer)
    assert timer.pairs_made == 4, "had an event come back twice, two frames would share it"


def test_a_dropped_frame_gives_its_events_back() -> None:
    device = FakeDevice()
    timer = StageTimer("cuda:0", new_event=device.event)
    for _ in range(5):
        run_frame(timer).release()
    assert timer.pairs_made == 2


def test_a_stage_that_raises_leaves_no_time_and_no_event_behind() -> None:
    device = FakeDevice()
    timer = StageTimer("cuda:0", new_event=device.event)
    times = timer.frame()
    with pytest.raises(KeyError, match="boom"), times.stage("detect"):
        raise KeyError("boom")
    device.run()
    assert times.stages_ms() == {}
    run_frame(timer)
    assert timer.pairs_made == 2


def test_a_stage_is_timed_once_a_frame() -> None:
    times = StageTimer("cpu").frame()
    with times.stage("detect"):
        pass
    with pytest.raises(ValueError, match="'detect' was timed twice"), times.stage("detect"):
        pass


class FakeGraph:
    """A captured stage: one launch, many kernels."""

    def __init__(self, device: FakeDevice, kernels: int) -> None:
        self.device, self.kernels = device, kernels

    def replay(self) -> None:
        self.device.recorded += self.kernels


def test_a_replayed_graph_is_timed_from_outside() -> None:
    device = FakeDevice()
    timer = StageTimer("cuda:0", new_event=device.event)
    graph = FakeGraph(device, kernels=40)
    for _ in range(3):
        times = timer.frame()
        with times.stage("segment"):
            graph.replay()
        device.run()
        assert times.stages_ms()["segment"].gpu == 41.0, "all its kernels, and the end mark"
    assert timer.pairs_made == 1


def test_a_mark_inside_a_capture_would_fail() -> None:
    """Why stages know nothing of timing: the marks stay outside of what is captured."""
    device = FakeDevice()
    device.capturing = True
    times = StageTimer("cuda:0", new_event=device.event).frame()
    with pytest.raises(RuntimeError, match="captured"), times.stage("segment"):
        pass


def test_waits_add_up_and_overlap_nothing() -> None:
    times = StageTimer("cpu").frame()
    assert times.queue_ms == 0
    times.waits(1_000_000)
    times.waits(5_000_000)
    times.goes_on(3_000_000)
    times.goes_on(9_000_000)
    assert times.queue_ms == 2.0, "a second begin, and a second end, change nothing"
    times.waits(10_000_000)
    times.goes_on(10_500_000)
    assert times.queue_ms == 2.5


@pytest.mark.gpu
def test_cuda_events_time_real_work() -> None:
    require_cuda()
    import torch

    timer = StageTimer("cuda:0")
    x = torch.randn(2048, 2048, device="cuda:0")
    for _ in range(3):
        times = timer.frame()
        with times.stage("multiply"):
            for _ in range(20):
                x = (x @ x).clamp_(-1, 1)
        while not times.ready():
            pass
        gpu = times.stages_ms()["multiply"].gpu
        assert gpu is not None
        assert gpu > 0
    assert timer.pairs_made == 1
