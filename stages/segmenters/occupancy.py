"""What the host knows of the slots without asking: late counts, and what it allowed since."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

_UNHEARD_FRAMES: Final = 30
"""Without a header for so long (nobody reads them, say) the host supposes nothing."""


@dataclass(frozen=True, slots=True)
class Permit:
    """Numbers of detections."""

    births: int
    """That begin an object."""
    looks: int
    """That refresh one."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a result tells the host, a few frames late."""

    epoch: int
    frame_id: int
    ids: frozenset[int]
    """Of the objects that live."""
    waiting: Permit
    """Detections that wait."""
    held: int
    """Most conditioning frames that a slot holds."""


@dataclass(frozen=True, slots=True)
class _Allowed:
    frame_id: int
    births: int
    again: int
    """By how much the conditioning frames of any one slot may have grown."""


class Occupancy:
    """Bounds that never fall short, and how many objects may begin.

    Objects begin, and are conditioned again, only by the host's permission; so the late counts
    plus what was allowed since are never too low. `heed` may be called from another thread.
    """

    def __init__(self, slots: int, births: int, unheard: int) -> None:
        """`births`: most of either kind that a key frame permits; `unheard`: births permitted
        though no header told of anybody who waits."""
        self._slots, self._births = slots, births
        self._unheard = min(unheard, births)
        self._header: Header | None = None
        self._allowed: deque[_Allowed] = deque()
        self._epoch = 0
        self._last = -1

    def enter(self, epoch: int) -> None:
        """An epoch begins with empty slots."""
        self._epoch, self._header, self._last = epoch, None, -1
        self._allowed.clear()

    def heed(self, header: Header) -> None:
        """Take note of a header."""
        self._header = header

    def live(self) -> int:
        """At least the number of slots that live now."""
        header = self._current()
        late = 0 if header is None else len(header.ids)
        return min(self._slots, late + sum(each.births for each in self._since(header)))

    def held(self) -> int:
        """At least the number of conditioning frames that any slot holds."""
        header = self._current()
        late, since = 0 if header is None else header.held, self._since(header)
        new = int(any(each.births for each in since))
        return max(late, new) + sum(each.again for each in since)

    def may_live(self, object_id: int) -> bool:
        """False where no object of that id can be in a slot."""
        header = self._current()
        if header is None or object_id in header.ids:
            return True
        return any(each.births for each in self._since(header))

    def permit(self, frame_id: int) -> Permit:
        """Which detections may have their way on this key frame.

        One that waits for a birth is permitted once, and until the next header, which tells what
        became of them, so are those nobody told of. Objects to look at are as many as last heard.
        """
        header = self._current()
        if header is None or frame_id - header.frame_id > _UNHEARD_FRAMES:
            permit = Permit(self._births, self._births)
            self._last = frame_id
        else:
            heard = header.frame_id > self._last
            births = header.waiting.births if heard else 0
            granted = any(each.births for each in self._since(header))
            permit = Permit(
                min(self._births, max(births, 0 if granted else self._unheard)),
                min(self._births, header.waiting.looks),
            )
            if births:
                self._last = frame_id
        if permit.births or permit.looks:
            self.allow(frame_id, permit.births, permit.looks > 0)
        return permit

    def allow(self, frame_id: int, births: int, again: bool) -> None:
        """On this frame so many objects may begin, and others be conditioned once more."""
        self._allowed.append(_Allowed(frame_id, births, int(again)))
        if len(self._allowed) > 4 * _UNHEARD_FRAMES:  # no header comes: keep the sums, not the list
            births = sum(each.births for each in self._allowed)
            grown = sum(each.again for each in self._allowed)
            self._allowed = deque([_Allowed(frame_id, births, grown)])

    def _since(self, header: Header | None) -> deque[_Allowed]:
        """What was allowed after the header's frame; the rest is forgotten."""
        known = -1 if header is None else header.frame_id
        while self._allowed and self._allowed[0].frame_id <= known:
            self._allowed.popleft()
        return self._allowed

    def _current(self) -> Header | None:
        header = self._header
        return header if header is not None and header.epoch == self._epoch else None
