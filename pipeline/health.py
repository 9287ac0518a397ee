"""Whether a run is alive and can be relied on: for `/livez` and `/readyz`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from kpi.device_events import DeviceFault, DeviceSample
from kpi.events import Event, SourceStateChanged
from pipeline.tally import Tally

_FAULT_S: Final = 60.0
"""How long a fault of the GPU that left it running is held against the run."""


class Heartbeat:
    """When a loop last came round; its own thread says so, any may ask. Monotonic seconds."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._at: float | None = None

    def beat(self) -> None:
        self._at = self._clock()

    def rest(self) -> None:
        """The loop is over: nothing is expected of it any more."""
        self._at = None

    @property
    def silent_s(self) -> float | None:
        """Seconds since the last turn; None while the loop need not turn."""
        at = self._at
        return None if at is None else self._clock() - at


class Health:
    """Judges a run by its events, of which it is a sink, its loops and its tally.

    A GPU that was lost is held against the run until its driver tells figures of it again; what
    the run had on it may be gone all the same, but then no frames come, or the run ends. One
    thread writes; any may ask.
    """

    def __init__(
        self,
        tally: Tally,
        *,
        stale_after_s: float,
        hung_after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.loops: tuple[Heartbeat, ...] = ()
        """Empty until frames can flow."""
        self.source: SourceStateChanged | None = None
        """What the source said last."""
        self._tally = tally
        self._stale_after_s = stale_after_s
        self._hung_after_s = hung_after_s
        self._clock = clock
        self._fault: tuple[float, DeviceFault] | None = None

    def write(self, ts: float, event: Event) -> None:
        match event:
            case SourceStateChanged():
                self.source = event
            case DeviceFault() if event.kind != "throttling":  # slow is not broken
                if not self._is_lost():
                    self._fault = self._clock(), event
            case DeviceSample() if event.gpu_answers and self._is_lost(event.gpu):
                self._fault = None
            case _:
                pass

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """What was seen stays."""

    def not_live(self) -> str | None:
        """Why only a restart can help; None while the loops turn, or need not."""
        for loop in self.loops:
            silent_s = loop.silent_s
            if silent_s is not None and silent_s > self._hung_after_s:
                return f"{loop.name} has not come round for {silent_s:.1f} s"
        return None

    def not_ready(self) -> str | None:
        """Why no client should rely on this run now; None when one may."""
        return self._gpu() or self._source() or self._frames()

    def _is_lost(self, gpu: str | None = None) -> bool:
        """Whether a GPU, or the one of that name, is lost."""
        fault = None if self._fault is None else self._fault[1]
        return fault is not None and fault.kind == "lost" and gpu in (None, fault.gpu)

    def _gpu(self) -> str | None:
        if self._fault is None:
            return None
        at, fault = self._fault
        if fault.kind != "lost" and self._clock() - at > _FAULT_S:
            return None
        return f"the GPU reported a fault: {fault.kind}: {fault.detail}"

    def _source(self) -> str | None:
        if not self.loops:
            return "the models are loading"
        if self.source is None or self.source.state == "streaming":
            return None
        why = f": {self.source.reason}" if self.source.reason else ""
        return f"the source is {self.source.state}{why}"

    def _frames(self) -> str | None:
        since = self._tally.since_publish_s
        if since is None:
            return "no frame was published yet"
        if since > self._stale_after_s:
            return f"no frame was published for {since:.1f} s"
        return None
