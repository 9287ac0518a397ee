"""XIDs and ECC errors as the driver reports them: NVML's event sets.

Not yet run on a GPU, see `kpi/nvml.py`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

import pynvml

from kpi.device_events import DeviceFault, DeviceFaultKind
from kpi.gpu import NoFaultsToldError

_XID: Final = pynvml.nvmlEventTypeXidCriticalError
_ECC: Final = {
    pynvml.nvmlEventTypeSingleBitEccError: "single-bit",
    pynvml.nvmlEventTypeDoubleBitEccError: "double-bit",
}
_WANTED: Final = (
    _XID | pynvml.nvmlEventTypeSingleBitEccError | pynvml.nvmlEventTypeDoubleBitEccError
)


class FaultEvents:
    """The faults of one GPU, whichever process caused them."""

    def __init__(self, nvml: ModuleType, handle: Any, uuid: str) -> None:  # noqa: ANN401  (pynvml's)
        self._nvml = nvml
        self._handle = handle
        self._uuid = uuid
        self._events: Any = None

    def wait(self, timeout_s: float) -> DeviceFault | None:
        """The next fault, None where none came in time. The first call asks the driver for them.

        Raises `NoFaultsToldError` where this GPU reports none, `pynvml.NVMLError` otherwise.
        """
        if self._events is None:
            self._events = self._registered()
        try:
            data = self._nvml.nvmlEventSetWait_v2(self._events, int(timeout_s * 1e3))
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_TIMEOUT:
                return None
            raise
        return self._fault(int(data.eventType), int(data.eventData))

    def close(self) -> None:
        if self._events is not None:
            self._nvml.nvmlEventSetFree(self._events)
            self._events = None

    def _registered(self) -> Any:  # noqa: ANN401  (pynvml's)
        try:
            kinds = _WANTED & self._nvml.nvmlDeviceGetSupportedEventTypes(self._handle)
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_NOT_SUPPORTED:
                raise NoFaultsToldError(str(error)) from error
            raise
        if not kinds:
            raise NoFaultsToldError("NVML reports neither its XIDs nor its ECC errors")
        events = self._nvml.nvmlEventSetCreate()
        try:
            self._nvml.nvmlDeviceRegisterEvents(self._handle, kinds, events)
        except pynvml.NVMLError:
            self._nvml.nvmlEventSetFree(events)
            raise
        return events

    def _fault(self, event: int, data: int) -> DeviceFault | None:
        kind: DeviceFaultKind = "xid" if event == _XID else "ecc"
        detail = str(data) if event == _XID else _ECC.get(event)
        return None if detail is None else DeviceFault(self._uuid, kind, detail)
