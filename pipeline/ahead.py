"""A thread boundary between two stages: the one before works on the next item meanwhile."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextvars import copy_context
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.1


class Ahead(Generic[T]):
    """Runs `items` in a thread of its own, one item ahead of whoever iterates over this.

    An error of `items` is raised at the consumer after the items before it. Leaving the block
    stops the thread as soon as `items` yields or ends; `left_over` then holds what was made and
    never taken.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._queue: queue.Queue[T] = queue.Queue(maxsize=1)
        self._closing = threading.Event()
        self._done = threading.Event()
        self._error: BaseException | None = None
        self.left_over: list[T] = []
        context = copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="ahead", daemon=True
        )

    def __enter__(self) -> Ahead[T]:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._thread.join()
        while not self._queue.empty():
            self.left_over.append(self._queue.get())

    def __iter__(self) -> Iterator[T]:
        while not (self._done.is_set() and self._queue.empty()):
            try:
                yield self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                continue
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._hand_over(item):
                    self.left_over.append(item)
                    return
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def _hand_over(self, item: T) -> bool:
        while not self._closing.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False
