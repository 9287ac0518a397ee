"""What is kept of a run's log: columns of numbers, and the few events that mark a moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kpi.decoding import Record
from kpi.events import Event, RunFinished, RunStarted
from kpi.reading import ReadingNotes

E = TypeVar("E", bound=Event)
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class StageColumn:
    """Milliseconds of one stage, a row a published frame; NaN where it was not timed."""

    name: str
    host_ms: Floats
    gpu_ms: Floats

    @property
    def spent_ms(self) -> Floats:
        """GPU time where there is one, else host time: what the frame waited for."""
        return np.where(np.isnan(self.gpu_ms), self.host_ms, self.gpu_ms)


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """The published frames in the order of the log; a row each, unknown numbers are NaN."""

    ts: Floats
    """Unix seconds."""
    source: Ints
    """Index into `History.sources`."""
    epoch: Ints
    frame_id: Ints
    latency_ms: Floats
    age_ms: Floats
    queue_ms: Floats
    objects: Ints
    presence_low: Floats
    """The least present object's, a logit; NaN without objects."""
    presence_median: Floats
    stages: tuple[StageColumn, ...]
    """In the order they ran."""

    def __len__(self) -> int:
        return len(self.ts)

    def stage(self, name: str) -> StageColumn:
        """Where there is no such stage, a column of NaN."""
        unknown = np.full(len(self), np.nan)
        found = (stage for stage in self.stages if stage.name == name)
        return next(found, StageColumn(name, unknown, unknown))

    @property
    def waiting_is_told(self) -> bool:
        return not bool(np.isnan(self.queue_ms).all())

    @property
    def waiting_ms(self) -> Floats:
        """`queue_ms`; where no frame has it, the part of the latency that no stage explains
        (below 0 where stages overlap)."""
        if self.waiting_is_told:
            return self.queue_ms
        explained = np.zeros(len(self.ts))
        for stage in self.stages:
            explained += np.nan_to_num(stage.spent_ms)
        return self.latency_ms - explained


@dataclass(frozen=True, slots=True)
class ReasonCount:
    reason: str
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Drops:
    """The dropped frames, a row each."""

    ts: Floats
    reason: Ints
    """Index into `reasons`."""
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ts)

    @property
    def by_reason(self) -> tuple[ReasonCount, ...]:
        """The most frequent first."""
        counts = np.bincount(self.reason, minlength=len(self.reasons))
        rows = [ReasonCount(*row) for row in zip(self.reasons, counts.tolist(), strict=True)]
        return tuple(sorted(rows, key=lambda row: -row.count))


@dataclass(frozen=True, slots=True, eq=False)
class DeviceColumn:
    """One figure of `DeviceSample`; NaN where it could not be read."""

    name: str
    """The field's."""
    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class DeviceTrack:
    """The samples of one GPU, or of a machine without one."""

    gpu: str | None
    ts: Floats
    columns: tuple[DeviceColumn, ...]

    def column(self, name: str) -> Floats | None:
        """None where the figure was never read."""
        return next((column.values for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class Throttled:
    """A sample in which a GPU said that it slowed itself down."""

    ts: float
    gpu: str | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """A run as its log tells it."""

    notes: ReadingNotes
    begins: float
    """Unix seconds of the first event."""
    ends: float
    started: RunStarted | None
    """None: rotated away."""
    finished: RunFinished | None
    """None: the run crashed, or goes on."""
    sources: tuple[str, ...]
    frames: Frames
    drops: Drops
    devices: tuple[DeviceTrack, ...]
    throttled: tuple[Throttled, ...]
    marks: tuple[Record, ...]
    """Events that mark a moment (states, faults, prompts, errors), oldest first."""
    marks_left_out: int
    """Beyond what is kept of them."""

    @property
    def seconds(self) -> float:
        """From the first event to the last."""
        return max(self.ends - self.begins, 0.0)

    @property
    def fps(self) -> float | None:
        """As the run told it; where it did not, the frames between the first and the last
        publication over that time. None for less than two frames."""
        if self.finished is not None and self.finished.fps is not None:
            return self.finished.fps
        apart = float(np.ptp(self.frames.ts)) if len(self.frames) else 0.0
        return (len(self.frames) - 1) / apart if apart > 0 else None

    def marked(self, kind: type[E]) -> list[tuple[float, E]]:
        """The marks of one kind as (Unix seconds, event)."""
        return [(m.ts, m.event) for m in self.marks if isinstance(m.event, kind)]
