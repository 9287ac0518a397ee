"""Which frames of a stream are looked at closely."""

from __future__ import annotations

from collections.abc import Hashable
from concurrent.futures import Future

from stages.requests import Requests


class KeyFrames:
    """The first frame of a view, then every so many."""

    def __init__(self, every: int) -> None:
        self._every, self._rest = every, 0
        self._view: Hashable = None

    def has_next(self, view: Hashable) -> bool:
        """Whether the next frame is one; `view` changes where a stream begins anew."""
        if view != self._view:
            self._view, self._rest = view, 0
        key = self._rest == 0
        self._rest = (self._rest + 1) % self._every
        return key

    def restart(self) -> None:
        """The next frame is one."""
        self._rest = 0


class Switch:
    """On or off, from the next frame on. Any thread may `set` it, one asks."""

    def __init__(self) -> None:
        self.on = True
        self._asked: Requests[bool, int] = Requests()

    def set(self, on: bool) -> Future[int]:
        """The result is the id of the first frame that it holds for."""
        return self._asked.put(on)

    def is_on(self, frame_id: int) -> bool:
        """Whether it is on for this frame. Who hears that it is, or is not, comes too late to
        change that: what is set from then on is for the next frame."""
        for on, told in self._asked.take():
            self.on = on
            told.set_result(frame_id)
        return self.on
