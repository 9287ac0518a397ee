"""What the native `sam3` package says and hears, in pixels: `SessionFrame`, `SessionPrompt`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.errors import MaskstreamError
from stages.phrasing import LONGEST, flaw_of, tidy

Size = tuple[int, int]


class Sam3Error(MaskstreamError):
    """A clip session failed; it is closed."""


class Sam3PromptError(MaskstreamError):
    """A prompt cannot be used; nothing was asked of the model."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class SessionPrompt:
    """Words, or boxes, or points; one of them."""

    text: str | None = None
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """x1, y1, x2, y2 in pixels: an example of what to find; the package begins with one alone."""
    box_labels: tuple[int, ...] = ()
    """One a box: 1 like this, 0 not like this; all 1 where it is left out."""
    points: tuple[tuple[float, float], ...] = ()
    """x, y in pixels, of one object."""
    labels: tuple[int, ...] = ()
    """One a point: 1 on the object, 0 beside it."""
    obj_id: int | None = None
    """Of the object that the points are about; needed with points."""


@dataclass(frozen=True, slots=True, eq=False)
class SessionFrame:
    """N objects on one frame, on the host."""

    frame_idx: int
    obj_ids: NDArray[np.int64]
    """(N,), each once."""
    scores: NDArray[np.float32]
    """(N,), 0..1."""
    boxes_xyxy: NDArray[np.float32]
    """(N, 4), pixels."""
    masks: NDArray[np.bool_]
    """(N, H, W)."""

    @property
    def empty(self) -> bool:
        """Whether there is no object at all."""
        return len(self.obj_ids) == 0


def request_of(prompt: SessionPrompt, size_hw: Size) -> dict[str, object]:
    """The fields of an `add_prompt` request: boxes as shares of the picture, x y width height,
    points as shares. Raises `Sam3PromptError`."""
    given = [bool(prompt.text is not None), bool(prompt.boxes), bool(prompt.points)]
    if sum(given) != 1:
        raise Sam3PromptError("sam3: expected exactly one of text, boxes, points")
    if prompt.text is not None:
        if flaw_of(prompt.text) is not None:
            raise Sam3PromptError(
                f"sam3: text: expected 1 to {LONGEST} printable characters, not blanks alone"
            )
        return {"text": tidy(prompt.text)}
    if len(prompt.boxes) > 1:
        raise Sam3PromptError(f"sam3: {len(prompt.boxes)} boxes, expected one to begin with")
    if prompt.boxes:
        labels = prompt.box_labels or (1,) * len(prompt.boxes)
        shares = [_box(box, size_hw) for box in prompt.boxes]
        _check_labels(labels, len(shares), "box_labels")
        return {"bounding_boxes": shares, "bounding_box_labels": list(labels)}
    if prompt.obj_id is None:
        raise Sam3PromptError("sam3: points without obj_id, expected the object they are about")
    _check_labels(prompt.labels, len(prompt.points), "labels")
    at = [_point(point, size_hw) for point in prompt.points]
    return {"points": at, "point_labels": list(prompt.labels), "obj_id": prompt.obj_id}


def frame_of(response: Mapping[str, Any], size_hw: Size) -> SessionFrame:
    """A response as a frame; raises `Sam3Error` for one that does not hang together.

    Lists, arrays of other types and empty arrays of any shape are taken.
    """
    try:
        index, outputs = int(response["frame_index"]), response["outputs"]
        ids = np.asarray(outputs["out_obj_ids"], np.int64).reshape(-1)
        count = len(ids)
        scores = np.asarray(outputs["out_probs"], np.float32).reshape(-1)
        shares = np.asarray(outputs["out_boxes_xywh"], np.float32).reshape(-1, 4)
        masks = np.asarray(outputs["out_binary_masks"])
        masks = masks.astype(np.bool_).reshape(count, *size_hw) if count else _none(size_hw)
    except (KeyError, TypeError, ValueError) as error:
        raise Sam3Error(f"sam3: a response that cannot be read ({error})") from error
    if not (len(scores) == len(shares) == count) or len(set(ids.tolist())) != count:
        raise Sam3Error(
            f"sam3: frame {index}: {count} ids, {len(scores)} scores and {len(shares)} boxes, "
            "expected one of each for each object"
        )
    height, width = size_hw
    pixels = shares * np.array([width, height, width, height], np.float32)
    pixels[:, 2:] += pixels[:, :2]
    return SessionFrame(index, ids, scores, pixels, masks)


def zeros(frame_idx: int, obj_ids: tuple[int, ...], size_hw: Size) -> SessionFrame:
    """Objects that are out of sight."""
    count = len(obj_ids)
    return SessionFrame(
        frame_idx,
        np.array(obj_ids, np.int64),
        np.zeros(count, np.float32),
        np.zeros((count, 4), np.float32),
        np.zeros((count, *size_hw), np.bool_),
    )


def _none(size_hw: Size) -> NDArray[np.bool_]:
    return np.zeros((0, *size_hw), np.bool_)


def _box(box: tuple[float, float, float, float], size_hw: Size) -> list[float]:
    height, width = size_hw
    x1, y1, x2, y2 = (float(value) for value in box)
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise Sam3PromptError(
            f"sam3: box ({x1:g}, {y1:g}, {x2:g}, {y2:g}), expected x1 < x2 and y1 < y2 inside the "
            f"{width}x{height} picture"
        )
    return [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]


def _point(point: tuple[float, float], size_hw: Size) -> list[float]:
    height, width = size_hw
    x, y = (float(value) for value in point)
    if not (0 <= x <= width and 0 <= y <= height):
        raise Sam3PromptError(
            f"sam3: point ({x:g}, {y:g}) is outside of the {width}x{height} picture"
        )
    return [x / width, y / height]


def _check_labels(labels: tuple[int, ...], count: int, name: str) -> None:
    if len(labels) != count or any(label not in (0, 1) for label in labels):
        raise Sam3PromptError(f"sam3: {name}: expected 0 or 1 for each of {count}")
