"""What is asked of a GPU, and how it says that it cannot answer."""

from __future__ import annotations

from typing import Final, Protocol

from kpi.device_events import DeviceFault, DeviceSample
from kpi.events import ErrorRaised

RETRY_S: Final = 5.0
"""Between two tries while a GPU does not answer."""


class GpuLostError(Exception):
    """The GPU does not answer; the message is the driver's."""


class NoFaultsToldError(Exception):
    """This GPU reports no faults; the message says why."""


class Gpu(Protocol):
    """One GPU, used by one thread."""

    @property
    def name(self) -> str:
        """NVML's UUID: the same in every process and after every restart."""

    def read(self) -> DeviceSample:
        """The GPU's figures now, None where they cannot be told; raises `GpuLostError`."""

    def wait_fault(self, timeout_s: float) -> DeviceFault | None:
        """The next XID or ECC fault, None where none came in time; raises `GpuLostError`, and
        `NoFaultsToldError` where this GPU tells of no faults."""

    def renew(self) -> None:
        """Begin anew after a call that raised: the driver may have reset the GPU. Raises where
        the GPU cannot be had."""

    def close(self) -> None:
        """Release everything; no call follows."""


def told(error: Exception) -> ErrorRaised:
    """A mistake of ours, as an event."""
    return ErrorRaised("kpi.device", f"{type(error).__name__}: {error}")
