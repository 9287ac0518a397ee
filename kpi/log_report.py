"""How a run's log fared, for the run's summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kpi.lane import Lane


@dataclass(frozen=True, slots=True)
class LogReport:
    """Counts by the name of a sink's class."""

    dropped: int
    """Events that were never queued."""
    lost: dict[str, int]
    """Events that a sink did not take."""
    outages: dict[str, int]
    """Times a sink began to fail or to hang (a recorder: it paused)."""
    recoveries: dict[str, int]
    """Times it worked again."""
    abandoned: tuple[str, ...]
    """Sinks that hung at the end and were left so."""

    @classmethod
    def of(cls, lanes: Sequence[Lane], dropped: int) -> LogReport:
        return cls(
            dropped=dropped,
            lost=by_sink(lanes, lambda lane: lane.lost),
            outages=by_sink(lanes, lambda lane: lane.outages),
            recoveries=by_sink(lanes, lambda lane: lane.recoveries),
            abandoned=tuple(lane.name for lane in lanes if lane.abandoned),
        )


def by_sink(lanes: Sequence[Lane], count: Callable[[Lane], int]) -> dict[str, int]:
    """The sum over the sinks of each name, in their order."""
    counts: Counter[str] = Counter()
    for lane in lanes:
        counts[lane.name] += count(lane)
    return dict(counts)
