"""Samples of what this process and its GPU are doing, as events.

The NVML calls have not yet run on a GPU; everything above `Gpu` is tested with a GPU of our own.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import psutil
import pynvml

from kpi.emit import emit
from kpi.events import DeviceSample

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Gpu(Protocol):
    """One GPU as NVML sees it. Any reading may raise `pynvml.NVMLError`."""

    name: str
    """NVML's UUID: the same in every process and after every restart."""

    def utilization(self) -> float:
        """Share of the last NVML window in which a kernel ran, 0..1."""

    def memory_used_bytes(self) -> int:
        """Device memory in use by all processes."""

    def power_watts(self) -> float: ...

    def temperature_celsius(self) -> float: ...

    def close(self) -> None: ...


class DeviceSampler:
    """Emits a `DeviceSample` at once and then every `interval_s` seconds, from its own thread.

    `device_index` is torch's CUDA index, None on a machine without a GPU. `open_gpu` finds that
    GPU for NVML, or returns None. What cannot be read stays None. The thread starts in a copy of
    the context that calls `start`, and so emits to that context's logger.
    """

    def __init__(
        self,
        interval_s: float,
        device_index: int | None = None,
        *,
        open_gpu: Callable[[int], Gpu | None] | None = None,
    ) -> None:
        if not interval_s > 0:
            raise ValueError(f"got interval_s {interval_s}, expected more than 0")
        self._interval_s = interval_s
        self._gpu = None if device_index is None else (open_gpu or open_nvml)(device_index)
        self._process = psutil.Process()
        self._last: tuple[float, float] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._work,), name="kpi-device", daemon=True
        )
        self._thread.start()

    def sample(self) -> DeviceSample:
        """One reading of now. `process_cpu` is None in the first: it is a rate."""
        rss = self._process.memory_info().rss
        cpu, gpu = self._cpu_cores(), self._gpu
        if gpu is None:
            return DeviceSample(process_cpu=cpu, process_rss_bytes=rss)
        return DeviceSample(
            gpu=gpu.name,
            gpu_utilization=_known(gpu.utilization),
            gpu_memory_used_bytes=_known(gpu.memory_used_bytes),
            gpu_power_watts=_known(gpu.power_watts),
            gpu_temperature_celsius=_known(gpu.temperature_celsius),
            process_cpu=cpu,
            process_rss_bytes=rss,
        )

    def close(self) -> None:
        """Stop within a second; where a driver call hangs, its thread is left behind."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(1.0)
            if self._thread.is_alive():
                _log.warning("kpi: the device sampler hangs in a driver call")
                return
        if self._gpu is not None:
            _known(self._gpu.close)
            self._gpu = None

    def _work(self) -> None:
        emit(self.sample())
        while not self._stop.wait(self._interval_s):
            emit(self.sample())

    def _cpu_cores(self) -> float | None:
        times = self._process.cpu_times()
        now, used = time.monotonic(), times.user + times.system
        last, self._last = self._last, (now, used)
        if last is None or now <= last[0]:
            return None
        return (used - last[1]) / (now - last[0])


def _known(read: Callable[[], T]) -> T | None:
    """What `read` returns, None where NVML does not support it or cannot tell just now."""
    try:
        return read()
    except pynvml.NVMLError:
        return None


def open_nvml(device_index: int) -> Gpu | None:
    """NVML's view of torch's CUDA device; None, with a logged reason, where there is none.

    The two number GPUs differently (`CUDA_VISIBLE_DEVICES` hides some from torch only), so the
    device is found by its UUID.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        _log.warning("kpi: no GPU figures: NVML: %s", error)
        return None
    try:
        return NvmlGpu(_nvml_uuid(device_index))
    except pynvml.NVMLError as error:
        pynvml.nvmlShutdown()
        _log.warning("kpi: no GPU figures: NVML does not know cuda:%d: %s", device_index, error)
        return None


def _nvml_uuid(device_index: int) -> str:
    import torch

    uuid = str(torch.cuda.get_device_properties(device_index).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


class NvmlGpu:
    """One GPU through nvidia-ml-py; NVML must be initialised. Raises `pynvml.NVMLError`."""

    def __init__(self, uuid: str) -> None:
        self.name = uuid
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)

    def utilization(self) -> float:
        return float(pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu) / 100

    def memory_used_bytes(self) -> int:
        return int(pynvml.nvmlDeviceGetMemoryInfo(self._handle).used)

    def power_watts(self) -> float:
        return float(pynvml.nvmlDeviceGetPowerUsage(self._handle)) / 1000

    def temperature_celsius(self) -> float:
        sensor = pynvml.NVML_TEMPERATURE_GPU
        return float(pynvml.nvmlDeviceGetTemperature(self._handle, sensor))

    def close(self) -> None:
        pynvml.nvmlShutdown()
