"""Columns about the frames of a run: a row a published frame, or a row a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kpi.events import FrameKind, Spread
from kpi.stats import Floats, typical

__all__ = [
    "FRAME_KINDS",
    "Floats",
    "Frames",
    "Ints",
    "Seconds",
    "Share",
    "SpreadColumn",
    "StageColumn",
]

Ints = NDArray[np.int64]
Share = Literal["p50", "p95", "p99", "max"]
FRAME_KINDS: Final[tuple[FrameKind, ...]] = get_args(FrameKind)


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
    """A row a published frame, in the order of the log; unknown numbers are NaN."""

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
    kind: Ints
    """Index into `FRAME_KINDS`; -1 where it was not told."""
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


@dataclass(frozen=True, slots=True, eq=False)
class SpreadColumn:
    """Milliseconds: how the values of each second lie; NaN where it has none."""

    p50: Floats
    p95: Floats
    p99: Floats
    max: Floats

    def of(self, share: Share) -> Floats:
        column: Floats = getattr(self, share)
        return column

    @property
    def typical(self) -> Spread | None:
        """The median second's percentiles, and the maximum of all; None without values."""
        return typical(self.p50, self.p95, self.p99, self.max)


@dataclass(frozen=True, slots=True, eq=False)
class Seconds:
    """A row a second and source in which frames were published."""

    ts: Floats
    """Unix seconds of its end."""
    source: Ints
    epoch: Ints
    frame_id: Ints
    """Of the newest frame."""
    published: Ints
    objects: Ints
    latency: SpreadColumn
    age: SpreadColumn
    queue: SpreadColumn
    stages: tuple[StageColumn, ...]
    """Medians."""

    def __len__(self) -> int:
        return len(self.ts)

    def rows(self, share: Share) -> Frames:
        """As if each second were one frame: of times that are spread, `share`."""
        unknown = np.full(len(self), np.nan)
        return Frames(
            ts=self.ts,
            source=self.source,
            epoch=self.epoch,
            frame_id=self.frame_id,
            latency_ms=self.latency.of(share),
            age_ms=self.age.of(share),
            queue_ms=self.queue.of(share),
            objects=self.objects,
            kind=np.full(len(self), -1),
            presence_low=unknown,
            presence_median=unknown,
            stages=self.stages,
        )
