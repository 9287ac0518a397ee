"""Tells once a second what became of the frames that were offered: `RecorderMeter`."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

from kpi.edge_events import RecorderFrames, RecorderLoss
from kpi.emit import emit
from stages.recorder.counts import Counts

_EVERY_S: Final = 1.0


class RecorderMeter:
    """Emits differences, so that a counter can be fed by adding them up."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._told = (0, 0, 0)
        self._dropped: Counter[RecorderLoss] = Counter()
        self._due = 0.0

    def tell_where_due(self, written_bytes: int) -> None:
        """`tell`, unless it told within the last second."""
        if time.monotonic() >= self._due:
            self.tell(written_bytes)

    def tell(self, written_bytes: int) -> None:
        """An event, where there is something new."""
        self._due = time.monotonic() + _EVERY_S
        counts = self._counts
        dropped = Counter(counts.dropped)
        now = counts.offered, counts.written, written_bytes
        offered, written, nbytes = (new - old for new, old in zip(now, self._told, strict=True))
        if not (offered or written or nbytes or dropped != self._dropped):
            return
        lost = {reason: n for reason, n in (dropped - self._dropped).items() if n}
        self._told, self._dropped = now, dropped
        emit(RecorderFrames(offered, written, lost, nbytes))
