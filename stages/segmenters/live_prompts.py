"""Prompts while a stream runs: checked on the host, applied at the next frame, answered.

Every prompt ends as applied or refused with a reason. What only the device knows (whether an id
lives, whether a slot is free) comes back with the header of the frame, a few frames later.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from stages.segmenters.prompt_flaws import MAX_POINTS as MAX_POINTS
from stages.segmenters.prompt_flaws import flaw_of as flaw_of
from stages.segmenters.prompt_flaws import plain
from stages.segmenters.prompts import BOX_CORNERS, Box, Point, box_in, points_in
from stages.window import Window

MAX_WAITING: Final = 256
"""Prompts that may wait for the next frame."""
PER_FRAME: Final = 4
"""Prompts applied on one frame; the others wait for the next one."""

Action = Literal["add", "reinit", "correct", "remove", "reset"]
Refusal = Literal[
    "bad_box", "bad_points", "bad_mask", "bad_request", "outside", "past_epoch", "no_frame_yet",
    "too_many", "unknown_object", "no_slot", "stopped", "failed",
]  # fmt: skip
"""`stopped`: the segmenter was closed; `failed`: an error of ours, too little memory say."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What somebody wants of the tracker.

    Coordinates are those of the source's full picture, also where only a region of it is taken in.
    `add` a new object; `reinit` one from this prompt alone, as if it were new; `correct` its mask
    of the next frame; `remove` it; `reset`: remove all. A shape is one of box, points, mask.

    Never two on one object and frame: a `correct` asked for together with a `reinit` is applied on
    the frame after it. sam2's own predictor would take it on the same frame, show it there, and
    forget it: what follows depends on the frame as it was begun.
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
    """A prompt on its way; `outcome.result(timeout)` waits for its end, which always comes.

    It cannot be cancelled. Callbacks on `outcome` run in the thread that ends it, often the frame
    loop's: they may prompt, and must not take long.
    """

    number: int
    prompt: Prompt
    outcome: Future[Outcome] = field(default_factory=Future)

    def end(self, reason: Refusal | None, object_id: int | None = None) -> None:
        """Tell whoever waits; only the first end counts."""
        if not self.outcome.done():
            self.outcome.set_result(Outcome(reason, object_id))


class PromptQueue:
    """Tickets between whoever prompts (any thread) and the frame loop.

    Tickets end outside the lock, so that who hears of an end may prompt again.
    """

    def __init__(self, places: int | None = None) -> None:
        """`places`: so many answers can be under way, each at `number % places`; None: any."""
        self._lock = threading.Lock()
        self._places = places
        self._waiting: deque[Ticket] = deque()
        self._applied: dict[int, Ticket] = {}
        self._next = 1
        self._view: tuple[int, Window] | None = None
        self._closed = False

    def put(self, prompt: Prompt) -> Ticket:
        """Queue a prompt; one that cannot be used ends at once."""
        with self._lock:
            reason = self._flaw(prompt)
            ticket = Ticket(self._next, prompt if reason is not None else plain(prompt))
            ticket.outcome.set_running_or_notify_cancel()
            self._next += 1
            if reason is None:
                self._waiting.append(ticket)
        if reason is not None:
            ticket.end(reason)
        return ticket

    def enter(self, epoch: int, window: Window) -> list[Ticket]:
        """An epoch begins: what was made for an earlier one, or does not fit, is refused.

        Returns the tickets that this ended; those taken in an epoch below 0, which is no stream's,
        are left out.
        """
        with self._lock:
            before, self._view = self._view, (epoch, window)
            waiting, self._waiting = self._waiting, deque()
            unanswered, self._applied = self._applied, {}
            ended: list[tuple[Ticket, Refusal]] = []
            for ticket in waiting:
                reason = self._flaw(ticket.prompt)
                if reason is None:
                    self._waiting.append(ticket)
                else:
                    ended.append((ticket, reason))
        for ticket, reason in ended:
            ticket.end(reason)
        for ticket in unanswered.values():
            ticket.end("past_epoch")
        tried = before is not None and before[0] < 0
        return [ticket for ticket, _ in ended] + ([] if tried else list(unanswered.values()))

    def take(self) -> list[Ticket]:
        """Those to apply now: in order, at most one an object, at most `PER_FRAME`.

        Their prompts are in pixels of the window. Each is to be answered, or given back.
        """
        with self._lock:
            taken: list[Ticket] = []
            kept: deque[Ticket] = deque()
            busy: set[int] = set()
            full = False
            for ticket in self._waiting:
                wanted = ticket.prompt.object_id
                full = full or len(taken) == PER_FRAME or not self._has_place(ticket)
                if full or wanted in busy:
                    kept.append(ticket)
                else:
                    taken.append(self._within(ticket))
                    self._applied[ticket.number] = ticket
                if wanted is not None:
                    busy.add(wanted)
            self._waiting = kept
        return taken

    def give_back(self, tickets: Iterable[Ticket]) -> None:
        """Tickets that were taken and not applied wait on, before all others."""
        with self._lock:
            numbers = [ticket.number for ticket in tickets]
            again = [self._applied.pop(number) for number in numbers if number in self._applied]
            self._waiting.extendleft(reversed(again))

    def answer(self, number: int, reason: Refusal | None, object_id: int | None) -> Ticket | None:
        """End a ticket that was taken; None where it is unknown or has ended."""
        with self._lock:
            ticket = self._applied.pop(number, None)
        if ticket is not None:
            ticket.end(reason, object_id)
        return ticket

    def close(self) -> list[Ticket]:
        """Nothing is applied any more: end all tickets, those to come too, as `stopped`.

        Returns those that this ended.
        """
        with self._lock:
            self._closed = True
            ended = [*self._applied.values(), *self._waiting]
            self._applied.clear()
            self._waiting.clear()
        for ticket in ended:
            ticket.end("stopped")
        return ended

    def _has_place(self, ticket: Ticket) -> bool:
        if self._places is None:
            return True
        return all((number - ticket.number) % self._places for number in self._applied)

    def _flaw(self, prompt: Prompt) -> Refusal | None:
        if self._closed:
            return "stopped"
        if self._view is None:
            return "no_frame_yet"
        epoch, window = self._view
        if isinstance(prompt.epoch, (int, np.integer)) and prompt.epoch != epoch:
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


def as_points(prompt: Prompt) -> tuple[tuple[Point, ...], tuple[int, ...]]:
    """Points and labels as SAM takes them; a box is its two corners."""
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        return ((x1, y1), (x2, y2)), BOX_CORNERS
    return prompt.points, prompt.labels
