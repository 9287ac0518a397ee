"""Columns that grow by a row an event, and how they become a `History`'s."""

from __future__ import annotations

import math
import statistics
from array import array
from collections.abc import Mapping
from dataclasses import fields

import numpy as np

from kpi.device_events import DeviceSample
from kpi.events import FramePublished, FrameSecond, Spread, StageMs
from kpi.frame_columns import FRAME_KINDS, Floats, Frames, Ints, Seconds, SpreadColumn, StageColumn
from kpi.history import DeviceColumn, DeviceTrack

_MOST_STAGES = 32
_NOT_TIMED = StageMs(host=math.nan)
_KINDS = {kind: number for number, kind in enumerate(FRAME_KINDS)}
_SHARES = ("p50", "p95", "p99", "max")
_SAMPLED = tuple(
    field.name
    for field in fields(DeviceSample)
    if field.name not in ("gpu", "gpu_throttle_reasons")
)


class Names:
    """Numbers names in the order they come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def index(self, name: str) -> int:
        return self._numbers.setdefault(name, len(self._numbers))

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(self._numbers)


class FrameRows:
    def __init__(self, sources: Names) -> None:
        self._sources = sources
        self._ts = array("d")
        self._source, self._epoch, self._frame_id, self._objects = (array("q") for _ in range(4))
        self._kind = array("q")
        self._latency, self._age, self._queue = (array("f") for _ in range(3))
        self._low, self._median = array("f"), array("f")
        self._stages = _StageRows()

    def add(self, ts: float, event: FramePublished) -> None:
        self._ts.append(ts)
        self._source.append(self._sources.index(event.source_id))
        self._epoch.append(event.epoch)
        self._frame_id.append(event.frame_id)
        self._objects.append(event.objects)
        self._kind.append(-1 if event.kind is None else _KINDS.get(event.kind, -1))
        self._latency.append(_single(event.latency_ms))
        self._age.append(_single(event.age_ms))
        self._queue.append(_single(event.queue_ms))
        present = [_single(value) for value in event.presence if not math.isnan(value)]
        self._low.append(min(present, default=math.nan))
        self._median.append(statistics.median(present) if present else math.nan)
        self._stages.add(event.stages_ms)

    def done(self) -> Frames:
        return Frames(
            ts=floats(self._ts),
            source=ints(self._source),
            epoch=ints(self._epoch),
            frame_id=ints(self._frame_id),
            latency_ms=floats(self._latency),
            age_ms=floats(self._age),
            queue_ms=floats(self._queue),
            objects=ints(self._objects),
            kind=ints(self._kind),
            presence_low=floats(self._low),
            presence_median=floats(self._median),
            stages=self._stages.done(),
        )


class SecondRows:
    """Of the seconds in which something was published."""

    def __init__(self, sources: Names) -> None:
        self._sources = sources
        self._ts = array("d")
        self._source, self._epoch, self._frame_id = (array("q") for _ in range(3))
        self._published, self._objects = array("q"), array("q")
        self._latency, self._age, self._queue = (_SpreadRows() for _ in range(3))
        self._stages = _StageRows()

    def add(self, ts: float, event: FrameSecond) -> None:
        if not event.published > 0:
            return
        self._ts.append(ts)
        self._source.append(self._sources.index(event.source_id))
        self._epoch.append(event.epoch or 0)
        self._frame_id.append(event.frame_id or 0)
        self._published.append(event.published)
        self._objects.append(event.objects or 0)
        self._latency.add(event.latency_ms)
        self._age.add(event.age_ms)
        self._queue.add(event.queue_ms)
        self._stages.add(event.stages_ms or {})

    def done(self) -> Seconds:
        return Seconds(
            ts=floats(self._ts),
            source=ints(self._source),
            epoch=ints(self._epoch),
            frame_id=ints(self._frame_id),
            published=ints(self._published),
            objects=ints(self._objects),
            latency=self._latency.done(),
            age=self._age.done(),
            queue=self._queue.done(),
            stages=self._stages.done(),
        )


class _StageRows:
    def __init__(self) -> None:
        self._rows = 0
        self._stages: dict[str, tuple[array[float], array[float]]] = {}

    def add(self, stages_ms: Mapping[str, StageMs]) -> None:
        """A stage that begins late, or was skipped, has NaN in the other rows."""
        for name in stages_ms:
            if name not in self._stages and len(self._stages) < _MOST_STAGES:
                empty = [math.nan] * self._rows
                self._stages[name] = (array("f", empty), array("f", empty))
        for name, (host, gpu) in self._stages.items():
            spent = stages_ms.get(name, _NOT_TIMED)
            host.append(_single(spent.host))
            gpu.append(_single(spent.gpu))
        self._rows += 1

    def done(self) -> tuple[StageColumn, ...]:
        return tuple(
            StageColumn(name, floats(host), floats(gpu))
            for name, (host, gpu) in self._stages.items()
        )


class _SpreadRows:
    def __init__(self) -> None:
        self._columns = [array("f") for _ in _SHARES]

    def add(self, row: Spread | None) -> None:
        for column, share in zip(self._columns, _SHARES, strict=True):
            column.append(_single(None if row is None else getattr(row, share)))

    def done(self) -> SpreadColumn:
        return SpreadColumn(*(floats(column) for column in self._columns))


class SampleRows:
    def __init__(self) -> None:
        self._ts = array("d")
        self._columns = {name: array("d") for name in _SAMPLED}

    def add(self, ts: float, event: DeviceSample) -> None:
        self._ts.append(ts)
        for name, column in self._columns.items():
            value = getattr(event, name)
            column.append(math.nan if value is None else value)

    def done(self, gpu: str | None) -> DeviceTrack:
        columns = ((name, floats(values)) for name, values in self._columns.items())
        known = (DeviceColumn(name, values) for name, values in columns)
        kept = tuple(c for c in known if not np.isnan(c.values).all())
        return DeviceTrack(gpu, floats(self._ts), kept)


def _single(value: float | None) -> float:
    """Fit for single precision; what no clock can have measured is unknown."""
    return math.nan if value is None or not abs(value) < 1e12 else value


def floats(values: array[float]) -> Floats:
    return np.frombuffer(values, dtype=values.typecode) if values else np.empty(0)


def ints(values: array[int]) -> Ints:
    return np.frombuffer(values, dtype=np.int64) if values else np.empty(0, dtype=np.int64)
