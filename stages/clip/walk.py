"""Which frames one call of `propagate` goes through: `Walk`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from stages.clip.objects import ClipObject
from stages.clip.prompts import whole_number
from stages.errors import ClipError, PromptError
from stages.segmenters.memory_bank import Direction


@dataclass(frozen=True, slots=True)
class Walk:
    """Frames one after the other."""

    start: int
    end: int
    """Included."""
    direction: Direction

    @property
    def frames(self) -> range:
        """In the order in which they come."""
        return range(self.start, self.end + self.direction, self.direction)


def plan_walk(
    objects: Collection[ClipObject], count: int, start: int | None, most: int | None, reverse: bool
) -> Walk | None:
    """The walk through a clip of `count` frames that `Clip.propagate` was asked for; None where
    there is no frame to go to. Raises as it does."""
    if not objects:
        raise ClipError("nothing is prompted yet, expected points, a box or a mask first")
    first = min(frame for target in objects for frame in target.conditioning)
    if start is not None:
        first = whole_number(start, "start_frame_idx", 0, count - 1)
    steps = count if most is None else whole_number(most, "max_frame_num_to_track", 0, 2**31)
    if reverse:
        walk = Walk(first, max(first - steps, 0), -1)
    else:
        walk = Walk(first, min(first + steps, count - 1), 1)
    for target in objects:
        if target.walked.is_empty:
            _check_prompted(target, walk)
    return None if reverse and first == 0 else walk


def _check_prompted(target: ClipObject, walk: Walk) -> None:
    nearest = min(target.conditioning, key=lambda frame: frame * walk.direction)
    if (nearest - walk.end) * walk.direction > 0:
        raise PromptError(
            f"object {target.obj_id}: its first prompt, on frame {nearest}, lies after the range "
            f"from {walk.start} to {walk.end}, expected one in it or before it"
        )
