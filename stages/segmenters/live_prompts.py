"""Prompts while a stream runs: checked on the host, applied at the next frame, answered.

Every prompt ends as applied or refused with a reason. What only the device knows (whether an id
lives, whether a slot is free) comes back with the header of the frame, a few frames later.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from stages.segmenters.prompts import BOX_CORNERS, Box, Point, box_in, box_touches, points_in
from stages.window import Window

MAX_POINTS: Final = 64
MAX_WAITING: Final = 256
"""Prompts that may wait for the next frame."""
PER_FRAME: Final = 4
"""Prompts applied on one frame; the others wait for the next one."""

Action = Literal["add", "reinit", "correct", "remove", "reset"]
Refusal = Literal[
    "bad_box", "bad_points", "bad_mask", "bad_request", "outside", "past_epoch", "no_frame_yet",
    "too_many", "unknown_object", "no_slot", "stopped",
]  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What somebody wants of the tracker.

    Coordinates are those of the source's full picture, also where only a region of it is taken in.
    `add` a new object; `reinit` one from this prompt alone, as if it were new; `correct` its mask
    of the next frame; `remove` it; `reset`: remove all. A shape is one of box, points, mask.
    """

    action: Action
    object_id: int | None = None
    """For reinit, correct and remove; a new object's id is the tracker's to give."""
    box: Box | None = None
    """(x1, y1, x2, y2), pixels of the full picture."""
    points: tuple[Point, ...] = ()
    """(x, y), pixels of the full picture."""
    labels: tuple[int, ...] = ()
    """One for each point: 1 on the object, 0 beside it."""
    mask: NDArray[np.bool_] | None = None
    """bool (H, W) at the full picture's size."""
    class_id: int = 0
    """Of a new object."""
    epoch: int | None = None
    """The epoch that the prompt was made for; refused once another one has begun."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a prompt ended."""

    reason: Refusal | None
    """None: it was applied."""
    object_id: int | None = None

    @property
    def applied(self) -> bool:
        return self.reason is None


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A prompt on its way; `outcome.result(timeout)` waits for its end."""

    number: int
    prompt: Prompt
    outcome: Future[Outcome] = field(default_factory=Future)

    def end(self, reason: Refusal | None, object_id: int | None = None) -> None:
        """Tell whoever waits; only the first end counts."""
        if not self.outcome.done():
            self.outcome.set_result(Outcome(reason, object_id))


class PromptQueue:
    """Tickets between whoever prompts (any thread) and the frame loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Ticket] = deque()
        self._applied: dict[int, Ticket] = {}
        self._next = 1
        self._view: tuple[int, Window] | None = None

    def put(self, prompt: Prompt) -> Ticket:
        """Queue a prompt; one that cannot be used ends at once."""
        with self._lock:
            ticket = Ticket(self._next, prompt)
            self._next += 1
            reason = self._flaw(prompt)
            if reason is None:
                self._waiting.append(ticket)
        if reason is not None:
            ticket.end(reason)
        return ticket

    def enter(self, epoch: int, window: Window) -> None:
        """An epoch begins: what was made for an earlier one, or does not fit, is refused."""
        with self._lock:
            self._view = (epoch, window)
            waiting, self._waiting = self._waiting, deque()
            unanswered, self._applied = self._applied, {}
            for ticket in waiting:
                reason = self._flaw(ticket.prompt)
                if reason is None:
                    self._waiting.append(ticket)
                else:
                    ticket.end(reason)
        for ticket in unanswered.values():
            ticket.end("past_epoch")

    def take(self) -> list[Ticket]:
        """Those to apply now: in order, at most one an object, at most `PER_FRAME`.

        Their prompts are in pixels of the window.
        """
        with self._lock:
            taken: list[Ticket] = []
            kept: deque[Ticket] = deque()
            busy: set[int] = set()
            for ticket in self._waiting:
                wanted = ticket.prompt.object_id
                if len(taken) == PER_FRAME or wanted in busy:
                    kept.append(ticket)
                else:
                    taken.append(self._within(ticket))
                    self._applied[ticket.number] = ticket
                if wanted is not None:
                    busy.add(wanted)
            self._waiting = kept
        return taken

    def answer(self, number: int, reason: Refusal | None, object_id: int | None) -> Ticket | None:
        """End a ticket that was taken; None where it is unknown or has ended."""
        with self._lock:
            ticket = self._applied.pop(number, None)
        if ticket is not None:
            ticket.end(reason, object_id)
        return ticket

    def _flaw(self, prompt: Prompt) -> Refusal | None:
        if self._view is None:
            return "no_frame_yet"
        epoch, window = self._view
        if prompt.epoch is not None and prompt.epoch != epoch:
            return "past_epoch"
        if len(self._waiting) >= MAX_WAITING:
            return "too_many"
        return flaw_of(prompt, window)

    def _within(self, ticket: Ticket) -> Ticket:
        """The same ticket for whoever knows the window's pixels only."""
        if self._view is None or self._view[1].is_whole:
            return ticket
        window, asked = self._view[1], ticket.prompt
        moved = replace(
            asked,
            box=None if asked.box is None else box_in(window, asked.box),
            points=points_in(window, asked.points),
            mask=None if asked.mask is None else window.cut(asked.mask),
        )
        return replace(ticket, prompt=moved)


def flaw_of(prompt: Prompt, window: Window) -> Refusal | None:
    """Why a prompt cannot be used where `window` is taken in; None where it can."""
    named = prompt.action in ("reinit", "correct", "remove")
    if named is (prompt.object_id is None):
        return "bad_request"
    shapes = (prompt.box is not None) + bool(prompt.points) + (prompt.mask is not None)
    if shapes != int(prompt.action in ("add", "reinit", "correct")):
        return "bad_request"
    if prompt.box is not None:
        return _box_flaw(prompt.box, window)
    if prompt.mask is not None:
        return _mask_flaw(prompt.mask, window)
    return _points_flaw(prompt, window) if prompt.points or prompt.labels else None


def as_points(prompt: Prompt) -> tuple[tuple[Point, ...], tuple[int, ...]]:
    """Points and labels as SAM takes them; a box is its two corners."""
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        return ((x1, y1), (x2, y2)), BOX_CORNERS
    return prompt.points, prompt.labels


def _box_flaw(box: Box, window: Window) -> Refusal | None:
    if len(box) != 4 or not all(map(math.isfinite, box)):
        return "bad_box"
    if box[0] >= box[2] or box[1] >= box[3]:
        return "bad_box"
    return None if box_touches(box_in(window, box), window.size_hw) else "outside"


def _points_flaw(prompt: Prompt, window: Window) -> Refusal | None:
    points, labels = prompt.points, prompt.labels
    if len(points) > MAX_POINTS or len(points) != len(labels) or not set(labels) <= {0, 1}:
        return "bad_points"
    if not all(len(point) == 2 and all(map(math.isfinite, point)) for point in points):
        return "bad_points"
    height, width = window.size_hw
    inside = all(0 <= x <= width and 0 <= y <= height for x, y in points_in(window, points))
    return None if inside else "outside"


def _mask_flaw(mask: NDArray[Any], window: Window) -> Refusal | None:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != window.full_hw:
        return "bad_mask"
    if not bool(mask.any()):
        return "bad_mask"
    return None if bool(window.cut(mask).any()) else "outside"
