"""What any thread asks for and one thread grants: `Requests`."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import Generic, TypeVar

W = TypeVar("W")
T = TypeVar("T")


class Requests(Generic[W, T]):
    """Requests in the order they came, each with a future for its result.

    Who asked may cancel the future until the request is taken: it is then never granted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[W, Future[T]]] = deque()

    def __len__(self) -> int:
        """How many wait."""
        with self._lock:
            return sum(not told.cancelled() for _, told in self._waiting)

    def put(self, wanted: W) -> Future[T]:
        """From any thread."""
        told: Future[T] = Future()
        with self._lock:
            self._waiting = deque(each for each in self._waiting if not each[1].cancelled())
            self._waiting.append((wanted, told))
        return told

    def take(self, most: int | None = None) -> list[tuple[W, Future[T]]]:
        """Those that wait now and were not cancelled, at most so many; each is to be given its
        result."""
        taken: list[tuple[W, Future[T]]] = []
        with self._lock:
            while self._waiting and (most is None or len(taken) < most):
                wanted, told = self._waiting.popleft()
                if told.set_running_or_notify_cancel():
                    taken.append((wanted, told))
        return taken
