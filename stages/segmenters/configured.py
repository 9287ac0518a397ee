"""The prompts that the configuration asks for, anew in each epoch: `Configured`."""

from __future__ import annotations

from collections.abc import Sequence

from kpi.emit import emit
from kpi.events import ObjectRefused
from stages.records import Frame
from stages.segmenters.live_prompts import Prompt, PromptQueue, Ticket
from stages.segmenters.prompts import PromptConfig


class Configured:
    """They wait in the queue like those of people; which is which stays known."""

    def __init__(self, prompts: Sequence[PromptConfig], first_class: int) -> None:
        """Their class ids are ``first_class`` and on, in order."""
        self._prompts = tuple(prompts)
        self._first_class = first_class
        self._places: dict[int, int] = {}

    def ask(self, queue: PromptQueue, frame: Frame) -> None:
        """Queue all of them, for the epoch that begins with ``frame``."""
        self._places = {}
        for place in range(len(self._prompts)):
            ticket = queue.put(self.prompt(place, frame.epoch))
            self._places[ticket.number] = place
            if ticket.outcome.done():
                emit(ObjectRefused(frame.source_id, frame.epoch, frame.frame_id, "bad_prompt"))

    def place_of(self, ticket: Ticket) -> int | None:
        """Which of them a ticket is; None where somebody else asked."""
        return self._places.get(ticket.number)

    def prompt(self, place: int, epoch: int) -> Prompt:
        """One of them, in pixels of the full picture."""
        prompt = self._prompts[place]
        return Prompt(
            "add", box=prompt.box, points=prompt.points or (), labels=prompt.labels or (),
            class_id=self._first_class + place, epoch=epoch,
        )  # fmt: skip
