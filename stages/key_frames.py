"""Which frames of a stream are looked at closely."""

from __future__ import annotations

from collections.abc import Hashable


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
