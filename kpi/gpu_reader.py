"""A GPU's figures, whatever becomes of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from kpi.device_events import DeviceFault, DeviceSample
from kpi.emit import emit
from kpi.gpu import RETRY_S, Gpu, GpuLostError, told

_log = logging.getLogger(__name__)

_SETTLED_S = 60.0
"""A throttle reason absent for so long begins anew when it is back; a power cap comes and goes."""


class GpuReader:
    """Reads one GPU, and tells when it begins to throttle, is lost, or cannot be read.

    Whatever a reading raises begins an outage: it is told once, as `DeviceFault` of kind `lost`
    where the driver says so and as an error otherwise, and for its time there are no figures.
    Every `RETRY_S` seconds the GPU is asked anew; the first answer ends the outage, and with its
    figures `/readyz` trusts a lost GPU again. That says that the driver answers, not that what
    this process had on the GPU survived: of that the frame loop tells. `clock` is monotonic
    seconds.
    """

    def __init__(self, gpu: Gpu, clock: Callable[[], float] = time.monotonic) -> None:
        self._gpu = gpu
        self._clock = clock
        self._throttling: dict[str, float] = {}
        """When each throttle reason was last seen."""
        self._failures = 0
        """Of this outage; 0 without one."""
        self._told_lost = False
        self._retry_at = 0.0

    def read(self) -> DeviceSample:
        """The figures now; nothing but the GPU's name where it does not answer. Never raises."""
        if self._failures and self._clock() < self._retry_at:
            return DeviceSample(gpu=self._gpu.name)
        try:
            if self._failures:
                self._gpu.renew()
            sample = self._gpu.read()
        except Exception as error:
            self._fail(error)
            return DeviceSample(gpu=self._gpu.name)
        self._answers()
        self._tell_throttling(sample.gpu_throttle_reasons or ())
        return sample

    def close(self) -> None:
        self._gpu.close()

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        self._retry_at = self._clock() + RETRY_S
        if isinstance(error, GpuLostError):
            if not self._told_lost:
                self._told_lost = True
                emit(DeviceFault(self._gpu.name, "lost", str(error)))
        elif self._failures == 1:
            emit(told(error))
        if self._failures == 1:
            _log.warning("kpi: no figures of %s: %s", self._gpu.name, error)

    def _answers(self) -> None:
        if self._failures:
            name, tries = self._gpu.name, self._failures
            _log.warning("kpi: %s answers again; it failed %d times", name, tries)
        self._failures, self._told_lost = 0, False

    def _tell_throttling(self, reasons: tuple[str, ...]) -> None:
        now = self._clock()
        for reason in reasons:
            if now - self._throttling.get(reason, -_SETTLED_S) >= _SETTLED_S:
                emit(DeviceFault(self._gpu.name, "throttling", reason))
            self._throttling[reason] = now
