"""The slowest frames of a run, and what the log knows about why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kpi.events import FrameKind
from kpi.frame_columns import FRAME_KINDS, Floats, Frames, Ints
from kpi.history import History
from kpi.marks import coincidence
from kpi.stats import spread

_FIRST_FRAMES = 10
"""So many of each source and epoch may be slow because everything is new."""
_NEAR_S = 0.25
_SAMPLE_S = 2.0
"""A sample tells about the seconds before it."""
_TOLD_SHARE = 0.1
"""A part is a cause where it makes at least this share of what the frame took too long."""
_EXPLAINING_SHARE = 0.5
"""A frame's kind explains it where the kind's median is at least this share of the way there."""
_FEWEST_OF_KIND = 10
"""Frames of one kind that have a median worth comparing with."""


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


@dataclass(frozen=True, slots=True, eq=False)
class _Peers:
    """The frames that one is compared with: those of its kind, for a key frame has more to do."""

    kind: FrameKind | None
    """None: all frames."""
    median_ms: float
    """Of their latency."""
    parts: tuple[_Part, ...]


def worst_frames(history: History, count: int = 10) -> tuple[WorstFrame, ...]:
    """The slowest first; fewer where fewer have a known latency. Of a log that has only seconds,
    the seconds with the slowest frames."""
    frames = history.rows("max")
    whole = spread(frames.latency_ms)
    if whole is None:
        return ()
    known = np.flatnonzero(~np.isnan(frames.latency_ms))
    order = known[np.argsort(-frames.latency_ms[known], kind="stable")][:count]
    everyone = _peers(frames, None, np.arange(len(frames)), whole.p50)
    peers = {number: _of_kind(frames, number) or everyone for number in set(frames.kind[order])}
    return tuple(
        _worst(history, frames, int(row), whole.p50, peers[frames.kind[row]]) for row in order
    )


def _worst(history: History, frames: Frames, row: int, median: float, peers: _Peers) -> WorstFrame:
    latency = float(frames.latency_ms[row])
    over = latency - median
    first = _first(frames, row) if history.row == "frame" else []
    causes = [
        *_kind(peers, over, median),
        *_excesses(peers, row, over),
        *first,
        *_meanwhile(history, frames, row),
    ]
    return WorstFrame(
        ts=float(frames.ts[row]),
        source=history.sources[int(frames.source[row])],
        epoch=int(frames.epoch[row]),
        frame_id=int(frames.frame_id[row]),
        latency_ms=latency,
        over_ms=over,
        causes=tuple(dict.fromkeys(causes)),
    )


def _of_kind(frames: Frames, number: int) -> _Peers | None:
    """The frames of one kind; None where it was not told, or where they are too few."""
    rows = np.flatnonzero(frames.kind == number)
    latency = spread(frames.latency_ms[rows])
    if number < 0 or len(rows) < _FEWEST_OF_KIND or latency is None:
        return None
    return _peers(frames, FRAME_KINDS[number], rows, latency.p50)


def _peers(frames: Frames, kind: FrameKind | None, rows: Ints, median_ms: float) -> _Peers:
    """With waiting and the stages; where waiting was not told, what no stage explains."""
    spent = [(stage.name, stage.spent_ms) for stage in frames.stages]
    name = "waiting between threads" if frames.waiting_is_told else "what no stage explains"
    waiting = (name, frames.waiting_ms)
    parts = ((name, values, spread(values[rows])) for name, values in (*spent, waiting))
    known = tuple(_Part(name, values, row.p50) for name, values, row in parts if row is not None)
    return _Peers(kind, median_ms, known)


def _kind(peers: _Peers, over: float, median: float) -> list[str]:
    """The frame's kind, where such frames are that slow anyway."""
    if peers.kind is None or peers.median_ms - median < max(_EXPLAINING_SHARE * over, 1e-9):
        return []
    return [f"{peers.kind} frame: {peers.median_ms:.1f} ms is the median of those"]


def _excesses(peers: _Peers, row: int, over: float) -> list[str]:
    """Parts that took longer than their peers' median, the largest excess first."""
    found = [(float(part.spent_ms[row]) - part.median_ms, part) for part in peers.parts]
    told = [item for item in found if item[0] > max(_TOLD_SHARE * over, 0.0)]  # NaN is not
    among = "" if peers.kind is None else f" among {peers.kind} frames"
    return [
        f"{part.name}: {float(part.spent_ms[row]):.1f} ms, its median{among} is "
        f"{part.median_ms:.1f} ms"
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
    near = (coincidence(mark.event) for mark in history.marks if begin <= mark.ts <= end)
    found = [text for text in near if text is not None]
    for sample in history.throttled:
        if begin <= sample.ts <= end + _SAMPLE_S:
            found.append(f"GPU throttled: {', '.join(sample.reasons)}")
    return found[:5]
