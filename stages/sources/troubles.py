"""Telling what goes wrong with a source again and again, without a flood: `Troubles`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from kpi import emit
from kpi.events import ErrorRaised

_AGAIN_S: Final = 10.0


class Troubles:
    """Counts each kind of trouble, and tells it as an `error` event: at once, then at most every
    ten seconds with how often it came. Used by one thread."""

    def __init__(self, source_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter()
        """By kind, since the start."""
        self._source_id = source_id
        self._clock = clock
        self._told_at: dict[str, float] = {}

    def add(self, kind: str, message: str, times: int = 1) -> None:
        """``kind`` came ``times`` times more; ``message`` says what it was, for a person."""
        self.counts[kind] += times
        now = self._clock()
        if now - self._told_at.get(kind, now - _AGAIN_S) >= _AGAIN_S:
            self._told_at[kind] = now
            emit(ErrorRaised(self._source_id, f"{message} ({kind}: {self.counts[kind]})"))
