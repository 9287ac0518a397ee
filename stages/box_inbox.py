"""Boxes that come in while a run goes on, on their way to a frame: `BoxInbox`."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Literal

from stages.found_boxes import Flaw, FoundBoxes, flaws_of
from stages.window import Window

MAX_WAITING: Final = 128
MAX_AHEAD: Final = 1000
BoxesRefusal = (
    Flaw | Literal["past_epoch", "past_frame", "far_frame", "no_frame_yet", "too_many", "paused"]
)


@dataclass(frozen=True, slots=True)
class BoxesEnd:
    """How a set of boxes ended."""

    reason: BoxesRefusal | None
    """None: it was used."""
    frame_id: int | None = None
    """The frame that it was used on."""


@dataclass(frozen=True, slots=True, eq=False)
class BoxesAsked:
    """What somebody found."""

    boxes: FoundBoxes
    epoch: int | None = None
    """The epoch of the picture that was looked at; refused once another one has begun."""
    frame_id: int | None = None
    """The first frame to use them on; None: the next."""
    ended: Future[BoxesEnd] = field(default_factory=Future)
    """May be cancelled until they are taken."""


class BoxInbox:
    """Any thread may `ask`; one thread takes, frame by frame."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._lock = threading.Lock()
        self._waiting: list[BoxesAsked] = []
        self._newest: tuple[int, int] | None = None

    def ask(self, asked: BoxesAsked) -> Future[BoxesEnd]:
        """Have them used; refused at once where that is known to be impossible."""
        with self._lock:
            self._waiting = [a for a in self._waiting if not a.ended.cancelled()]
            reason = self._too_late_or_early(asked)
            if reason is None and len(self._waiting) >= MAX_WAITING:
                reason = "too_many"
            if reason is None:
                self._waiting.append(asked)
        if reason is not None:
            asked.ended.set_result(BoxesEnd(reason))
        return asked.ended

    def take(self, epoch: int, frame_id: int, window: Window, *, on: bool) -> list[FoundBoxes]:
        """Those for this frame, each set whole or, with a box that cannot be used, not at all.

        ``on``: whether the detector looks; otherwise they are refused as `paused`.
        """
        with self._lock:
            self._newest = epoch, frame_id
            later = [a for a in self._waiting if self._is_later(a, epoch, frame_id)]
            due = [a for a in self._waiting if not self._is_later(a, epoch, frame_id)]
            self._waiting = later
        used = []
        for asked in due:
            if not asked.ended.set_running_or_notify_cancel():
                continue
            reason = self._flaw(asked, epoch, window) if on else "paused"
            if reason is None:
                used.append(asked.boxes)
            asked.ended.set_result(BoxesEnd(reason, frame_id if reason is None else None))
        return used

    def _too_late_or_early(self, asked: BoxesAsked) -> BoxesRefusal | None:
        if self._newest is None:
            return "no_frame_yet"
        epoch, newest = self._newest
        if asked.epoch is not None and asked.epoch != epoch:
            return "past_epoch"
        if asked.frame_id is None:
            return None
        if asked.frame_id <= newest:
            return "past_frame"
        return "far_frame" if asked.frame_id > newest + MAX_AHEAD else None

    def _flaw(self, asked: BoxesAsked, epoch: int, window: Window) -> BoxesRefusal | None:
        if asked.epoch is not None and asked.epoch != epoch:
            return "past_epoch"
        return next((f for f in flaws_of(asked.boxes, window, self._classes) if f), None)

    @staticmethod
    def _is_later(asked: BoxesAsked, epoch: int, frame_id: int) -> bool:
        another = asked.epoch is not None and asked.epoch != epoch
        return asked.frame_id is not None and asked.frame_id > frame_id and not another
