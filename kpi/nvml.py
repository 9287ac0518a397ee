"""A GPU as NVML sees it, through nvidia-ml-py.

None of this has run on a GPU yet: it is written from NVML's documentation and tested with an
NVML of our own that plays back what that documentation says.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import ParamSpec, TypeVar

import pynvml

from kpi.device_events import DeviceFault, DeviceSample
from kpi.gpu import Gpu, GpuLostError
from kpi.nvml_activity import Activity
from kpi.nvml_faults import FaultEvents

_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

LOST = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
THROTTLE_REASONS = (
    (0x004, "sw_power_cap"),
    (0x008, "hw_slowdown"),
    (0x010, "sync_boost"),
    (0x020, "sw_thermal_slowdown"),
    (0x040, "hw_thermal_slowdown"),
    (0x080, "hw_power_brake_slowdown"),
    (0x200, "board_limit"),
    (0x400, "reliability"),
)
"""(bit of NVML's clock event reasons, name); being idle, and clocks that somebody or a display
asked for, are left out."""


def open_nvml(
    device_index: int,
    *,
    nvml: ModuleType = pynvml,
    uuid_of: Callable[[int], str] | None = None,
) -> Gpu | None:
    """NVML's view of torch's CUDA device; None, with a logged reason, where there is none.

    The two number GPUs differently (`CUDA_VISIBLE_DEVICES` hides some from torch only), so the
    device is found by its UUID. `nvml` is pynvml or what stands for it; `uuid_of` gives the UUID
    of a CUDA index (default: torch does).
    """
    try:
        nvml.nvmlInit()
    except pynvml.NVMLError as error:
        _log.warning("kpi: no GPU figures: NVML: %s", error)
        return None
    try:
        return NvmlGpu(nvml, (uuid_of or _torch_uuid)(device_index))
    except Exception as error:  # whatever it is, a run is worth more than its figures
        nvml.nvmlShutdown()
        _log.warning("kpi: no GPU figures: NVML does not know cuda:%d: %s", device_index, error)
        return None


def _torch_uuid(device_index: int) -> str:
    import torch

    uuid = str(torch.cuda.get_device_properties(device_index).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


class NvmlGpu:
    """One GPU, by its UUID; NVML must be initialised. Raises `pynvml.NVMLError` where there is
    no such GPU."""

    def __init__(self, nvml: ModuleType, uuid: str) -> None:
        self._nvml = nvml
        self._uuid = uuid
        self._initialised = True
        self._attach()

    @property
    def name(self) -> str:
        return self._uuid

    def read(self) -> DeviceSample:
        nvml, known = self._nvml, self._known
        rates = known(nvml.nvmlDeviceGetUtilizationRates, self._handle)
        memory = known(nvml.nvmlDeviceGetMemoryInfo, self._handle)
        active = known(self._activity.read)
        sensor = pynvml.NVML_TEMPERATURE_GPU
        return DeviceSample(
            gpu=self._uuid,
            gpu_utilization=None if rates is None else rates.gpu / 100,
            gpu_memory_utilization=None if rates is None else rates.memory / 100,
            gpu_memory_used_bytes=None if memory is None else int(memory.used),
            gpu_memory_total_bytes=None if memory is None else int(memory.total),
            gpu_process_memory_bytes=known(self._process_memory),
            gpu_process_utilization=known(self._process_utilization),
            gpu_power_watts=self._scaled(1e-3, nvml.nvmlDeviceGetPowerUsage),
            gpu_energy_joules=self._scaled(1e-3, nvml.nvmlDeviceGetTotalEnergyConsumption),
            gpu_temperature_celsius=self._scaled(1.0, nvml.nvmlDeviceGetTemperature, sensor),
            gpu_sm_clock_hertz=self._clock(pynvml.NVML_CLOCK_SM),
            gpu_memory_clock_hertz=self._clock(pynvml.NVML_CLOCK_MEM),
            gpu_throttle_reasons=known(self._throttle_reasons),
            gpu_pcie_receive_bytes_per_second=self._pcie(pynvml.NVML_PCIE_UTIL_RX_BYTES),
            gpu_pcie_transmit_bytes_per_second=self._pcie(pynvml.NVML_PCIE_UTIL_TX_BYTES),
            gpu_decoder_utilization=self._engine(nvml.nvmlDeviceGetDecoderUtilization),
            gpu_encoder_utilization=self._engine(nvml.nvmlDeviceGetEncoderUtilization),
            gpu_ecc_corrected=self._ecc(pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            gpu_ecc_uncorrected=self._ecc(pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            gpu_sm_active=None if active is None else active.sm,
            gpu_dram_active=None if active is None else active.dram,
        )

    def wait_fault(self, timeout_s: float) -> DeviceFault | None:
        try:
            return self._faults.wait(timeout_s)
        except pynvml.NVMLError as error:
            if error.value in LOST:
                raise GpuLostError(str(error)) from error
            raise

    def renew(self) -> None:
        """Raises `GpuLostError` or `pynvml.NVMLError`. NVML counts who uses it, so this is a true
        beginning only once the others have begun anew, too; a handle is found anew anyway."""
        self.close()
        self._nvml.nvmlInit()
        self._initialised = True
        try:
            self._attach()
        except pynvml.NVMLError as error:
            if error.value in LOST:
                raise GpuLostError(str(error)) from error
            raise

    def close(self) -> None:
        for release in (self._activity.close, self._faults.close, self._shut_down):
            with suppress(pynvml.NVMLError):
                release()

    def _attach(self) -> None:
        self._handle = self._nvml.nvmlDeviceGetHandleByUUID(self._uuid)
        self._activity = Activity(self._nvml, self._handle)
        self._faults = FaultEvents(self._nvml, self._handle, self._uuid)
        self._process_seen_us = 0

    def _shut_down(self) -> None:
        """At most once for each beginning: it would take NVML from somebody else."""
        if self._initialised:
            self._initialised = False
            self._nvml.nvmlShutdown()

    def _known(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What `read` returns, None where NVML does not support it or cannot tell just now."""
        try:
            return read(*args, **kwargs)
        except pynvml.NVMLError as error:
            if error.value in LOST:
                raise GpuLostError(str(error)) from error
            return None

    def _scaled(self, unit: float, read: Callable[..., int], *args: int) -> float | None:
        """A whole number of NVML's units as a number of ours, each of them `unit` of ours."""
        value = self._known(read, self._handle, *args)
        return None if value is None else value * unit

    def _clock(self, which: int) -> float | None:
        return self._scaled(1e6, self._nvml.nvmlDeviceGetClockInfo, which)

    def _pcie(self, direction: int) -> float | None:
        """NVML's KB/s over 20 ms, a KB taken as 1000 bytes; the call lasts those 20 ms."""
        return self._scaled(1e3, self._nvml.nvmlDeviceGetPcieThroughput, direction)

    def _engine(self, read: Callable[..., list[int]]) -> float | None:
        found = self._known(read, self._handle)  # percent, microseconds it was measured over
        return None if found is None else found[0] / 100

    def _ecc(self, severity: int) -> int | None:
        counter = pynvml.NVML_VOLATILE_ECC
        return self._known(self._nvml.nvmlDeviceGetTotalEccErrors, self._handle, severity, counter)

    def _throttle_reasons(self) -> tuple[str, ...]:
        bits = self._nvml.nvmlDeviceGetCurrentClocksEventReasons(self._handle)
        return tuple(name for bit, name in THROTTLE_REASONS if bits & bit)

    def _process_memory(self) -> int | None:
        """None also where NVML knows this process by another id: outside its container."""
        for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle):
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
        return None

    def _process_utilization(self) -> float | None:
        """Mean of NVML's samples of this process since the last call."""
        since = self._process_seen_us
        samples = self._nvml.nvmlDeviceGetProcessUtilization(self._handle, since)
        self._process_seen_us = max((s.timeStamp for s in samples), default=since)
        ours = [s.smUtil / 100 for s in samples if s.pid == os.getpid() and s.timeStamp > since]
        return sum(ours) / len(ours) if ours else None
