"""Where what one thread made waits for another: `Mailbox`."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, Literal, TypeVar

MailboxPolicy = Literal["latest", "every"]
"""`latest`: a new item replaces the one that waits, the producer never waits. `every`: nothing
is lost here, the producer waits while the mailbox is full."""

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A queue between one producer and one consumer that either may close.

    Under `latest` one item waits; under `every` up to ``depth``. Raises ValueError for another
    policy or a depth that does not fit it.
    """

    def __init__(self, policy: MailboxPolicy, depth: int = 1) -> None:
        if policy not in ("latest", "every"):
            raise ValueError(f"policy is {policy!r}, expected 'latest' or 'every'")
        if depth < 1 or (policy == "latest" and depth != 1):
            raise ValueError(f"depth is {depth}, expected 1 for 'latest', at least 1 for 'every'")
        self._latest = policy == "latest"
        self._depth = depth
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None

    @property
    def ended(self) -> bool:
        """Whether it was closed without an error and nothing waits: no item will ever follow.
        After an error `get` raises instead."""
        with self._changed:
            return self._closed and self._error is None and not self._items

    def put(self, item: T) -> T | None:
        """Leave ``item``, waiting for room under `every`.

        Returns the item that nobody will get because of it: the one replaced, or ``item``
        itself once the mailbox is closed.
        """
        with self._changed:
            if not self._latest:
                self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            if self._closed:
                return item
            lost = self._items.popleft() if self._latest and self._items else None
            self._items.append(item)
            self._changed.notify_all()
            return lost

    def get(self, timeout_s: float) -> T | None:
        """The oldest item, waiting at most ``timeout_s``; None where none came, see `ended`.

        Raises the error that the mailbox was closed with: under `every` once the items before
        it were taken, under `latest` at once.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._closed and not self._items:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return None
                self._changed.wait(remaining)
            if self._error is not None and (self._latest or not self._items):
                raise self._error
            return self._pop()

    def discard(self) -> T | None:
        """Take the oldest item without waiting, for the producer; None where none waits."""
        with self._changed:
            return self._pop()

    def close(self, error: BaseException | None = None) -> None:
        """End it from either side; both wake. The first call counts."""
        with self._changed:
            if not self._closed:
                self._closed, self._error = True, error
            self._changed.notify_all()

    def _pop(self) -> T | None:
        item = self._items.popleft() if self._items else None
        self._changed.notify_all()
        return item
