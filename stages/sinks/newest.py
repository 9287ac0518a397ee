"""Handing the newest of something from one thread to another: `Newest`."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Newest(Generic[T]):
    """Holds one value; a newer one takes its place, counted in `replaced`.

    `put` makes no system call that would hand the interpreter to the thread that it wakes: who
    puts goes on at once, whatever the other does with the value.
    """

    def __init__(self) -> None:
        self.replaced = 0
        self._value: T | None = None
        self._closed = False
        self._changed = threading.Condition(threading.Lock())

    def put(self, value: T) -> None:
        with self._changed:
            self.replaced += self._value is not None
            self._value = value
            self._changed.notify()

    def take(self, *, wait: bool) -> T | None:
        """The value, once; None where there is none, after `close` at last, if ``wait``."""
        with self._changed:
            while wait and self._value is None and not self._closed:
                self._changed.wait()
            value, self._value = self._value, None
            return value

    def close(self) -> None:
        """Nothing more will be put; what was may still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
