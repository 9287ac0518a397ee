"""What this process and its GPU are doing, and what goes wrong with that GPU, as events."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import psutil

from kpi.device_events import DeviceSample
from kpi.emit import emit
from kpi.fault_watch import FaultWatch
from kpi.gpu import Gpu, told
from kpi.gpu_reader import GpuReader

_log = logging.getLogger(__name__)

_CLOSE_S = 1.0


class DeviceSampler:
    """Emits a `DeviceSample` at once and then every `interval_s` seconds, and every `DeviceFault`.

    `device_index` is torch's CUDA index, None on a machine without a GPU. `open_gpu` finds that
    GPU, or returns None; it is called once for each of the two threads, which share nothing of
    it. What cannot be read stays None; see `GpuReader` for a GPU that does not answer. Two
    threads of its own, started in a copy of the context that calls `start`, do the work, so that
    a slow driver costs no frame.
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
        self._wake = threading.Event()
        """Sample now."""
        open_gpu = open_gpu or _open_nvml
        gpu = None if device_index is None else open_gpu(device_index)
        self._reader = None if gpu is None else GpuReader(gpu)
        watched = None if gpu is None or device_index is None else open_gpu(device_index)
        self._watch = None if watched is None else FaultWatch(watched, self._wake.set)
        self._process = psutil.Process()
        self._last: tuple[float, float] | None = None
        self._fails = False
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._run("kpi-device", self._work)
        if self._watch is not None:
            watch = self._watch
            self._run("kpi-device-faults", lambda: watch.run(self._stop))

    def sample(self) -> DeviceSample:
        """One reading of now; never raises for what a GPU does. `process_cpu` is None in the
        first: it is a rate."""
        return replace(
            DeviceSample() if self._reader is None else self._reader.read(),
            process_cpu=self._cpu_cores(),
            process_rss_bytes=self._process.memory_info().rss,
            process_threads=self._process.num_threads(),
        )

    def close(self) -> None:
        """Stop within a second; where a driver call hangs, its thread is left behind."""
        self._stop.set()
        self._wake.set()
        deadline = time.monotonic() + _CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            _log.warning("kpi: the device sampler hangs in a driver call")
            return
        for part in (self._watch, self._reader):
            if part is not None:
                part.close()
        self._watch = self._reader = None

    def _run(self, name: str, work: Callable[[], None]) -> None:
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(work,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        self._emit_sample()
        while not self._stop.is_set():
            self._wake.wait(self._interval_s)
            self._wake.clear()
            if not self._stop.is_set():
                self._emit_sample()

    def _emit_sample(self) -> None:
        """What cannot be foreseen is told once, and costs this sample, not the next ones."""
        try:
            emit(self.sample())
        except Exception as error:
            if not self._fails:
                emit(told(error))
                _log.warning("kpi: no device sample: %s", error)
            self._fails = True
        else:
            self._fails = False

    def _cpu_cores(self) -> float | None:
        times = self._process.cpu_times()
        now, used = time.monotonic(), times.user + times.system
        last, self._last = self._last, (now, used)
        if last is None or now <= last[0]:
            return None
        return (used - last[1]) / (now - last[0])


def _open_nvml(device_index: int) -> Gpu | None:
    from kpi.nvml import open_nvml

    return open_nvml(device_index)
