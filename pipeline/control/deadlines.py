"""Until when a command may wait for a frame: `Deadlines`."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Deadlines:
    """Takes back what waited too long: who gave up is not to see it done later. One thread's."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._watched: deque[tuple[float, Future[object]]] = deque()

    @property
    def until_ns(self) -> int:
        """Of what is asked now, on the monotonic clock."""
        return time.monotonic_ns() + round(self._patience_s * 1e9)

    def watch(self, asked: Future[T]) -> Future[T]:
        """Cancel it when its time is over, unless somebody has begun with it."""
        self._watched.append((time.monotonic() + self._patience_s, asked))  # type: ignore[arg-type]
        return asked

    def expire(self) -> None:
        """To be called again and again."""
        while self._watched and self._watched[0][0] <= time.monotonic():
            self._watched.popleft()[1].cancel()
