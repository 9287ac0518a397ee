"""The frame loop: one frame at a time from Grab through the chain to egress.

The orchestrator owns the compute stream; Grab and ToHost own their copy streams and hand over
only what is safe on this one. Stages hold no timing code and no threads: both are here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from kpi.timing import StageTimer
from pipeline.audit import ResidencyReport, residency_guard
from pipeline.chain import Chain
from pipeline.egress import Egress
from pipeline.inference_inputs import InferenceInputs, prepare_inference_inputs
from pipeline.preview import Preview
from pipeline.tally import FrameName, Tally
from stages.errors import GpuError
from stages.grab import Grab
from stages.records import Frame

__all__ = ["AuditPlan", "InferenceInputs", "Orchestrator", "prepare_inference_inputs"]

_WAIT_S = 0.1
WARM_UP_EPOCH = -1


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """Which frames run under the residency guard, and what a violation does."""

    frames: int | None
    """The first so many; None means every frame."""
    on_violation: Literal["raise", "count"]


@dataclass(slots=True)
class Audited:
    """What the guarded frames showed."""

    frames: int = 0
    d2h: int = 0
    h2d: int = 0
    syncs: int = 0

    def add(self, report: ResidencyReport) -> None:
        self.frames += 1
        self.d2h += report.count("d2h")
        self.h2d += report.count("h2d")
        self.syncs += report.count("sync") + report.count("dynamic_shape")


class Orchestrator:
    """Runs frames through the chain until the source ends, an error, or `stop`."""

    def __init__(
        self,
        chain: Chain,
        egress: Egress,
        timer: StageTimer,
        tally: Tally,
        plan: AuditPlan,
        preview: Preview | None,
    ) -> None:
        self._chain = chain
        self._egress = egress
        self._timer = timer
        self._tally = tally
        self._plan = plan
        self._preview = preview
        self.audited = Audited()
        self.epoch = 0
        """Of the newest frame."""

    def run(self, grab: Grab, stop: threading.Event) -> None:
        """Process every frame of `grab`.

        Raises `StageError`, `SourceError`, `ResidencyError` or `GpuError`.
        """
        with torch.inference_mode(), _one_compute_stream(grab.device):
            while not stop.is_set():
                if not self._chain.wait_slot(_WAIT_S):
                    continue
                frame = grab.get(_WAIT_S)
                if frame is not None:
                    self._process(frame)
                elif grab.ended:
                    return

    def _process(self, frame: Frame) -> None:
        if self._preview is not None:
            self._preview.offer(frame)
        self.epoch = frame.epoch
        name = FrameName(frame.source_id, frame.epoch, frame.frame_id)
        times = self._timer.frame()
        try:
            with self._guard(frame):
                pending = self._chain.process(frame, times, self._egress.wants_masks)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            self._tally.drop(name, "oom")
            return
        except BaseException as error:
            self._tally.drop(name, "stopped")
            if isinstance(error, torch.AcceleratorError):
                raise GpuError(f"{frame.rgb.device}: {_first_line(error)}") from error
            raise
        self._egress.submit(name, pending, times)

    def _guard(self, frame: Frame) -> AbstractContextManager[object]:
        if self._plan.frames is not None and self.audited.frames >= self._plan.frames:
            return nullcontext()
        return self._audit()

    @contextmanager
    def _audit(self) -> Iterator[None]:
        with residency_guard(self._plan.on_violation) as report:
            yield
        self.audited.add(report)


def warm_up(chain: Chain, size_hw: tuple[int, int], device: torch.device) -> None:
    """Run black frames through the chain, so that no lazy work is left for the first frame."""
    with torch.inference_mode():
        black = torch.zeros(3, *size_hw, dtype=torch.uint8, device=device)
        for frame_id in range(2):
            chain.warm_up(Frame(black, "warm-up", WARM_UP_EPOCH, frame_id, 0, 0))


@contextmanager
def _one_compute_stream(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
        yield


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
