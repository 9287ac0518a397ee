"""Waits for the faults that a GPU reports, whatever becomes of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from kpi.emit import emit
from kpi.gpu import RETRY_S, Gpu, GpuLostError, NoFaultsToldError, told

_log = logging.getLogger(__name__)

_WATCH_S = 0.2
"""One wait for a fault; bounds how long the end of a run waits for that thread."""
_STORM_S = 0.1
"""At least between two faults told, so that a storm of them floods nobody."""


class FaultWatch:
    """Emits every fault of one GPU.

    A wait that fails is tried again every `RETRY_S` seconds. What it raised is told once, until
    a wait succeeds; a lost GPU is `lost`'s to judge, which is called each time.
    """

    def __init__(self, gpu: Gpu, lost: Callable[[], None]) -> None:
        self._gpu = gpu
        self._lost = lost
        self._fails = False

    def run(self, stop: threading.Event) -> None:
        """Watch until `stop`; returns at once where this GPU tells of no faults."""
        while not stop.is_set():
            try:
                told_any = self._wait()
            except NoFaultsToldError as error:
                _log.info("kpi: no faults of %s: %s", self._gpu.name, error)
                return
            except Exception as error:
                self._fail(error)
                stop.wait(RETRY_S)
                continue
            if told_any:
                stop.wait(_STORM_S)

    def close(self) -> None:
        self._gpu.close()

    def _wait(self) -> bool:
        if self._fails:
            self._gpu.renew()
        fault = self._gpu.wait_fault(_WATCH_S)
        self._fails = False
        if fault is not None:
            emit(fault)
        return fault is not None

    def _fail(self, error: Exception) -> None:
        if isinstance(error, GpuLostError):
            self._lost()
        elif not self._fails:
            emit(told(error))
            _log.warning("kpi: no faults of %s for now: %s", self._gpu.name, error)
        self._fails = True
