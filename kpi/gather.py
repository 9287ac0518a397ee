"""Turns the events of a log into a `History`: one pass, columns instead of objects."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from pathlib import Path

from kpi.columns import FrameRows, Names, SampleRows, SecondRows, floats, ints
from kpi.decoding import Record
from kpi.device_events import DeviceSample
from kpi.events import (
    Event,
    EventsDropped,
    FrameDropped,
    FramePublished,
    FrameSecond,
    RunFinished,
    RunStarted,
)
from kpi.history import Drops, History, Throttled
from kpi.marks import MARKS
from kpi.reading import KpiLog, ReadingNotes

_MOST_MARKS = 5000


def gather(path: Path) -> History:
    """The run at `path`: its folder or its `kpi.jsonl`. Raises `kpi.reading.LogError`."""
    log = KpiLog(path)
    return _Gatherer().run(log, log.notes)


class _Gatherer:
    def __init__(self) -> None:
        self._sources = Names()
        self._frames = FrameRows(self._sources)
        self._seconds = SecondRows(self._sources)
        self._drop_ts = array("d")
        self._drop_reason, self._drop_count = array("q"), array("q")
        self._reasons = Names()
        self._devices: dict[str | None, SampleRows] = {}
        self._throttled: list[Throttled] = []
        self._marks: list[Record] = []
        self._left_out = 0

    def run(self, records: Iterable[Record], notes: ReadingNotes) -> History:
        begins, ends = math.inf, -math.inf
        for record in records:
            begins, ends = min(begins, record.ts), max(ends, record.ts)
            self._take(record)
        started = [m.event for m in self._marks if isinstance(m.event, RunStarted)]
        finished = [m.event for m in self._marks if isinstance(m.event, RunFinished)]
        return History(
            notes=notes,
            begins=begins,
            ends=ends,
            started=started[0] if started else None,
            finished=finished[-1] if finished else None,
            sources=self._sources.all,
            frames=self._frames.done(),
            per_second=self._seconds.done(),
            drops=self._drops(),
            devices=tuple(rows.done(gpu) for gpu, rows in self._devices.items()),
            throttled=tuple(self._throttled),
            marks=tuple(self._marks),
            marks_left_out=self._left_out,
        )

    def _take(self, record: Record) -> None:
        event = record.event
        if isinstance(event, FramePublished):
            self._frames.add(record.ts, event)
        elif isinstance(event, FrameDropped):
            self._drop(record.ts, event.reason, 1)
        elif isinstance(event, FrameSecond):
            self._seconds.add(record.ts, event)
            for reason, count in event.dropped.items():
                self._drop(record.ts, reason, count)
        elif isinstance(event, DeviceSample):
            self._devices.setdefault(event.gpu, SampleRows()).add(record.ts, event)
            if event.gpu_throttle_reasons and len(self._throttled) < _MOST_MARKS:
                self._throttled.append(Throttled(record.ts, event.gpu, event.gpu_throttle_reasons))
        elif isinstance(event, MARKS):
            self._mark(record, event)

    def _drop(self, ts: float, reason: str, count: int) -> None:
        self._drop_ts.append(ts)
        self._drop_reason.append(self._reasons.index(reason))
        self._drop_count.append(count)

    def _drops(self) -> Drops:
        columns = (ints(self._drop_reason), ints(self._drop_count))
        return Drops(floats(self._drop_ts), *columns, self._reasons.all)

    def _mark(self, record: Record, event: Event) -> None:
        """The run's ends are always kept: they are few, and come when the rest may be full."""
        if len(self._marks) < _MOST_MARKS or isinstance(event, RunFinished | EventsDropped):
            self._marks.append(record)
        else:
            self._left_out += 1
