"""Delivering pictures at their time: `Pacer`, `Timeline`, and `PacedSource` built on them."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import Final

from stages.base import Buffer, Picture

_MAX_GAP_NS: Final = 10_000_000_000
_CLOSE_WAIT_S: Final = 0.3  # leaves time to whoever has a second to stop in all


class Pacer:
    """Holds a reader back until the times of an absolute schedule, which starts with the first
    `wait`; being late once never moves the times that follow, so nothing drifts.

    A time that has passed is not waited for: a reader that fell behind gets its pictures at
    once, one by one, as from the queue of a live camera, until it has caught up. With
    ``realtime`` False nothing is ever waited for.
    """

    def __init__(self, *, realtime: bool) -> None:
        self._realtime = realtime
        self._start_ns: int | None = None
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def wait(self, offset_ns: int) -> int | None:
        """Wait for the moment ``offset_ns`` after that of the first call's.

        Returns that moment on the monotonic clock in nanoseconds (the present, where nothing
        is waited for), or None once closed.
        """
        now_ns = time.monotonic_ns()
        if not self._realtime:
            return None if self.closed else now_ns
        if self._start_ns is None:
            self._start_ns = now_ns - offset_ns
        due_ns = self._start_ns + offset_ns
        while not self.closed:
            remaining_ns = due_ns - time.monotonic_ns()
            if remaining_ns <= 0:
                return due_ns
            self._closed.wait(remaining_ns * 1e-9)
        return None

    def close(self) -> None:
        """Wake a `wait`; later ones return None."""
        self._closed.set()


class Timeline:
    """Turns the time stamps of a file into times that never run backwards.

    A stamp that is missing, earlier than the one before, or more than 10 s after it (a splice,
    a broken stamp) counts as one ``nominal_ns`` after the one before.
    """

    def __init__(self, nominal_ns: int) -> None:
        self._nominal_ns = nominal_ns
        self._stamp_ns: int | None = None
        self._offset_ns: int | None = None

    def offset(self, stamp_ns: int | None) -> int:
        """Nanoseconds from the first picture to the one stamped ``stamp_ns``."""
        step_ns = self._nominal_ns
        if stamp_ns is not None and self._stamp_ns is not None:
            stamped = stamp_ns - self._stamp_ns
            step_ns = stamped if 0 <= stamped <= _MAX_GAP_NS else self._nominal_ns
        self._stamp_ns = stamp_ns
        self._offset_ns = 0 if self._offset_ns is None else self._offset_ns + step_ns
        return self._offset_ns

    def rewind(self) -> None:
        """The file starts again: its next stamp follows one nominal step after the last."""
        self._stamp_ns = None


class PacedSource(ABC):
    """A source that delivers at the times of a `Pacer`, and whose decoder is never released
    under a `read` that uses it."""

    def __init__(self, source_id: str, size_hw: tuple[int, int], *, realtime: bool) -> None:
        self.source_id = source_id
        self.size_hw = size_hw
        self._pacer = Pacer(realtime=realtime)
        self._reading = threading.Lock()

    def read(self, buffer: Buffer) -> Picture | None:
        """See `stages.base.Source.read`."""
        with self._reading:
            return None if self._pacer.closed else self._next(buffer)

    def close(self) -> None:
        """See `stages.base.Source.close`."""
        self._pacer.close()
        if self._reading.acquire(timeout=_CLOSE_WAIT_S):
            try:
                self._release()
            finally:
                self._reading.release()

    @abstractmethod
    def _next(self, buffer: Buffer) -> Picture | None:
        """The next picture at its time; None at the end or once closed."""

    def _release(self) -> None:  # noqa: B027 - most sources hold nothing
        """Free what the source holds; may be called more than once."""
