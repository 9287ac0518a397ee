"""What a log of single frames would look like with a line a second (`kpi.detail: second`)."""

from __future__ import annotations

import numpy as np

from kpi.frame_columns import Floats, Frames, Ints, Seconds, SpreadColumn, StageColumn
from kpi.stats import spread


def per_second(frames: Frames) -> Seconds:
    """A row for each second of the Unix clock in which a frame was published."""
    second = np.floor(frames.ts)
    first = np.flatnonzero(np.diff(second, prepend=-1.0))
    last = np.append(first[1:], len(frames))[: len(first)] - 1

    def medians(values: Floats) -> Floats:
        return _spreads(values, first).p50

    return Seconds(
        ts=second[first] + 1,
        source=frames.source[first],
        epoch=frames.epoch[last],
        frame_id=frames.frame_id[last],
        published=last - first + 1,
        objects=frames.objects[last],
        latency=_spreads(frames.latency_ms, first),
        age=_spreads(frames.age_ms, first),
        queue=_spreads(frames.queue_ms, first),
        stages=tuple(
            StageColumn(stage.name, medians(stage.host_ms), medians(stage.gpu_ms))
            for stage in frames.stages
        ),
    )


def _spreads(values: Floats, first: Ints) -> SpreadColumn:
    """Of the rows from each of `first` to the next."""
    rows = [spread(part) for part in np.split(values, first[1:])] if len(first) else []
    table = [(np.nan,) * 4 if row is None else (row.p50, row.p95, row.p99, row.max) for row in rows]
    return SpreadColumn(*np.array(table, dtype=np.float64).reshape(len(rows), 4).T)
