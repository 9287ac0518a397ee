"""Which segments of a recording may be deleted, oldest first."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keep:
    """What of a recording is kept while it grows; None: all. Whole segments are deleted."""

    nbytes: int | None = None
    """Of finished segments together with the open one."""
    seconds: float | None = None
    """Since a segment ended."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A segment that is no longer written to."""

    number: int
    nbytes: int
    ended_s: float
    """Monotonic clock: a clock that is set must delete nothing."""


@dataclass(frozen=True, slots=True)
class LogStart:
    """Where a log begins, or goes on."""

    seq: int = 0
    number: int = 0
    """Of the first segment."""
    finished: tuple[Finished, ...] = ()
    """Segments that are there already, oldest first."""


class Segments:
    """The finished segments of one recording, oldest first."""

    def __init__(self, finished: Sequence[Finished] = ()) -> None:
        self._finished = deque(finished)

    @property
    def nbytes(self) -> int:
        return sum(segment.nbytes for segment in self._finished)

    def add(self, segment: Finished) -> None:
        self._finished.append(segment)

    def due(self, keep: Keep, open_bytes: int, now_s: float) -> tuple[Finished, ...]:
        """Those that need not be kept."""
        found: list[Finished] = []
        total = self.nbytes + open_bytes
        for segment in self._finished:
            too_many = keep.nbytes is not None and total > keep.nbytes
            too_old = keep.seconds is not None and now_s - segment.ended_s > keep.seconds
            if not (too_many or too_old):
                break
            total -= segment.nbytes
            found.append(segment)
        return tuple(found)

    def removed(self, segment: Finished) -> None:
        self._finished.remove(segment)
