"""How busy the SMs and the memory of a GPU really were: NVML's GPM, from Hopper on.

Utilisation says only that some kernel ran; GPM says what share of the chip was used. Not yet run
on a GPU, see `kpi/nvml.py`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import pynvml

_METRICS = (pynvml.NVML_GPM_METRIC_SM_UTIL, pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL)


class Active(NamedTuple):
    """Shares since the last reading, 0..1; None where the driver did not compute one."""

    sm: float | None
    """Of the SMs."""
    dram: float | None
    """Of the peak memory bandwidth."""


class Activity:
    """GPM figures are differences: two samples of the driver's go round, newest and last."""

    def __init__(self, nvml: ModuleType, handle: Any) -> None:  # noqa: ANN401  (pynvml's)
        self._nvml = nvml
        self._handle = handle
        self._supported: bool | None = None
        self._last: Any = None
        self._spare: Any = None

    def read(self) -> Active | None:
        """Since the last call; None at the first one and on a GPU older than Hopper.

        Raises `pynvml.NVMLError`; what was begun then is begun anew.
        """
        nvml = self._nvml
        if self._supported is None:
            support = nvml.nvmlGpmQueryDeviceSupport(self._handle)
            self._supported = bool(support.isSupportedDevice)
        if not self._supported:
            return None
        newest = nvml.nvmlGpmSampleAlloc() if self._spare is None else self._spare
        self._spare = newest
        nvml.nvmlGpmSampleGet(self._handle, newest)
        last, self._last, self._spare = self._last, newest, self._last
        return None if last is None else self._between(last, newest)

    def close(self) -> None:
        """Give the samples back to the driver."""
        for sample in (self._last, self._spare):
            if sample is not None:
                self._nvml.nvmlGpmSampleFree(sample)
        self._last = self._spare = None

    def _between(self, last: Any, newest: Any) -> Active:  # noqa: ANN401  (pynvml's)
        asked = pynvml.c_nvmlGpmMetricsGet_t()
        asked.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        asked.sample1, asked.sample2 = last, newest
        asked.numMetrics = len(_METRICS)
        for index, metric in enumerate(_METRICS):
            asked.metrics[index].metricId = metric
        self._nvml.nvmlGpmMetricsGet(asked)
        told = (asked.metrics[index] for index in range(len(_METRICS)))
        return Active(
            *(m.value / 100 if m.nvmlReturn == pynvml.NVML_SUCCESS else None for m in told)
        )
