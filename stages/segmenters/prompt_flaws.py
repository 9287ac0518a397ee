"""Why a prompt cannot be used, as far as the host can tell: types, ranges, shapes, places."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stages.prompting import Box
from stages.segmenters.prompts import box_in, box_touches, points_in
from stages.window import Window

if TYPE_CHECKING:  # which asks here
    from stages.prompting import Prompt, Refusal

MAX_POINTS: Final = 64
MAX_COORDINATE: Final = 1e6
"""Pixels; far beyond any picture, and far below what float32 cannot hold."""
_SHAPED: Final = ("add", "reinit", "correct")
_NAMED: Final = ("reinit", "correct", "remove")
_ACTIONS: Final = (*_SHAPED, "remove", "reset")
_IDS, _CLASSES = 2**63, 2**31
"""What the tensors of ids and classes can hold, and no less than 0."""


def flaw_of(prompt: Prompt, window: Window) -> Refusal | None:
    """Why a prompt cannot be used where `window` is taken in; None where it can.

    Whatever its fields hold, whether of the right types or not, nothing is raised.
    """
    if not _is_request(prompt):
        return "bad_request"
    if prompt.box is not None:
        return _box_flaw(prompt.box, window)
    if prompt.mask is not None:
        return _mask_flaw(prompt.mask, window)
    shaped = (prompt.action in _SHAPED and prompt.text is None) or len(prompt.labels) > 0
    return _points_flaw(prompt, window) if shaped else None


def plain(prompt: Prompt) -> Prompt:
    """A copy of a flawless prompt that nobody else can change, in Python's own numbers."""
    wanted, box = prompt.object_id, prompt.box
    if box is not None:
        box = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
    return replace(
        prompt,
        object_id=None if wanted is None else int(wanted),
        box=box,
        points=tuple((float(x), float(y)) for x, y in prompt.points),
        labels=tuple(int(label) for label in prompt.labels),
        mask=None if prompt.mask is None else np.array(prompt.mask),
        class_id=int(prompt.class_id),
    )


def _is_request(prompt: Prompt) -> bool:
    """Whether it asks for one thing: an action, its object and its shape, all of their types."""
    if not isinstance(prompt.action, str) or prompt.action not in _ACTIONS:
        return False
    if not (_is_list(prompt.points) and _is_list(prompt.labels)):
        return False
    if prompt.object_id is not None and not _is_index(prompt.object_id, _IDS):
        return False
    if not _is_index(prompt.class_id, _CLASSES):
        return False
    if (prompt.action in _NAMED) is (prompt.object_id is None):
        return False
    if not _is_text(prompt.text):
        return False
    numbers = (prompt.epoch, prompt.frame_id, prompt.until_ns)
    if not all(number is None or _is_whole(number) for number in numbers):
        return False
    shapes = (prompt.box is not None) + (len(prompt.points) > 0) + (prompt.mask is not None)
    shapes += prompt.text is not None
    return shapes == int(prompt.action in _SHAPED)


def _is_list(value: object) -> bool:
    return isinstance(value, (tuple, list))


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_index(value: object, limit: int) -> bool:
    return _is_whole(value) and 0 <= int(value) < limit  # type: ignore[call-overload]


def _is_coordinate(value: object) -> bool:
    """Neither NaN nor infinite, nor so large that a float could not hold it."""
    number = isinstance(value, (int, float, np.integer, np.floating))
    return number and bool(-MAX_COORDINATE <= value <= MAX_COORDINATE)  # type: ignore[operator]


def _box_flaw(box: Box, window: Window) -> Refusal | None:
    if not (_is_list(box) and len(box) == 4 and all(map(_is_coordinate, box))):
        return "bad_box"
    if box[0] >= box[2] or box[1] >= box[3]:
        return "bad_box"
    return None if box_touches(box_in(window, box), window.size_hw) else "outside"


def _points_flaw(prompt: Prompt, window: Window) -> Refusal | None:
    points, labels = prompt.points, prompt.labels
    if len(points) > MAX_POINTS or len(points) != len(labels):
        return "bad_points"
    if not all(_is_index(label, 2) for label in labels):
        return "bad_points"
    if not all(_is_list(at) and len(at) == 2 and all(map(_is_coordinate, at)) for at in points):
        return "bad_points"
    height, width = window.size_hw
    inside = all(0 <= x <= width and 0 <= y <= height for x, y in points_in(window, points))
    return None if inside else "outside"


def _mask_flaw(mask: NDArray[Any], window: Window) -> Refusal | None:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != window.full_hw:
        return "bad_mask"
    if not bool(mask.any()):
        return "bad_mask"
    return None if bool(window.cut(mask).any()) else "outside"
