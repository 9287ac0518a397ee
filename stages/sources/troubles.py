"""Telling what goes wrong with a source again and again, without a flood: `Troubles`."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from kpi import emit
from kpi.events import ErrorRaised

_AGAIN_S: Final = 10.0


class Troubles:
    """Counts each kind of trouble, and tells it as an `error` event: at once, then at most every
    ten seconds with how often it came. For any thread."""

    def __init__(self, source_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._source_id = source_id
        self._clock = clock
        self._told_at: dict[str, float] = {}

    @property
    def counts(self) -> Counter[str]:
        """By kind, since the start."""
        with self._lock:
            return Counter(self._counts)

    def count(self, kind: str, times: int = 1) -> None:
        """``kind`` came ``times`` times more, and goes without saying."""
        with self._lock:
            self._counts[kind] += times

    def add(self, kind: str, message: str, times: int = 1) -> None:
        """``kind`` came ``times`` times more; ``message`` says what it was, for a person."""
        now = self._clock()
        with self._lock:
            self._counts[kind] += times
            count = self._counts[kind]
            due = now - self._told_at.get(kind, now - _AGAIN_S) >= _AGAIN_S
            if due:
                self._told_at[kind] = now
        if due:
            emit(ErrorRaised(self._source_id, f"{message} ({kind}: {count})"))
