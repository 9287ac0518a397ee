"""What waits to be written, bounded by its bytes: `Ring`."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Ring(Generic[T]):
    """A queue from one thread to another that holds at most so many bytes, what is being worked on
    included; an item that is larger than all of it is let in where nothing else is there."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._items: deque[tuple[T, int]] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._held = 0
        self._closed = False
        self._released = False

    @property
    def held_bytes(self) -> int:
        """Of what waits or is being worked on."""
        return self._held

    def put(self, item: T, nbytes: int, wait_s: float = 0.0) -> bool:
        """False where there is no room, or will be none within `wait_s`; or it was closed."""
        with self._changed:
            if not self._has_room(nbytes) and wait_s > 0:
                self._changed.wait_for(
                    lambda: self._has_room(nbytes) or self._released or self._closed, wait_s
                )
            if self._closed or not self._has_room(nbytes):
                return False
            self._items.append((item, nbytes))
            self._held += nbytes
            self._changed.notify_all()
            return True

    def take(self, timeout_s: float) -> tuple[T, int] | None:
        """The oldest item and its bytes, to be given to `done`; None where none came in time."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._items and not self._closed:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return None
                self._changed.wait(left_s)
            return self._items.popleft() if self._items else None

    def done(self, nbytes: int) -> None:
        """What was taken is worked off."""
        with self._changed:
            self._held -= nbytes
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Whether it was closed and nothing waits."""
        with self._changed:
            return self._closed and not self._items

    @property
    def closed(self) -> bool:
        return self._closed

    def release(self) -> None:
        """Who waits for room waits no longer, nor will anybody."""
        with self._changed:
            self._released = True
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more is let in; what waits may be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> list[T]:
        """Take all that waits."""
        with self._changed:
            left = list(self._items)
            self._items.clear()
            self._held -= sum(nbytes for _, nbytes in left)
            return [item for item, _ in left]

    def _has_room(self, nbytes: int) -> bool:
        return self._held == 0 or self._held + nbytes <= self._most
