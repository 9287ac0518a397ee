"""What was offered to the recorder and what became of it: `Counts`."""

from __future__ import annotations

import threading
from collections import Counter

from kpi.edge_events import RecorderLoss


class Counts:
    """Frames: `offered` = written + dropped + those on their way, always; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offered = self._written = 0
        self._dropped: Counter[RecorderLoss] = Counter()
        self._settled = False

    def offer(self) -> int:
        """Count one; its number, from 0."""
        with self._lock:
            self._offered += 1
            return self._offered - 1

    def wrote(self) -> None:
        with self._lock:
            self._written += not self._settled

    def drop(self, reason: RecorderLoss) -> None:
        with self._lock:
            self._dropped[reason] += not self._settled

    def settle(self) -> None:
        """Nothing more will be written: what is on its way is dropped, `stopped`."""
        with self._lock:
            left = self._offered - self._written - self._dropped.total()
            self._dropped["stopped"] += left
            self._settled = True

    @property
    def offered(self) -> int:
        return self._offered

    @property
    def written(self) -> int:
        return self._written

    @property
    def dropped(self) -> dict[RecorderLoss, int]:
        """By reason; reasons that did not occur are left out."""
        with self._lock:
            return {reason: n for reason, n in self._dropped.items() if n}

    @property
    def lost(self) -> int:
        return sum(self.dropped.values())
