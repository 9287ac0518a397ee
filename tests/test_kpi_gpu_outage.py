"""A GPU that fails, or is lost, and comes back: told once, asked again, trusted again."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pynvml
import pytest
from nvml_player import NvmlPlayer
from test_kpi_device import opener, told, until

from kpi.device import DeviceSampler
from kpi.device_events import DeviceFault, DeviceSample
from kpi.events import ErrorRaised, Event, SourceStateChanged
from kpi.gpu import RETRY_S
from kpi.gpu_reader import GpuReader
from kpi.logger import KpiLogger
from kpi.memory import MemorySink
from kpi.nvml import open_nvml
from pipeline.chain import RESIDENT_STAGES
from pipeline.health import Health, Heartbeat
from pipeline.tally import Tally

LOST = DeviceFault("GPU-ours", "lost", "GPU is lost")
BLANK = DeviceSample(gpu="GPU-ours")
FAULT = (pynvml.nvmlEventTypeXidCriticalError, 79)


class Bench:
    """A reader of a GPU, with a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.nvml = NvmlPlayer()
        gpu = open_nvml(0, nvml=self.nvml, uuid_of=lambda index: "GPU-ours")
        assert gpu is not None
        self.reader = GpuReader(gpu, lambda: self.now)

    def read_after(self, seconds: float) -> DeviceSample:
        self.now += seconds
        return self.reader.read()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not answer is tried again at once."""
    monkeypatch.setattr("kpi.gpu_reader.RETRY_S", 0.01)
    monkeypatch.setattr("kpi.fault_watch.RETRY_S", 0.01)


def test_a_lost_gpu_is_told_once_and_asked_now_and_then(bench: Bench) -> None:
    with told() as sink:
        assert bench.reader.read().gpu_utilization == 0.5
        bench.nvml.lose()
        assert bench.read_after(1) == BLANK
        calls = len(bench.nvml.calls)
        assert bench.read_after(RETRY_S - 0.1) == BLANK
        assert len(bench.nvml.calls) == calls, "not before the pause is over"
        assert bench.read_after(0.2) == BLANK
        assert len(bench.nvml.calls) > calls
        assert bench.read_after(RETRY_S) == BLANK
    assert sink.of(DeviceFault) == [LOST]
    assert sink.of(ErrorRaised) == []


def test_a_gpu_that_is_back_has_figures_and_may_be_lost_again(bench: Bench) -> None:
    with told() as sink:
        for _ in range(2):
            bench.nvml.lose()
            assert bench.read_after(RETRY_S) == BLANK
            bench.nvml.failing.clear()
            assert bench.read_after(RETRY_S).gpu_utilization == 0.5
    assert sink.of(DeviceFault) == [LOST, LOST]
    assert bench.nvml.calls.count("nvmlInit") == 3
    assert bench.nvml.calls.count("nvmlShutdown") == 2, "NVML counts its users"


def test_nvml_is_given_back_once_where_it_cannot_be_had_again(bench: Bench) -> None:
    bench.nvml.lose()
    bench.nvml.failing["nvmlInit"] = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    with told():
        for _ in range(4):
            assert bench.read_after(RETRY_S) == BLANK
    assert bench.nvml.calls.count("nvmlInit") == 4, "one of them worked"
    assert bench.nvml.calls.count("nvmlShutdown") == 1


def test_a_fault_of_ours_is_told_once_and_survived(bench: Bench) -> None:
    uses = bench.nvml.uses
    with told() as sink:
        bench.nvml.uses = [object()]  # type: ignore[list-item]
        assert [bench.read_after(RETRY_S) for _ in range(3)] == [BLANK] * 3
        bench.nvml.uses = uses
        assert bench.read_after(RETRY_S).gpu_utilization == 0.5
        bench.nvml.uses = [object()]  # type: ignore[list-item]
        assert bench.read_after(1) == BLANK
    assert [error.where for error in sink.of(ErrorRaised)] == ["kpi.device"] * 2
    assert "AttributeError" in sink.of(ErrorRaised)[0].message
    assert sink.of(DeviceFault) == []


def test_a_gpu_that_is_lost_after_a_fault_of_ours_is_told_as_lost(bench: Bench) -> None:
    bench.nvml.uses = [object()]  # type: ignore[list-item]
    with told() as sink:
        bench.reader.read()
        bench.nvml.lose()
        bench.read_after(RETRY_S)
    assert (len(sink.of(ErrorRaised)), sink.of(DeviceFault)) == (1, [LOST])


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("code", "errors"), [(pynvml.NVML_ERROR_UNKNOWN, 1), (pynvml.NVML_ERROR_GPU_IS_LOST, 0)]
)
def test_the_watch_for_faults_survives_what_fails(code: int, errors: int) -> None:
    """Whether a GPU is lost is the reader's to judge: here it answers."""
    nvml = NvmlPlayer()
    nvml.failing["nvmlEventSetWait_v2"] = code
    with told() as sink:
        sampler = DeviceSampler(0.01, 0, open_gpu=opener(nvml))
        sampler.start()
        until(lambda: nvml.calls.count("nvmlEventSetWait_v2") > 3)
        nvml.failing.clear()
        nvml.faults.put(FAULT)
        until(lambda: bool(sink.of(DeviceFault)))
        sampler.close()
    assert sink.of(DeviceFault) == [DeviceFault("GPU-ours", "xid", "79")]
    assert len(sink.of(ErrorRaised)) == errors


def test_a_loss_that_the_watch_meets_first_is_judged_at_once() -> None:
    nvml = NvmlPlayer()
    with told() as sink:
        sampler = DeviceSampler(3600, 0, open_gpu=opener(nvml))
        sampler.start()
        until(lambda: bool(sink.of(DeviceSample)))
        nvml.lose()
        nvml.failing["nvmlEventSetWait_v2"] = pynvml.NVML_ERROR_GPU_IS_LOST
        until(lambda: bool(sink.of(DeviceFault)))
        begin = time.monotonic()
        sampler.close()
        assert time.monotonic() - begin < 1.0, "a pause between two tries holds up nobody"
    assert sink.of(DeviceFault) == [LOST]


def test_process_figures_that_fail_cost_their_samples_alone() -> None:
    sampler = DeviceSampler(0.01)
    alive = sampler._process
    with told() as sink:
        ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        sampler._process = psutil.Process(ended.pid)
        ended.communicate()
        sampler.start()
        until(lambda: bool(sink.of(ErrorRaised)))
        time.sleep(0.1)
        assert sink.of(DeviceSample) == []
        sampler._process = alive
        until(lambda: bool(sink.of(DeviceSample)))
        sampler.close()
    (error,) = sink.of(ErrorRaised)
    assert "NoSuchProcess" in error.message


# What readiness makes of it


def flowing() -> Health:
    tally = Tally(RESIDENT_STAGES)
    now_ns = time.monotonic_ns()
    tally.publish(now_ns, now_ns, 1.0, {}, 0)
    health = Health(tally, stale_after_s=3600, hung_after_s=10)
    health.loops = (Heartbeat("the frame loop"),)
    health.write(0.0, SourceStateChanged("cam", 0, "streaming"))
    return health


@pytest.mark.parametrize(
    ("event", "trusted"),
    [
        (DeviceSample(gpu="GPU-ours", gpu_temperature_celsius=61.0), True),
        (DeviceSample(gpu="GPU-ours", gpu_throttle_reasons=()), True),
        (DeviceSample(gpu="GPU-ours", process_rss_bytes=1), False),
        (DeviceSample(gpu="GPU-other", gpu_temperature_celsius=61.0), False),
        (DeviceSample(process_rss_bytes=1), False),
        (DeviceFault("GPU-ours", "xid", "79"), False),
    ],
)
def test_a_lost_gpu_is_trusted_again_once_it_tells_figures(event: Event, trusted: bool) -> None:
    health = flowing()
    assert health.not_ready() is None
    health.write(0.0, LOST)
    health.write(0.0, event)
    reason = "the GPU reported a fault: lost: GPU is lost"
    assert health.not_ready() == (None if trusted else reason)


def test_figures_clear_no_other_fault() -> None:
    health = flowing()
    health.write(0.0, DeviceFault("GPU-ours", "xid", "79"))
    health.write(0.0, DeviceSample(gpu="GPU-ours", gpu_temperature_celsius=61.0))
    assert health.not_ready() == "the GPU reported a fault: xid: 79"


@pytest.mark.usefixtures("impatient")
def test_readiness_is_back_with_the_gpu() -> None:
    nvml, health = NvmlPlayer(), flowing()
    logger = KpiLogger([health, MemorySink()], period_s=0.005)
    with logger.use():
        sampler = DeviceSampler(0.01, 0, open_gpu=opener(nvml))
        sampler.start()
        nvml.lose()
        until(lambda: health.not_ready() is not None)
        time.sleep(0.2)
        assert health.not_ready() is not None, "as long as it is lost"
        nvml.failing.clear()
        until(lambda: health.not_ready() is None)
        sampler.close()
    assert logger.close(timeout=30)
