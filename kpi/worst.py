"""The slowest frames of a run, and what the log knows about why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kpi.device_events import DeviceFault
from kpi.events import (
    ErrorRaised,
    Event,
    ObjectRefused,
    PromptEnded,
    RecorderState,
    SourceStateChanged,
    SubscriberState,
)
from kpi.frame_columns import Floats, Frames
from kpi.history import History
from kpi.stats import spread

_FIRST_FRAMES = 10
"""So many of each source and epoch may be slow because everything is new."""
_NEAR_S = 0.25
_SAMPLE_S = 2.0
"""A sample tells about the seconds before it."""
_TOLD_SHARE = 0.1
"""A part is a cause where it makes at least this share of what the frame took too long."""

_COINCIDENT: tuple[tuple[type[Event], Callable[..., str]], ...] = (
    (DeviceFault, lambda e: f"device fault: {e.kind} {e.detail}"),
    (SourceStateChanged, lambda e: f"the source was {e.state}"),
    (ErrorRaised, lambda e: f"error in {e.where}"),
    (PromptEnded, lambda e: f"a prompt ({e.action})"),
    (ObjectRefused, lambda e: f"an object was refused ({e.reason})"),
    (RecorderState, lambda e: f"recorder {e.recorder}: {e.state}"),
    (SubscriberState, lambda e: f"{e.subscribers} subscribers of {e.topic}"),
)
_AS_USUAL = frozenset({"streaming", "recording"})
"""States that slow nothing down."""


@dataclass(frozen=True, slots=True)
class WorstFrame:
    ts: float
    """Unix seconds of its publication."""
    source: str
    epoch: int
    frame_id: int
    latency_ms: float
    over_ms: float
    """Latency beyond the run's median."""
    causes: tuple[str, ...]
    """Empty where the log knows none."""


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Something that a frame's latency is made of, a row a frame."""

    name: str
    spent_ms: Floats
    median_ms: float


def worst_frames(history: History, count: int = 10) -> tuple[WorstFrame, ...]:
    """The slowest first; fewer where fewer have a known latency. Of a log that has only seconds,
    the seconds with the slowest frames."""
    frames = history.rows("max")
    whole = spread(frames.latency_ms)
    if whole is None:
        return ()
    known = np.flatnonzero(~np.isnan(frames.latency_ms))
    order = known[np.argsort(-frames.latency_ms[known], kind="stable")][:count]
    parts = _parts(frames)
    return tuple(_worst(history, frames, int(row), whole.p50, parts) for row in order)


def _worst(
    history: History, frames: Frames, row: int, median: float, parts: list[_Part]
) -> WorstFrame:
    latency = float(frames.latency_ms[row])
    over = latency - median
    first = _first(frames, row) if history.row == "frame" else []
    causes = [*_excesses(parts, row, over), *first, *_meanwhile(history, frames, row)]
    return WorstFrame(
        ts=float(frames.ts[row]),
        source=history.sources[int(frames.source[row])],
        epoch=int(frames.epoch[row]),
        frame_id=int(frames.frame_id[row]),
        latency_ms=latency,
        over_ms=over,
        causes=tuple(dict.fromkeys(causes)),
    )


def _parts(frames: Frames) -> list[_Part]:
    """Waiting and the stages; where waiting was not told, what no stage explains."""
    spent = [(stage.name, stage.spent_ms) for stage in frames.stages]
    name = "waiting between threads" if frames.waiting_is_told else "what no stage explains"
    waiting = (name, frames.waiting_ms)
    rows = ((name, values, spread(values)) for name, values in (*spent, waiting))
    return [_Part(name, values, row.p50) for name, values, row in rows if row is not None]


def _excesses(parts: list[_Part], row: int, over: float) -> list[str]:
    """Parts that took longer than their median, the largest excess first."""
    found = [(float(part.spent_ms[row]) - part.median_ms, part) for part in parts]
    told = [item for item in found if item[0] > max(_TOLD_SHARE * over, 0.0)]  # NaN is not
    return [
        f"{part.name}: {float(part.spent_ms[row]):.1f} ms, its median is {part.median_ms:.1f} ms"
        for _, part in sorted(told, key=lambda item: -item[0])
    ]


def _first(frames: Frames, row: int) -> list[str]:
    same = (frames.source == frames.source[row]) & (frames.epoch == frames.epoch[row])
    number = int(np.count_nonzero(same[: row + 1]))
    return [f"frame {number} of its epoch"] if number <= _FIRST_FRAMES else []


def _meanwhile(history: History, frames: Frames, row: int) -> list[str]:
    """What happened between the grab and the publication, or shortly around."""
    end = float(frames.ts[row]) + _NEAR_S
    length = float(frames.latency_ms[row]) / 1e3 + (0 if history.row == "frame" else 1)
    begin = end - 2 * _NEAR_S - length
    found = [
        tell(mark.event)
        for mark in history.marks
        if begin <= mark.ts <= end
        for kind, tell in _COINCIDENT
        if isinstance(mark.event, kind) and getattr(mark.event, "state", None) not in _AS_USUAL
    ]
    for sample in history.throttled:
        if begin <= sample.ts <= end + _SAMPLE_S:
            found.append(f"GPU throttled: {', '.join(sample.reasons)}")
    return found[:5]
