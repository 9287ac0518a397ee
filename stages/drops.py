"""Counting pictures that were read and did not become frames: `Drops`."""

from __future__ import annotations

import threading
from collections import Counter

from kpi import emit
from kpi.events import DropReason, FrameDropped


class Drops:
    """What a source's pictures were dropped for; each is told as a `frame_dropped` event.

    For any thread.
    """

    def __init__(self, source_id: str) -> None:
        self._source_id = source_id
        self._counts: Counter[DropReason] = Counter()
        self._lock = threading.Lock()

    @property
    def counts(self) -> dict[DropReason, int]:
        """Pictures by reason."""
        with self._lock:
            return dict(self._counts)

    def add(self, epoch: int, frame_id: int, reason: DropReason) -> None:
        """One more."""
        with self._lock:
            self._counts[reason] += 1
        emit(FrameDropped(self._source_id, epoch, frame_id, reason))
