"""What this process and its GPU are doing, and what goes wrong with that GPU, as events."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import psutil

from kpi.device_events import DeviceFault, DeviceSample
from kpi.emit import emit
from kpi.events import ErrorRaised

_log = logging.getLogger(__name__)

_CLOSE_S = 1.0
_WATCH_S = 0.2
"""One wait for a fault; bounds how long the end of a run waits for that thread."""
_STORM_S = 0.1
"""At least between two faults told, so that a storm of them floods nobody."""
_SETTLED_S = 60.0
"""A throttle reason absent for so long begins anew when it is back; a power cap comes and goes."""


class GpuLostError(Exception):
    """The GPU no longer answers; the message is the driver's."""


class NoFaultsToldError(Exception):
    """This GPU reports no faults; the message says why."""


class Gpu(Protocol):
    """One GPU. A sampler reads it from one thread and waits for its faults in another."""

    @property
    def name(self) -> str:
        """NVML's UUID: the same in every process and after every restart."""

    def read(self) -> DeviceSample:
        """The GPU's figures now, None where they cannot be told; raises `GpuLostError`."""

    def wait_fault(self, timeout_s: float) -> DeviceFault | None:
        """The next XID or ECC fault, None where none came in time; raises `GpuLostError`, and
        `NoFaultsToldError` where this GPU tells of no faults."""

    def close(self) -> None:
        """Release everything; no call follows."""


class DeviceSampler:
    """Emits a `DeviceSample` at once and then every `interval_s` seconds, and every `DeviceFault`.

    `device_index` is torch's CUDA index, None on a machine without a GPU. `open_gpu` finds that
    GPU, or returns None. What cannot be read stays None; a GPU that is lost is told of once and
    has no figures from then on. Two threads of its own, started in a copy of the context that
    calls `start`, do the work, so that a slow driver costs no frame.
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
        self._gpu = None if device_index is None else (open_gpu or _open_nvml)(device_index)
        self._process = psutil.Process()
        self._last: tuple[float, float] | None = None
        self._throttling: dict[str, float] = {}
        """When each throttle reason was last seen, monotonic seconds."""
        self._silent = False
        self._silence_lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._run("kpi-device", self._work)
        if self._gpu is not None:
            self._run("kpi-device-faults", self._watch)

    def sample(self) -> DeviceSample:
        """One reading of now; never raises for what a GPU does. `process_cpu` is None in the
        first: it is a rate."""
        return replace(
            self._gpu_sample(),
            process_cpu=self._cpu_cores(),
            process_rss_bytes=self._process.memory_info().rss,
            process_threads=self._process.num_threads(),
        )

    def close(self) -> None:
        """Stop within a second; where a driver call hangs, its thread is left behind."""
        self._stop.set()
        deadline = time.monotonic() + _CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            _log.warning("kpi: the device sampler hangs in a driver call")
            return
        if self._gpu is not None:
            self._gpu.close()
            self._gpu = None

    def _run(self, name: str, work: Callable[[], None]) -> None:
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(work,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        emit(self.sample())
        while not self._stop.wait(self._interval_s):
            emit(self.sample())

    def _watch(self) -> None:
        gpu = self._gpu
        while gpu is not None and not (self._silent or self._stop.is_set()):
            try:
                fault = gpu.wait_fault(_WATCH_S)
            except NoFaultsToldError as error:
                _log.info("kpi: no faults of %s: %s", gpu.name, error)
                return
            except GpuLostError as error:
                self._fall_silent(gpu, error)
                return
            except Exception as error:
                emit(_told(error))
                return
            if fault is not None:
                emit(fault)
                self._stop.wait(_STORM_S)

    def _gpu_sample(self) -> DeviceSample:
        gpu = self._gpu
        if gpu is None:
            return DeviceSample()
        if not self._silent:
            try:
                sample = gpu.read()
            except Exception as error:
                self._fall_silent(gpu, error)
            else:
                self._tell_throttling(gpu.name, sample.gpu_throttle_reasons or ())
                return sample
        return DeviceSample(gpu=gpu.name)

    def _fall_silent(self, gpu: Gpu, error: Exception) -> None:
        """Tell, once, why the GPU has no figures from now on."""
        with self._silence_lock:
            if self._silent:
                return
            self._silent = True
        if isinstance(error, GpuLostError):
            emit(DeviceFault(gpu.name, "lost", str(error)))
        else:
            emit(_told(error))

    def _tell_throttling(self, gpu: str, reasons: tuple[str, ...]) -> None:
        now = time.monotonic()
        for reason in reasons:
            if now - self._throttling.get(reason, -_SETTLED_S) >= _SETTLED_S:
                emit(DeviceFault(gpu, "throttling", reason))
            self._throttling[reason] = now

    def _cpu_cores(self) -> float | None:
        times = self._process.cpu_times()
        now, used = time.monotonic(), times.user + times.system
        last, self._last = self._last, (now, used)
        if last is None or now <= last[0]:
            return None
        return (used - last[1]) / (now - last[0])


def _told(error: Exception) -> ErrorRaised:
    return ErrorRaised("kpi.device", f"{type(error).__name__}: {error}")


def _open_nvml(device_index: int) -> Gpu | None:
    from kpi.nvml import open_nvml

    return open_nvml(device_index)
