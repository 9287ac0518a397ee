"""The device sampler: real process figures, a GPU of our own."""

from __future__ import annotations

import threading
import time

import psutil
import pynvml
import pytest
from services import require_cuda

from kpi.device import DeviceSampler, open_nvml
from kpi.events import DeviceSample
from kpi.logger import KpiLogger
from kpi.memory import MemorySink


class FakeGpu:
    """A GPU that cannot tell its power and, once lost, nothing."""

    name = "GPU-fake"

    def __init__(self) -> None:
        self.lost = False
        self.closed = False

    def utilization(self) -> float:
        return self._tell(0.5)

    def memory_used_bytes(self) -> int:
        return int(self._tell(1 << 30))

    def power_watts(self) -> float:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def temperature_celsius(self) -> float:
        return self._tell(61.0)

    def close(self) -> None:
        self.closed = True

    def _tell(self, value: float) -> float:
        if self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return value


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
    assert second.gpu is None
    assert second.gpu_power_watts is None


def test_a_gpu_is_measured_and_what_it_cannot_tell_is_absent() -> None:
    gpu = FakeGpu()
    sampler = DeviceSampler(1.0, 0, open_gpu=lambda index: gpu)
    sample = sampler.sample()
    assert (sample.gpu, sample.gpu_utilization) == ("GPU-fake", 0.5)
    assert sample.gpu_memory_used_bytes == 1 << 30
    assert sample.gpu_temperature_celsius == 61.0
    assert sample.gpu_power_watts is None
    assert "gpu_power_watts" not in sample.as_dict()
    gpu.lost = True
    assert sampler.sample().gpu_utilization is None
    sampler.close()
    assert gpu.closed


def test_an_error_that_is_not_nvmls_is_not_swallowed() -> None:
    gpu = FakeGpu()
    gpu.utilization = lambda: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        DeviceSampler(1.0, 0, open_gpu=lambda index: gpu).sample()


def test_samples_arrive_at_the_logger_of_the_starting_context() -> None:
    arrived = threading.Event()

    class Sink(MemorySink):
        def flush(self) -> None:
            if len(self.of(DeviceSample)) >= 3:
                arrived.set()

    logger = KpiLogger([sink := Sink()], period_s=0.01)
    sampler = DeviceSampler(0.01)
    with logger.use():
        sampler.start()
    assert arrived.wait(20)
    sampler.close()
    logger.close(timeout=30)
    assert sink.of(DeviceSample)[1].process_cpu is not None
    assert "kpi-device" not in {thread.name for thread in threading.enumerate()}


def test_a_short_run_has_a_sample() -> None:
    logger = KpiLogger([sink := MemorySink()])
    sampler = DeviceSampler(3600)
    with logger.use():
        sampler.start()
    sampler.close()
    logger.close(timeout=30)
    assert len(sink.of(DeviceSample)) == 1


def test_without_the_nvml_library_there_are_no_gpu_figures(
    caplog: pytest.LogCaptureFixture,
) -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        pass
    else:
        pynvml.nvmlShutdown()
        pytest.skip("this machine has NVML")
    assert open_nvml(0) is None
    assert "no GPU figures" in caplog.text
    assert DeviceSampler(1.0, 0).sample().gpu is None


@pytest.mark.parametrize("interval", [0.0, -1.0, float("nan")])
def test_a_bad_interval_is_refused(interval: float) -> None:
    with pytest.raises(ValueError, match="expected more than 0"):
        DeviceSampler(interval)


@pytest.mark.gpu
def test_nvml_tells_of_torchs_device() -> None:
    require_cuda()
    import torch

    held = torch.zeros(1 << 28, device="cuda:0")
    sampler = DeviceSampler(1.0, 0)
    sample = sampler.sample()
    sampler.close()
    assert sample.gpu is not None
    assert str(torch.cuda.get_device_properties(0).uuid) in sample.gpu
    assert sample.gpu_memory_used_bytes is not None
    assert sample.gpu_memory_used_bytes >= held.nbytes
