"""Prompts while a stream runs: checked on the host, applied at the next frame, answered.

Every prompt ends as applied or refused with a reason. What only the device knows (whether an id
lives, whether a slot is free) comes back with the header of the frame, a few frames later.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np

from stages.prompting import Action as Action
from stages.prompting import Outcome as Outcome
from stages.prompting import Point
from stages.prompting import Prompt as Prompt
from stages.prompting import Refusal as Refusal
from stages.prompting import Ticket as Ticket
from stages.segmenters.prompt_flaws import MAX_POINTS as MAX_POINTS
from stages.segmenters.prompt_flaws import flaw_of as flaw_of
from stages.segmenters.prompt_flaws import plain
from stages.segmenters.prompts import BOX_CORNERS, box_in, points_in
from stages.window import Window

MAX_WAITING: Final = 256
"""Prompts that may wait for the next frame."""
PER_FRAME: Final = 4
"""Prompts applied on one frame; the others wait for the next one."""
MAX_AHEAD: Final = 1000
"""Frames after the newest one that a prompt may be for."""


class PromptQueue:
    """Tickets between whoever prompts (any thread) and the frame loop.

    Tickets end outside the lock, so that who hears of an end may prompt again.
    """

    def __init__(self, places: int | None = None, *, takes_text: bool = False) -> None:
        """`places`: so many answers can be under way, each at `number % places`; None: any.
        `takes_text`: whether prompts in words are taken."""
        self._takes_text = takes_text
        self._lock = threading.Lock()
        self._places = places
        self._waiting: deque[Ticket] = deque()
        self._applied: dict[int, tuple[Ticket, int]] = {}
        self._next = 1
        self._view: tuple[int, Window] | None = None
        self._newest = -1
        self._closed = False

    def put(self, prompt: Prompt) -> Ticket:
        """Queue a prompt; one that cannot be used ends at once."""
        with self._lock:
            reason = self._flaw(prompt) or self._late_or_early(prompt.frame_id)
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
            if before is None or before[0] < 0:  # frames seen so far were none of a stream
                self._newest = -1
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
        applied = [ticket for ticket, _ in unanswered.values()]
        for ticket in applied:
            ticket.end("past_epoch")
        tried = before is not None and before[0] < 0
        return [ticket for ticket, _ in ended] + ([] if tried else applied)

    def take(self, frame_id: int) -> list[Ticket]:
        """Those to apply on this frame: in order, at most one an object, at most `PER_FRAME`.

        Their prompts are in pixels of the window. Each is to be answered, or given back.
        """
        with self._lock:
            taken: list[Ticket] = []
            kept: deque[Ticket] = deque()
            busy: set[int] = set()
            full = False
            self._newest = frame_id
            for ticket in self._waiting:
                wanted, at = ticket.prompt.object_id, ticket.prompt.frame_id
                if at is not None and at > frame_id:
                    kept.append(ticket)
                    continue
                full = full or len(taken) == PER_FRAME or not self._has_place(ticket)
                if full or wanted in busy:
                    kept.append(ticket)
                else:
                    taken.append(self._within(ticket))
                    self._applied[ticket.number] = ticket, frame_id
                if wanted is not None:
                    busy.add(wanted)
            self._waiting = kept
        return taken

    def give_back(self, tickets: Iterable[Ticket]) -> None:
        """Tickets that were taken and not applied wait on, before all others."""
        with self._lock:
            numbers = [ticket.number for ticket in tickets]
            again = [self._applied.pop(number)[0] for number in numbers if number in self._applied]
            self._waiting.extendleft(reversed(again))

    def answer(self, number: int, reason: Refusal | None, object_id: int | None) -> Ticket | None:
        """End a ticket that was taken; None where it is unknown or has ended."""
        with self._lock:
            ticket, frame_id = self._applied.pop(number, (None, -1))
        if ticket is not None:
            ticket.end(reason, object_id, frame_id)
        return ticket

    def expire(self) -> list[Ticket]:
        """End those whose time is over; returns them."""
        with self._lock:
            if not self._waiting:
                return []
            now_ns, waiting = time.monotonic_ns(), self._waiting
            late = [t for t in waiting if t.prompt.until_ns is not None]
            late = [t for t in late if (t.prompt.until_ns or 0) < now_ns]
            numbers = {ticket.number for ticket in late}
            self._waiting = deque(t for t in waiting if t.number not in numbers)
        for ticket in late:
            ticket.end("expired")
        return late

    def close(self) -> list[Ticket]:
        """Nothing is applied any more: end all tickets, those to come too, as `stopped`.

        Returns those that this ended.
        """
        with self._lock:
            self._closed = True
            ended = [*(ticket for ticket, _ in self._applied.values()), *self._waiting]
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
        if isinstance(prompt.text, str) and not self._takes_text:
            return "no_text"
        return flaw_of(prompt, window)

    def _late_or_early(self, frame_id: int | None) -> Refusal | None:
        if frame_id is None:
            return None
        if frame_id <= self._newest:
            return "past_frame"
        return "far_frame" if frame_id > self._newest + MAX_AHEAD else None

    def _within(self, ticket: Ticket) -> Ticket:
        """The same ticket for whoever knows the window's pixels only."""
        if self._view is None or self._view[1].is_whole:
            return ticket
        return replace(ticket, prompt=within(self._view[1], ticket.prompt))


def within(window: Window, asked: Prompt) -> Prompt:
    """A prompt, given in pixels of the full picture, in those of ``window``."""
    return replace(
        asked,
        box=None if asked.box is None else box_in(window, asked.box),
        points=points_in(window, asked.points),
        mask=None if asked.mask is None else window.cut(asked.mask),
    )


def as_points(prompt: Prompt) -> tuple[tuple[Point, ...], tuple[int, ...]]:
    """Points and labels as SAM takes them; a box is its two corners."""
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        return ((x1, y1), (x2, y2)), BOX_CORNERS
    return prompt.points, prompt.labels
