"""What is held of the frames of a clip: an object's results, and which of them may go.

Note [What is held, and why]
~~~~~~~~~~~~~~~~~~~~~~~~~~~~
sam2's own predictor keeps every result for ever. What a frame depends on is little: the
conditioning frames, and, in the direction of the walk, the memory of the six frames and the
pointers of the fifteen frames before it. Within a walk (one call of `propagate`) those are in the
rings of the `MemoryBank`. Where a walk begins, they are the results of earlier walks, so these are
kept around the frames where one is likely to begin, or something is likely to be corrected: the
anchors. Those are the conditioning frames, and the first and last frames of the latest walks.
Of the last walk the newest frames are kept whole. The number of results is thus bounded by the
number of prompts, not by the length of the clip.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from torch import Tensor

from stages.segmenters.mask_head import Masks
from stages.segmenters.memory_bank import BankShape, Direction

RECENT: Final = 32
"""Frames of the last walk that are kept whole: results on the half of them may be corrected."""
Keep = Literal["near", "all"]
"""`near`: see Note [What is held, and why]; `all`: every result, as sam2's own predictor."""


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """One object on one frame."""

    pointer: Tensor
    """float32 (1, C)."""
    memory: Tensor | None
    """bfloat16 (1, L, M); None once it is held no more, and so is `masks`."""
    masks: Masks | None
    """One row."""

    @property
    def pointing(self) -> Output:
        """The little that frames further away depend on."""
        return replace(self, memory=None, masks=None)


def output_of(masks: Masks, memory: Tensor | None, row: int) -> Output:
    """A row of a step's results, not copied."""
    here = slice(row, row + 1)
    own = Masks(masks.logits[here], masks.quality[here], masks.presence[here], masks.pointer[here])
    return Output(own.pointer, None if memory is None else memory[here], own)


class Walked:
    """Which frames were tracked, and in which direction last."""

    def __init__(self) -> None:
        self._stretches: list[tuple[int, int, Direction]] = []  # first, last in the direction

    @property
    def is_empty(self) -> bool:
        return not self._stretches

    def note(self, frame: int, direction: Direction) -> None:
        """A frame was tracked."""
        if self._stretches:
            first, last, before = self._stretches[-1]
            if before == direction and frame == last + direction:
                self._stretches[-1] = first, frame, direction
                return
        self._stretches.append((frame, frame, direction))

    def direction(self, frame: int) -> Direction | None:
        """How it was tracked last; None where it never was."""
        for first, last, direction in reversed(self._stretches):
            if min(first, last) <= frame <= max(first, last):
                return direction
        return None


class Retention:
    """Which results stay."""

    def __init__(self, keep: Keep, shape: BankShape) -> None:
        self._all = keep == "all"
        self._whole, self._pointing = shape.recent, max(shape.recent, shape.pointers)
        self.anchors: frozenset[int] = frozenset()

    def trim(self, held: dict[int, Output], frames: Iterable[int]) -> None:
        """Let go what of `frames` is not needed."""
        if self._all:
            return
        for frame in frames:
            output = held.get(frame)
            if output is None:
                continue
            away = min((abs(frame - anchor) for anchor in self.anchors), default=self._pointing + 1)
            if away > self._pointing:
                del held[frame]
            elif away > self._whole:
                held[frame] = output.pointing
