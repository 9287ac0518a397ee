"""Where an object is, as told by a person on one picture: `Shape`. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.prompting import Box, Point


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What is told of one object: at least one of points, box and mask."""

    points: tuple[Point, ...] = ()
    """(x, y), pixels of the picture."""
    labels: tuple[int, ...] = ()
    """One for each point: 1 on the object, 0 beside it."""
    box: Box | None = None
    """(x1, y1, x2, y2), pixels of the picture."""
    mask: NDArray[np.bool_] | None = None
    """bool (H, W) at the picture's size."""

    @property
    def pointed(self) -> int:
        """Points that a model is told: a box is two."""
        return len(self.points) + (0 if self.box is None else 2)

    def flaw(self, size_hw: tuple[int, int]) -> str | None:
        """Why it cannot be used on a picture of `size_hw` (height, width), with what was expected;
        None where it can."""
        height, width = size_hw
        picture = f"the picture is {width}x{height}"
        if len(self.points) != len(self.labels) or not set(self.labels) <= {0, 1}:
            return f"got labels {list(self.labels)}, expected 1 or 0 for each point"
        for x, y in self.points:
            if not (0 <= x <= width and 0 <= y <= height):  # NaN neither
                return f"point {x:g},{y:g} is outside, {picture}"
        if self.box is not None:
            x1, y1, x2, y2 = self.box
            shown = f"box {x1:g},{y1:g},{x2:g},{y2:g}"
            if not (x1 < x2 and y1 < y2 and all(map(math.isfinite, self.box))):
                return f"{shown}: expected x1 < x2 and y1 < y2"
            if not (x1 < width and y1 < height and x2 > 0 and y2 > 0):
                return f"{shown} is outside, {picture}"
        if self.mask is not None and self.mask.shape != size_hw:
            return f"the mask is {self.mask.shape[1]}x{self.mask.shape[0]}, {picture}"
        if self.mask is not None and not self.mask.any():
            return "the mask is empty, expected one with something on it"
        return None if self.pointed or self.mask is not None else "expected points, box or mask"
