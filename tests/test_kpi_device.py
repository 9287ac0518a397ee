"""The device sampler: real process figures, a GPU of our own that throttles, fails and is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pynvml
import pytest
from nvml_player import NvmlPlayer

from kpi.device import DeviceSampler
from kpi.device_events import DeviceFault, DeviceSample
from kpi.events import ErrorRaised
from kpi.gpu import Gpu
from kpi.logger import KpiLogger
from kpi.memory import MemorySink
from kpi.nvml import open_nvml

IDLE, POWER_CAP, HOT = 0x1, 0x4, 0x40


def opener(nvml: NvmlPlayer) -> Callable[[int], Gpu | None]:
    return lambda index: open_nvml(index, nvml=nvml, uuid_of=lambda index: "GPU-ours")


@contextmanager
def told() -> Iterator[MemorySink]:
    """What was emitted is in the sink when the block has ended."""
    logger = KpiLogger([sink := MemorySink()])
    with logger.use():
        yield sink
    assert logger.close(timeout=30)


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, "waited 20 s"
        time.sleep(0.002)


def test_the_process_is_measured() -> None:
    sampler = DeviceSampler(1.0)
    first = sampler.sample()
    assert first.process_cpu is None, "a rate needs two readings"
    begin, busy = time.monotonic(), time.process_time() + 0.1
    while time.process_time() < busy:
        pass
    second = sampler.sample()
    assert second.process_cpu is not None
    assert 0 < second.process_cpu <= psutil.cpu_count() + 0.5
    assert second.process_cpu * (time.monotonic() - begin) == pytest.approx(0.1, abs=0.06)
    assert second.process_rss_bytes is not None
    assert second.process_rss_bytes > 10 << 20
    assert set(second.as_dict()) == {
        *("event", "process_cpu", "process_rss_bytes", "process_threads")
    }, "without a GPU there is nothing of a GPU, not even a 0"


def test_threads_are_counted() -> None:
    release = threading.Event()
    sampler = DeviceSampler(1.0)
    before = sampler.sample().process_threads
    threads = [threading.Thread(target=release.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    after = sampler.sample().process_threads
    release.set()
    for thread in threads:
        thread.join()
    assert before is not None
    assert after == before + 3


def test_a_gpu_is_measured_beside_the_process() -> None:
    sampler = DeviceSampler(1.0, 0, open_gpu=opener(nvml := NvmlPlayer()))
    sample = sampler.sample()
    assert (sample.gpu, sample.gpu_utilization) == ("GPU-ours", 0.5)
    assert sample.process_rss_bytes is not None
    sampler.close()
    assert nvml.calls[-1] == "nvmlShutdown"


def test_throttling_is_told_when_it_begins_and_not_while_it_comes_and_goes() -> None:
    nvml = NvmlPlayer()
    with told() as sink:
        sampler = DeviceSampler(1.0, 0, open_gpu=opener(nvml))
        for reasons in (IDLE, POWER_CAP, POWER_CAP, POWER_CAP | HOT, IDLE, POWER_CAP):
            nvml.throttling = reasons
            sampler.sample()
    assert sink.of(DeviceFault) == [
        DeviceFault("GPU-ours", "throttling", "sw_power_cap"),
        DeviceFault("GPU-ours", "throttling", "hw_thermal_slowdown"),
    ]


def test_throttling_that_was_away_for_long_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = NvmlPlayer()
    nvml.throttling = HOT
    monkeypatch.setattr("kpi.gpu_reader._SETTLED_S", 0.0)
    with told() as sink:
        sampler = DeviceSampler(1.0, 0, open_gpu=opener(nvml))
        sampler.sample()
        sampler.sample()
    assert len(sink.of(DeviceFault)) == 2


def test_an_xid_arrives_from_a_thread_of_its_own() -> None:
    nvml = NvmlPlayer()
    with told() as sink:
        sampler = DeviceSampler(3600, 0, open_gpu=opener(nvml))
        sampler.start()
        nvml.faults.put((pynvml.nvmlEventTypeXidCriticalError, 79))
        until(lambda: bool(sink.of(DeviceFault)))
        begin = time.monotonic()
        sampler.close()
        assert time.monotonic() - begin < 1.0
    assert sink.of(DeviceFault) == [DeviceFault("GPU-ours", "xid", "79")]
    assert not {t.name for t in threading.enumerate() if t.name.startswith("kpi-device")}
    assert nvml.calls[-1] == "nvmlShutdown"


def test_a_gpu_lost_to_both_threads_is_told_once() -> None:
    nvml = NvmlPlayer()
    nvml.lose()
    nvml.failing.pop("nvmlDeviceGetHandleByUUID")
    nvml.failing["nvmlEventSetWait_v2"] = pynvml.NVML_ERROR_GPU_IS_LOST
    with told() as sink:
        sampler = DeviceSampler(0.005, 0, open_gpu=opener(nvml))
        sampler.start()
        until(lambda: len(sink.of(DeviceSample)) > 3)
        sampler.close()
    assert [fault.kind for fault in sink.of(DeviceFault)] == ["lost"]


@pytest.mark.parametrize(
    ("code", "errors"), [(pynvml.NVML_ERROR_NOT_SUPPORTED, 0), (pynvml.NVML_ERROR_UNKNOWN, 1)]
)
def test_without_fault_events_the_figures_go_on(code: int, errors: int) -> None:
    nvml = NvmlPlayer()
    nvml.failing["nvmlDeviceGetSupportedEventTypes"] = code
    with told() as sink:
        sampler = DeviceSampler(0.005, 0, open_gpu=opener(nvml))
        sampler.start()
        until(lambda: nvml.calls.count("nvmlDeviceGetSupportedEventTypes") > 0)
        until(lambda: len(sink.of(DeviceSample)) > 3)
        sampler.close()
    assert len(sink.of(ErrorRaised)) == errors
    assert sink.of(DeviceSample)[-1].gpu_utilization == 0.5


def test_a_driver_call_that_hangs_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    release, entered = threading.Event(), threading.Event()

    class Hung(NvmlPlayer):
        def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:  # noqa: N802  (NVML's name)
            entered.set()
            release.wait()
            return 0

    with told() as sink:
        sampler = DeviceSampler(3600, 0, open_gpu=opener(nvml := Hung()))
        sampler.start()
        assert entered.wait(20)
        sampler.close()
        assert "hangs in a driver call" in caplog.text
        assert "nvmlShutdown" not in nvml.calls, "the hung thread still uses it"
        release.set()
    assert len(sink.of(DeviceSample)) <= 1


def test_samples_arrive_at_the_logger_of_the_starting_context() -> None:
    with told() as sink:
        sampler = DeviceSampler(0.01)
        sampler.start()
        until(lambda: len(sink.of(DeviceSample)) >= 3)
        sampler.close()
    assert sink.of(DeviceSample)[1].process_cpu is not None
    assert "kpi-device" not in {thread.name for thread in threading.enumerate()}


def test_a_short_run_has_a_sample() -> None:
    with told() as sink:
        sampler = DeviceSampler(3600)
        sampler.start()
        sampler.close()
    assert len(sink.of(DeviceSample)) == 1


@pytest.mark.parametrize("interval", [0.0, -1.0, float("nan")])
def test_a_bad_interval_is_refused(interval: float) -> None:
    with pytest.raises(ValueError, match="expected more than 0"):
        DeviceSampler(interval)
