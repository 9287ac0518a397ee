"""What the machine and its GPU tell, as events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from kpi.event import Event

DeviceFaultKind = Literal["xid", "ecc", "throttling", "lost"]


@dataclass(frozen=True, slots=True)
class DeviceSample(Event):
    """What a machine or GPU was doing; what cannot be read is None, never 0."""

    event: ClassVar[str] = "device_sample"
    gpu: str | None = None
    """NVML's UUID."""
    gpu_utilization: float | None = None
    """Share of time in which a kernel ran, 0..1."""
    gpu_memory_utilization: float | None = None
    """Share of time in which device memory was read or written, 0..1."""
    gpu_memory_used_bytes: int | None = None
    gpu_memory_total_bytes: int | None = None
    gpu_process_memory_bytes: int | None = None
    """What this process holds of it."""
    gpu_process_utilization: float | None = None
    """Share of time in which a kernel of this process ran, 0..1."""
    gpu_power_watts: float | None = None
    gpu_energy_joules: float | None = None
    """Since the driver was loaded."""
    gpu_temperature_celsius: float | None = None
    gpu_sm_clock_hertz: float | None = None
    gpu_memory_clock_hertz: float | None = None
    gpu_throttle_reasons: tuple[str, ...] | None = None
    """NVML's clock event reasons that slow the GPU down now; () is none of them."""
    gpu_pcie_receive_bytes_per_second: float | None = None
    gpu_pcie_transmit_bytes_per_second: float | None = None
    gpu_decoder_utilization: float | None = None
    """NVDEC, 0..1."""
    gpu_encoder_utilization: float | None = None
    """NVENC, 0..1."""
    gpu_ecc_corrected: int | None = None
    """Memory errors since the driver was loaded."""
    gpu_ecc_uncorrected: int | None = None
    gpu_sm_active: float | None = None
    """Share of the SMs with work, 0..1: Hopper's GPM."""
    gpu_dram_active: float | None = None
    """Share of the peak memory bandwidth, 0..1: Hopper's GPM."""
    process_cpu: float | None = None
    """Cores in use by this process since the last sample."""
    process_rss_bytes: int | None = None
    process_threads: int | None = None

    @property
    def gpu_answers(self) -> bool:
        """Whether the GPU told anything at all."""
        figures = (name for name in self.__dataclass_fields__ if name.startswith("gpu_"))
        return any(getattr(self, name) is not None for name in figures)


@dataclass(frozen=True, slots=True)
class DeviceFault(Event):
    """The GPU reported something wrong."""

    event: ClassVar[str] = "device_fault"
    gpu: str
    kind: DeviceFaultKind
    detail: str
    """The XID's number, the throttle reason, what NVML said."""
