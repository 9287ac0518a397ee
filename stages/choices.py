"""What the host chooses for each frame, by headers and prompts as they have come: `Choices`.

Nothing else of a followed stream depends on time: whoever writes the choices down can have the
same frames followed again, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.key_frames import KeyFrames
from stages.prompting import Prompt
from stages.segmenters.occupancy import Occupancy, Permit

if TYPE_CHECKING:  # who reads choices needs no torch
    from stages.records import Frame


@dataclass(frozen=True, slots=True, eq=False)
class Applied:
    """A prompt as a frame saw it."""

    prompt: Prompt
    """In pixels of the window."""
    configured: int | None = None
    """Which of the configured prompts it is; None: somebody asked for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What was chosen for one frame."""

    followed: bool
    """Whether it was looked at."""
    live: int = 0
    """Rows that were followed: at least as many as there are objects."""
    held: int = 0
    """Conditioning frames that were read: at least as many as one object holds."""
    permit: Permit | None = None
    """None: it was no key frame."""
    applied: tuple[Applied, ...] = ()
    """In order."""


Script = Callable[["Frame"], Choice | None]
"""What is to be chosen for a frame; None: what the host knows decides."""
Journal = Callable[["Frame", Choice], None]
"""Told what was chosen for each frame, by the frame loop."""


class Choices:
    """Asked by the frame loop, in the order of the verbs: `follows` (it may be by another thread,
    a frame ahead), `bounds`, `applied` a prompt, `permit` on a key frame, `done`.

    With a `script` the recorded choices hold, widened where the host knows that they fall short:
    with other prompts than the recorded ones there may be other objects.
    """

    def __init__(self, occupancy: Occupancy, every: int) -> None:
        """``every``: every so many frames are followed."""
        self.script: Script | None = None
        self.journal: Journal | None = None
        self._occupancy = occupancy
        self._followed = KeyFrames(every)
        self._bounds = (0, 0)
        self._permit: Permit | None = None
        self._applied: list[Applied] = []

    def told(self, frame: Frame) -> Choice | None:
        """What the script says of this frame."""
        return None if self.script is None else self.script(frame)

    def follows(self, frame: Frame) -> bool:
        """Whether this frame is looked at; asked once a frame."""
        by_count = self._followed.has_next((frame.epoch, frame.size_hw))
        told = self.told(frame)
        return by_count if told is None else told.followed

    def bounds(self, frame: Frame) -> tuple[int, int]:
        """At least the number of live objects, and of conditioning frames that one holds."""
        live, held = self._occupancy.live(), self._occupancy.held()
        told = self.told(frame)
        if told is not None:
            live, held = max(live, told.live), max(held, told.held)
        self._bounds, self._permit = (live, held), None
        self._applied.clear()
        return live, held

    def applied(self, prompt: Prompt, configured: int | None) -> None:
        """A prompt takes effect on this frame."""
        self._applied.append(Applied(prompt, configured))

    def permit(self, frame: Frame) -> Permit:
        """Which detections of this key frame may have their way."""
        told = self.told(frame)
        if told is None or told.permit is None:
            self._permit = self._occupancy.permit(frame.frame_id)
        else:
            self._permit = told.permit
            if told.permit.births or told.permit.looks:
                self._occupancy.allow(frame.frame_id, told.permit.births, told.permit.looks > 0)
        return self._permit

    def done(self, frame: Frame, *, followed: bool) -> None:
        """The frame is finished: tell the journal."""
        if self.journal is not None:
            chosen = Choice(followed)
            if followed:
                chosen = Choice(True, *self._bounds, self._permit, tuple(self._applied))
            self.journal(frame, chosen)
