"""An object of a clip, as far as the host knows it: `ClipObject`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.clip.outputs import Output, Walked
from stages.clip.prompts import check_points
from stages.segmenters.memory_bank import BankShape, Direction


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """The points given on one frame so far."""

    coords: Tensor
    """float32 (1, P, 2): x, y in pixels of the model."""
    labels: Tensor
    """int32 (1, P)."""
    clicks: int
    """How many there are, without the corners of a box."""

    def and_then(self, more: Points) -> Points:
        """These, followed by others; raises `PromptError` where that is too many."""
        clicks = self.clicks + more.clicks
        check_points(clicks)
        return Points(
            torch.cat((self.coords, more.coords), dim=1),
            torch.cat((self.labels, more.labels), dim=1),
            clicks,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """What a prompt gave; it counts from the next walk on."""

    output: Output
    conditioning: bool
    """Whether the frame becomes a conditioning frame, or its tracked result is put right."""


class ClipObject:
    """Its prompts and what is held of its results, by frame."""

    def __init__(self, obj_id: int) -> None:
        self.obj_id = obj_id
        self.points: dict[int, Points] = {}
        self.prompted: set[int] = set()
        """Frames with a prompt of whatever kind."""
        self.pending: dict[int, Pending] = {}
        self.conditioning: dict[int, Output] = {}
        self.tracked: dict[int, Output] = {}
        """Never on a conditioning frame."""
        self.walked = Walked()

    def settle(self) -> None:
        """What was prompted counts from now on."""
        for frame, pending in self.pending.items():
            place = self.conditioning if pending.conditioning else self.tracked
            place[frame] = pending.output
        self.pending.clear()
        for frame in self.conditioning:
            self.tracked.pop(frame, None)

    def shown(self, frame: int) -> Output | None:
        """The newest result on a frame, where one is held with its mask."""
        pending = self.pending.get(frame)
        return self.settled(frame) if pending is None else pending.output

    def settled(self, frame: int) -> Output | None:
        """The same, without prompts that do not count yet."""
        output = self.conditioning.get(frame) or self.tracked.get(frame)
        return output if output is not None and output.masks is not None else None

    def corrects(self, frame: int, shape: BankShape) -> Direction | None:
        """In which direction the frame was tracked, where all that it depended on is held."""
        direction = self.walked.direction(frame)
        if direction is None or self.shown(frame) is None:
            return None
        for back in range(1, max(shape.pointers, shape.recent) + 1):
            before = frame - back * direction
            if before in self.conditioning or self.walked.direction(before) is None:
                continue
            output = self.tracked.get(before)
            if output is None or (back <= shape.recent and output.memory is None):
                return None
        return direction
