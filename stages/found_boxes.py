"""Boxes that somebody else's detector found: what they are, and what is wrong with some.

Numpy and the standard library only, so that whoever sends them never imports torch.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from stages.window import Window

FoundBoxes = NDArray[np.float32]
"""(n, 6): x1, y1, x2, y2 in pixels of the source's full picture, score 0..1, class id."""
MAX_BOXES: Final = 300
Flaw = Literal["bad_box", "bad_score", "no_class", "outside"]
FLAWS: Final[dict[str, str]] = {
    "bad_box": "expected x1 < x2 and y1 < y2, finite",
    "bad_score": "expected a score from 0 to 1",
    "no_class": "there is no such class",
    "outside": "it lies outside the picture that is taken in",
}


def flaws_of(boxes: FoundBoxes, window: Window, classes: int) -> list[Flaw | None]:
    """What is wrong with each row; the first thing that is. ``classes``: how many there are."""
    x1, y1, x2, y2, score, class_id = boxes.T
    (top, left), (height, width) = window.origin_yx, window.size_hw
    tests: tuple[tuple[Flaw, NDArray[np.bool_]], ...] = (
        ("bad_box", np.isfinite(boxes[:, :4]).all(axis=1) & (x1 < x2) & (y1 < y2)),
        ("bad_score", (score >= 0) & (score <= 1)),
        ("no_class", (class_id >= 0) & (class_id < classes) & (class_id == np.floor(class_id))),
        ("outside", (x2 > left) & (y2 > top) & (x1 < left + width) & (y1 < top + height)),
    )
    found: list[Flaw | None] = [None] * len(boxes)
    for flaw, passed in reversed(tests):
        for row in np.flatnonzero(~passed):
            found[row] = flaw
    return found


def in_window(boxes: FoundBoxes, window: Window) -> FoundBoxes:
    """The same in pixels of the window, cut off at its edges."""
    moved = boxes.copy()
    (top, left), (height, width) = window.origin_yx, window.size_hw
    moved[:, 0:4:2] = (boxes[:, 0:4:2] - left).clip(0, width)
    moved[:, 1:4:2] = (boxes[:, 1:4:2] - top).clip(0, height)
    return moved
