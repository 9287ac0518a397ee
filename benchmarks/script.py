"""A scripted history for two trackers: who is added, corrected, removed, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LENGTH = 300
"""Frames for which the history below is written; other lengths scale it."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happens to the object `name` on a frame."""

    action: Literal["add", "reinit", "correct", "remove"]
    name: str
    told_by: Literal["box", "click", "mask"] = "box"


_HISTORY: tuple[tuple[int, Step], ...] = (
    (0, Step("add", "a")),
    (40, Step("add", "b", "click")),
    (41, Step("add", "c")),
    (60, Step("reinit", "a", "mask")),
    (90, Step("correct", "a", "click")),
    (100, Step("reinit", "a")),
    (120, Step("remove", "b")),
    (130, Step("reinit", "a")),
    (134, Step("reinit", "a", "click")),
    (150, Step("add", "b2")),
    (190, Step("reinit", "a")),
    (230, Step("reinit", "a")),
    (232, Step("correct", "c", "click")),
)


def script(frames: int, objects: int = 3) -> dict[int, list[Step]]:
    """The history on `frames` frames with the first `objects` of its objects, by frame.

    Shorter histories keep the order; two reinits stay within six frames of each other.
    """
    names = ("a", "b", "c")[:objects]
    steps: dict[int, list[Step]] = {}
    last = -1
    for at, step in _HISTORY:
        if step.name[0] not in names:
            continue
        frame = at * frames // LENGTH
        if step.action == "correct" or any(s.name == step.name for s in steps.get(frame, [])):
            frame = max(frame, last + 1)
        steps.setdefault(frame, []).append(step)
        last = max(last, frame)
    return steps
