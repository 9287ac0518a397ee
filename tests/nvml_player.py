"""An NVML of our own: plays back what NVML's documentation says, call by call."""
# ruff: noqa: N802  (NVML's names)

from __future__ import annotations

import os
import queue
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml

GIB = 1 << 30
UUIDS = ("GPU-other", "GPU-ours")
"""In NVML's order; torch is told that its first GPU is the second of these."""


def error(code: int) -> pynvml.NVMLError:
    return pynvml.NVMLError(code)


@dataclass(frozen=True)
class Process:
    """A process as NVML lists it."""

    pid: int
    usedGpuMemory: int | None  # noqa: N815  (NVML's name)


@dataclass(frozen=True)
class Use:
    """A sample of a process's utilisation."""

    pid: int
    timeStamp: int  # noqa: N815
    smUtil: int  # noqa: N815


class NvmlPlayer(ModuleType):
    """Stands for the module `pynvml`: `failing` maps a function's name to the NVML error it
    raises, `faults` holds (event type, data) still to come, `calls` what was called."""

    def __init__(self) -> None:
        super().__init__("nvml_player")
        self.failing: dict[str, int] = {}
        self.faults: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self.calls: list[str] = []
        self.registered = 0
        self.throttling = 0
        self.uses = [Use(os.getpid(), 10, 40), Use(1, 20, 99), Use(os.getpid(), 20, 60)]
        self.processes = [Process(1, 7), Process(os.getpid(), 2 * GIB)]
        self.sm_busy = pynvml.NVML_SUCCESS

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return self._played(name, found) if name.startswith("nvml") else found

    def _played(self, name: str, found: Any) -> Any:
        def call(*args: Any) -> Any:
            self.calls.append(name)
            if name in self.failing:
                raise error(self.failing[name])
            return found(*args)

        return call

    def lose(self) -> None:
        """From now on the GPU is lost: every function that asks it says so."""
        names = [name for name in dir(type(self)) if name.startswith(("nvmlDevice", "nvmlGpm"))]
        self.failing |= dict.fromkeys(names, pynvml.NVML_ERROR_GPU_IS_LOST)

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if uuid not in UUIDS:
            raise error(pynvml.NVML_ERROR_NOT_FOUND)
        return UUIDS.index(uuid)

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=50 if UUIDS[gpu] == "GPU-ours" else 1, memory=25)

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> SimpleNamespace:
        return SimpleNamespace(used=8 * GIB, total=140 * GIB)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: int) -> list[Process]:
        return self.processes

    def nvmlDeviceGetProcessUtilization(self, gpu: int, since_us: int) -> list[Use]:
        newer = [use for use in self.uses if use.timeStamp > since_us]
        if not newer:
            raise error(pynvml.NVML_ERROR_NOT_FOUND)
        return newer

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:
        return 351_500

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:
        return 9_000_500

    def nvmlDeviceGetTemperature(self, gpu: int, sensor: int) -> int:
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return 61

    def nvmlDeviceGetClockInfo(self, gpu: int, clock: int) -> int:
        return {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 3201}[clock]

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu: int) -> int:
        return self.throttling

    def nvmlDeviceGetPcieThroughput(self, gpu: int, direction: int) -> int:
        return {pynvml.NVML_PCIE_UTIL_RX_BYTES: 300, pynvml.NVML_PCIE_UTIL_TX_BYTES: 40}[direction]

    def nvmlDeviceGetDecoderUtilization(self, gpu: int) -> list[int]:
        return [30, 166_000]

    def nvmlDeviceGetEncoderUtilization(self, gpu: int) -> list[int]:
        return [0, 166_000]

    def nvmlDeviceGetTotalEccErrors(self, gpu: int, severity: int, counter: int) -> int:
        assert counter == pynvml.NVML_VOLATILE_ECC
        return {
            pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED: 3,
            pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED: 0,
        }[severity]

    def nvmlGpmQueryDeviceSupport(self, gpu: int) -> SimpleNamespace:
        return SimpleNamespace(isSupportedDevice=1)

    def nvmlGpmSampleAlloc(self) -> Any:
        return pynvml.c_nvmlGpmSample_t()

    def nvmlGpmSampleGet(self, gpu: int, sample: Any) -> Any:
        return sample

    def nvmlGpmSampleFree(self, sample: Any) -> None: ...

    def nvmlGpmMetricsGet(self, asked: Any) -> Any:
        percent = {
            pynvml.NVML_GPM_METRIC_SM_UTIL: 12.5,
            pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL: 75.0,
        }
        for metric in asked.metrics[: asked.numMetrics]:
            metric.value = percent[metric.metricId]
        asked.metrics[0].nvmlReturn = self.sm_busy
        return asked

    def nvmlDeviceGetSupportedEventTypes(self, gpu: int) -> int:
        return int(pynvml.nvmlEventTypeAll)

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlEventSetFree(self, events: object) -> None: ...

    def nvmlDeviceRegisterEvents(self, gpu: int, kinds: int, events: object) -> None:
        self.registered = kinds

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> SimpleNamespace:
        assert timeout_ms <= 1000, "a longer wait would hold up the end of a run"
        try:
            kind, data = self.faults.get(timeout=timeout_ms / 1e3)
        except queue.Empty:
            raise error(pynvml.NVML_ERROR_TIMEOUT) from None
        return SimpleNamespace(eventType=kind, eventData=data)
