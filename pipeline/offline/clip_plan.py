"""Prompting a clip, and the walks through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pipeline.offline.clip_prompts import ClipPrompt
from pipeline.offline.records import Direction
from stages.errors import UsageError

if TYPE_CHECKING:
    from stages.clip.session import Clip

Way = Literal["forward", "backward"]

_WAYS: Final[dict[Direction, tuple[Way, ...]]] = {
    "forward": ("forward",),
    "backward": ("backward",),
    "both": ("forward", "backward"),
}


@dataclass(frozen=True, slots=True)
class Pass:
    """One walk through the clip."""

    way: Way
    start: int
    count: int
    """Of frames, the start among them."""

    @property
    def frames(self) -> range:
        """In the order in which they are tracked."""
        step = 1 if self.way == "forward" else -1
        return range(self.start, self.start + step * self.count, step)


def give_prompts(clip: Clip, prompts: Sequence[ClipPrompt]) -> None:
    """Raises `UsageError` for one that cannot be used."""
    for prompt in prompts:
        told, shape = prompt.told, prompt.shape
        if told.frame >= clip.num_frames:
            raise UsageError(
                f"{prompt.where}: there is no frame {told.frame}, expected 0 to "
                f"{clip.num_frames - 1}"
            )
        flaw = shape.flaw(clip.size_hw)
        if flaw is not None:
            raise UsageError(f"{prompt.where}: {flaw}")
        if shape.mask is not None:
            clip.add_new_mask(told.frame, told.object, shape.mask)
        else:
            points, labels = shape.points or None, shape.labels or None
            clip.add_new_points_or_box(told.frame, told.object, points, labels, box=shape.box)


def plan(
    clip: Clip,
    prompts: Sequence[ClipPrompt],
    direction: Direction,
    start: int | None,
    max_frames: int | None,
) -> tuple[Pass, ...]:
    """The walks, each possible: `start` None is the first prompted frame, for `backward` the last;
    `max_frames` counts for each. Raises `UsageError` and, for an object whose every prompt lies
    beyond a walk, `PromptError`."""
    prompted = [prompt.told.frame for prompt in prompts]
    if start is None:
        start = max(prompted) if direction == "backward" else min(prompted)
    last = clip.num_frames - 1
    if start > last:
        raise UsageError(f"--start {start}: there is no such frame, expected 0 to {last}")
    there = {"forward": last - start + 1, "backward": start + 1}
    passes = tuple(
        Pass(way, start, min(there[way], max_frames or there[way]))
        for way in _WAYS[direction]
        if way == "forward" or start > 0
    )
    if not passes:
        raise UsageError("--direction backward: nothing lies before frame 0, expected --start")
    for each in passes:  # tells now what cannot be walked, and walks nothing
        clip.propagate(each.start, each.count - 1, each.way == "backward")
    return passes
