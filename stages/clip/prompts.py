"""What is asked of an object on a frame: checked on the host, one line where it cannot be used."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from stages.errors import PromptError
from stages.exits import named_exit
from stages.segmenters.prompt_flaws import MAX_POINTS
from stages.segmenters.prompts import BOX_CORNERS, box_touches

_MOST_ID: Final = 2**31 - 1
Values = Tensor | ArrayLike
"""Numbers in whatever form: a tensor on any device, an array, lists."""


def whole_number(value: object, name: str, low: int, high: int) -> int:
    """`value` as an int; raises `PromptError` where it is none of `low` to `high`."""
    known = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if known and low <= int(value) <= high:  # type: ignore[call-overload]
        return int(value)  # type: ignore[call-overload, no-any-return]
    raise PromptError(f"{name}: got {value!r}, expected a whole number from {low} to {high}")


def object_id(value: object) -> int:
    """An object's id; raises `PromptError`."""
    return whole_number(value, "obj_id", 0, _MOST_ID)


def point_arrays(
    points: Values | None,
    labels: Values | None,
    box: Values | None,
    size_hw: tuple[int, int],
    normalize_coords: bool,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """float32 (P, 2), x and y in pixels of a picture of `size_hw`, and int32 (P,); a box is its
    two corners, before all points. Raises `PromptError`."""
    scale = np.ones(2) if normalize_coords else np.array([size_hw[1], size_hw[0]], float)
    coords, signs = _points(points, labels, scale, size_hw)
    if box is None:
        if not len(coords):
            raise PromptError("got neither points nor a box, expected at least one of the two")
        return coords, signs
    corners = _box(box, scale, size_hw)
    return np.concatenate((corners, coords)), np.concatenate(
        (np.array(BOX_CORNERS, np.int32), signs)
    )


def _points(
    points: Values | None, labels: Values | None, scale: NDArray[Any], size_hw: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    if (points is None) != (labels is None):
        raise PromptError("got points or labels alone, expected one label for each point")
    if points is None or labels is None:
        return np.zeros((0, 2), np.float32), np.zeros(0, np.int32)
    at, signs = _numbers(points, "points"), _numbers(labels, "labels")
    at = at[0] if at.ndim == 3 and len(at) == 1 else at
    signs = signs[0] if signs.ndim == 2 and len(signs) == 1 else signs
    if at.size == 0 and signs.size == 0:
        return np.zeros((0, 2), np.float32), np.zeros(0, np.int32)
    if at.ndim != 2 or at.shape[1] != 2:
        raise PromptError(f"points: got the shape {at.shape}, expected (P, 2): x and y of each")
    check_points(len(at))
    if signs.shape != at.shape[:1]:
        raise PromptError(f"labels: got {signs.size}, expected one for each of {len(at)} points")
    if not np.isin(signs, (0, 1)).all():
        raise PromptError("labels: expected 1 (on the object) or 0 (beside it)")
    at = at * scale
    height, width = size_hw
    for x, y in at.tolist():
        if not (0 <= x <= width and 0 <= y <= height):
            raise PromptError(
                f"points: ({x:g}, {y:g}) is outside, expected x in 0..{width} and y in 0..{height}"
            )
    return at.astype(np.float32), signs.astype(np.int32)


def check_points(count: int) -> None:
    """Raise `PromptError` for more points on one frame than may be told of an object."""
    if count > MAX_POINTS:
        raise PromptError(f"points: got {count} on one frame, expected at most {MAX_POINTS}")


def _box(box: Values, scale: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """float32 (2, 2): the corners."""
    numbers = _numbers(box, "box")
    if numbers.size != 4:
        raise PromptError(f"box: got {numbers.size} numbers, expected x1, y1, x2, y2")
    corners = numbers.reshape(2, 2) * scale
    x1, y1, x2, y2 = (float(number) for number in corners.ravel())
    told = f"box: ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
    if not (x1 < x2 and y1 < y2):
        raise PromptError(f"{told} is empty, expected x1 < x2 and y1 < y2")
    if not box_touches((x1, y1, x2, y2), size_hw):
        height, width = size_hw
        raise PromptError(f"{told} is outside of the {width}x{height} picture")
    return np.asarray(corners, np.float32)


def mask_array(mask: Values, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """bool (H, W) of a picture of `size_hw`; raises `PromptError`."""
    pixels = _numbers(mask, "mask")
    if pixels.shape != size_hw:
        height, width = size_hw
        raise PromptError(
            f"mask: got the shape {pixels.shape}, expected ({height}, {width}) as the pictures"
        )
    inside = pixels > 0
    if not inside.any():
        raise PromptError("mask: is empty, expected pixels of the object")
    return inside


def _numbers(values: Values, name: str) -> NDArray[Any]:
    """Finite numbers; raises `PromptError`."""
    with named_exit("prompt"):
        host = values.detach().cpu() if isinstance(values, Tensor) else values
        try:
            numbers = np.asarray(host, dtype=float)
        except (TypeError, ValueError):
            raise PromptError(f"{name}: expected numbers, got {type(values).__name__}") from None
    if not np.isfinite(numbers).all():
        raise PromptError(f"{name}: got NaN or an infinite number, expected finite ones")
    return numbers


def uploaded(values: NDArray[Any], device: torch.device) -> Tensor:
    """The one copy that a prompt needs."""
    with named_exit("prompt"):
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)
