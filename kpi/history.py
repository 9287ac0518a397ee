"""What is kept of a run's log: columns of numbers, and the few events that mark a moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from kpi.decoding import Record
from kpi.events import Event, RunFinished, RunStarted, Spread
from kpi.frame_columns import Floats, Frames, Ints, Seconds, Share
from kpi.reading import ReadingNotes
from kpi.stats import spread

E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class ReasonCount:
    reason: str
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Drops:
    """The dropped frames: a row a frame, or a row a second and reason."""

    ts: Floats
    reason: Ints
    """Index into `reasons`."""
    count: Ints
    reasons: tuple[str, ...]

    @property
    def total(self) -> int:
        return int(self.count.sum())

    @property
    def by_reason(self) -> tuple[ReasonCount, ...]:
        """The most frequent first."""
        rows = [
            ReasonCount(name, int(self.count[self.reason == number].sum()))
            for number, name in enumerate(self.reasons)
        ]
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
    """Where the log has a line for each frame."""
    per_second: Seconds
    """Where it has one line a second instead."""
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
    def published(self) -> int:
        """Published frames in the log."""
        return len(self.frames) + int(self.per_second.published.sum())

    @property
    def row(self) -> str:
        """What a row of `rows` is: "frame" or "second"."""
        return "frame" if len(self.frames) or not len(self.per_second) else "second"

    def rows(self, share: Share = "p50") -> Frames:
        """The frames; where the log has none, its seconds, each as if it were one."""
        return self.frames if self.row == "frame" else self.per_second.rows(share)

    @property
    def latency(self) -> Spread | None:
        """Of all frames; of a typical second where the log has only those."""
        if self.row == "frame":
            return spread(self.frames.latency_ms)
        return self.per_second.latency.typical

    @property
    def age(self) -> Spread | None:
        """As `latency`."""
        return spread(self.frames.age_ms) if self.row == "frame" else self.per_second.age.typical

    @property
    def fps(self) -> float | None:
        """As the run told it; where it did not, the frames between the first and the last row
        over that time. None for less than two rows."""
        if self.finished is not None and self.finished.fps is not None:
            return self.finished.fps
        ts = self.rows().ts
        apart = float(np.ptp(ts)) if len(ts) else 0.0
        first = 1 if self.row == "frame" else int(self.per_second.published[0])
        return (self.published - first) / apart if apart > 0 else None

    def marked(self, kind: type[E]) -> list[tuple[float, E]]:
        """The marks of one kind as (Unix seconds, event)."""
        return [(m.ts, m.event) for m in self.marks if isinstance(m.event, kind)]
