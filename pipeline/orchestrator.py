"""The frame loop: one frame at a time from Grab through the chain to egress.

The orchestrator owns the compute stream; Grab and ToHost own their copy streams and hand over
only what is safe on this one. Stages hold no timing code and no threads: both are here.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch

from kpi.timing import FrameTimes, StageTimer
from pipeline.ahead import Ahead
from pipeline.audit import ResidencyReport, residency_guard
from pipeline.chain import Chain, Wanted, frame_kind
from pipeline.egress import Egress
from pipeline.health import Heartbeat
from pipeline.inference_inputs import InferenceInputs, prepare_inference_inputs
from pipeline.tally import FrameName, Tally
from pipeline.warm_up import one_compute_stream, warm_up
from stages.errors import GpuError
from stages.grab import Grab
from stages.records import Detections, Encoded, Frame

__all__ = ["AuditPlan", "InferenceInputs", "Orchestrator", "prepare_inference_inputs"]

Half = Literal["look", "finish"]
R = TypeVar("R")

_WAIT_S = 0.1


class PixelTap(Protocol):
    """Something that is shown every frame before it is finished."""

    def offer(self, frame: Frame) -> None:
        """Look at, or keep, a frame; must not copy it."""


class LookTap(Protocol):
    """Something that is shown what the detector made of every frame, before it is finished."""

    def look(self, detections: Detections) -> None:
        """Look at, or keep, them; must not wait."""


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """Which frames run under the residency guard, and what a violation does."""

    frames: int | None
    """The first so many; None means every frame."""
    on_violation: Literal["raise", "count"]


class Audited:
    """What the guarded frames showed; the two halves of a frame may report from two threads."""

    def __init__(self) -> None:
        self.halves: Counter[Half] = Counter()
        self.d2h = 0
        self.h2d = 0
        self.syncs = 0
        self._lock = threading.Lock()

    @property
    def frames(self) -> int:
        """Frames that were watched all the way."""
        return self.halves["finish"]

    def add(self, half: Half, report: ResidencyReport) -> None:
        with self._lock:
            self.halves[half] += 1
            self.d2h += report.count("d2h")
            self.h2d += report.count("h2d")
            self.syncs += report.count("sync") + report.count("dynamic_shape")


@dataclass(frozen=True, slots=True, eq=False)
class _Looked:
    """A frame half-way."""

    name: FrameName
    encoded: Encoded
    times: FrameTimes


class Orchestrator:
    """Runs frames through the chain until the source ends, an error, or `stop`."""

    def __init__(
        self,
        chain: Chain,
        egress: Egress,
        timer: StageTimer,
        tally: Tally,
        plan: AuditPlan,
        taps: Sequence[PixelTap],
        *,
        looks: LookTap | None = None,
        warm: bool = True,
    ) -> None:
        """``warm`` False: the chain is yet to be warmed up, with the size of the first frame."""
        self._chain = chain
        self._egress = egress
        self._timer = timer
        self._tally = tally
        self._plan = plan
        self._taps = tuple(taps)
        self._looks = looks
        self._warm = warm
        self.audited = Audited()
        self.epoch = 0
        """Of the newest frame."""
        self.heart = Heartbeat("the frame loop")

    def run(self, grab: Grab, stop: threading.Event) -> None:
        """Process every frame of `grab`.

        On the CPU the next frame is detected and encoded while this one is segmented, each half
        on a core of its own; a GPU needs no such help, its host is ahead anyway. Raises
        `StageError`, `SourceError`, `ResidencyError` or `GpuError`.
        """
        self.heart.beat()
        try:
            self._run(grab, stop)
        finally:
            self.heart.rest()

    def _run(self, grab: Grab, stop: threading.Event) -> None:
        if grab.device.type == "cuda":
            with one_compute_stream(grab.device):
                self._finish_all(self._looked(grab, stop, self._chain.wait_slot), stop)
            return
        ahead = Ahead(self._looked(grab, stop, _no_wait))
        try:
            with ahead:
                try:
                    self._finish_all(iter(ahead), stop)
                finally:
                    stop.set()
        finally:
            for looked in ahead.left_over:
                self._tally.drop(looked.name, "stopped")

    def _looked(
        self, grab: Grab, stop: threading.Event, wait: Callable[[float], bool]
    ) -> Iterator[_Looked]:
        """Frames half-way; `wait` comes before a frame is taken, so that it is the
        freshest one."""
        while not stop.is_set():
            if not wait(_WAIT_S):
                continue
            self.heart.beat()  # a half or a device that hangs stops this: what may wait is bounded
            frame = grab.get(_WAIT_S)
            if frame is not None:
                looked = self._look(frame) if self._is_ready(frame, grab) else None
                if looked is not None:
                    yield looked
            elif grab.ended:
                return

    def _is_ready(self, frame: Frame, grab: Grab) -> bool:
        """Warms up where that is still to be done; False where the frame grew too old by it."""
        if self._warm:
            return True
        self.heart.rest()  # it may compile for minutes
        warm_up(self._chain, frame.size_hw, frame.rgb.device, frame.origin_yx)
        self.heart.beat()
        self._warm = True
        stale = grab.too_old(frame.captured_ns)
        if stale:
            self._tally.drop(FrameName(frame.source_id, frame.epoch, frame.frame_id), "stale")
        return not stale

    def _look(self, frame: Frame) -> _Looked | None:
        self.epoch = frame.epoch
        name = FrameName(frame.source_id, frame.epoch, frame.frame_id)
        times = self._timer.frame()
        times.waits(frame.grabbed_ns)
        times.goes_on()
        encoded = self._watched(name, "look", lambda: self._chain.look(frame, times))
        times.waits()
        return None if encoded is None else _Looked(name, encoded, times)

    def _finish_all(self, looked: Iterator[_Looked], stop: threading.Event) -> None:
        for item in looked:
            while not self._chain.wait_slot(_WAIT_S) and not stop.is_set():
                pass
            if stop.is_set():
                self._tally.drop(item.name, "stopped")
                return
            self._finish(item)

    def _finish(self, item: _Looked) -> None:
        item.times.goes_on()
        for tap in self._taps:
            tap.offer(item.encoded.detections.frame)
        if self._looks is not None:
            self._looks.look(item.encoded.detections)
        wanted = Wanted(self._egress.wants_masks, self._egress.wants_logits)
        pending = self._watched(
            item.name, "finish", lambda: self._chain.finish(item.encoded, item.times, wanted)
        )
        if pending is not None:
            self._egress.submit(item.name, frame_kind(item.encoded), pending, item.times)

    def _watched(self, name: FrameName, half: Half, work: Callable[[], R]) -> R | None:
        """What `work` returns, audited where the plan says so; None where it found no memory.

        A frame that gets no further is counted as dropped.
        """
        try:
            with torch.inference_mode(), self._guard(half):
                return work()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            self._tally.drop(name, "oom")
            return None
        except BaseException as error:
            self._tally.drop(name, "stopped")
            if isinstance(error, torch.AcceleratorError):
                raise GpuError(f"the GPU failed: {_first_line(error)}") from error
            raise

    def _guard(self, half: Half) -> AbstractContextManager[object]:
        limit = self._plan.frames
        if limit is not None and self.audited.halves[half] >= limit:
            return nullcontext()
        return self._audit(half)

    @contextmanager
    def _audit(self, half: Half) -> Iterator[None]:
        with residency_guard(self._plan.on_violation) as report:
            yield
        self.audited.add(half, report)


def _no_wait(timeout_s: float) -> bool:
    return True


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
