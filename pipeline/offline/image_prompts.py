"""What to segment on each picture: one object, boxes, or many single points."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.shape_words import numbers, read_mask
from stages.errors import UsageError
from stages.shapes import Shape

_MOST: Final = 225
"""Objects on a picture; a picture of labels holds 255."""
_RADIUS: Final = 0.25
"""Of the circle around the centre, in the shorter side of the picture."""


@dataclass(frozen=True, slots=True)
class ImagePrompts:
    """The same on every picture; a grid is laid out anew on each."""

    shapes: tuple[Shape, ...] = ()
    grid: tuple[int, int] | None = None
    """Columns and rows of single points, each at the centre of its cell."""
    ring: int | None = None
    """So many single points: one at the centre of the picture, the others evenly on a circle of a
    quarter of the shorter side around it, clockwise from the top."""

    def on(self, size_hw: tuple[int, int]) -> tuple[Shape, ...]:
        """A shape an object, for a picture of `size_hw` (height, width)."""
        if self.grid is None and self.ring is None:
            return self.shapes
        points = _grid(*self.grid, size_hw) if self.grid else _ring(self.ring or 0, size_hw)
        return tuple(Shape(points=(point,), labels=(1,)) for point in points)


def image_prompts(
    points: Sequence[str],
    beside: Sequence[str],
    boxes: Sequence[str],
    mask: Path | None,
    grid: str | None,
    ring: int | None,
) -> ImagePrompts:
    """Read the command line; raises `UsageError`.

    Points, a mask and one box together tell of one object; several boxes are an object each.
    """
    told = bool(points or beside or boxes or mask)
    if told + (grid is not None) + (ring is not None) != 1:
        raise UsageError(
            "expected what to segment: --point (with --not), --box, --mask, or one of --grid and "
            "--grid-center"
        )
    if grid is not None:
        return ImagePrompts(grid=_columns_rows(grid))
    if ring is not None:
        if not 1 <= ring <= _MOST:
            raise UsageError(f"--grid-center {ring}: expected 1 to {_MOST} points")
        return ImagePrompts(ring=ring)
    return ImagePrompts(_shapes(points, beside, boxes, mask))


def _shapes(
    points: Sequence[str], beside: Sequence[str], boxes: Sequence[str], mask: Path | None
) -> tuple[Shape, ...]:
    coords = [numbers("--point", text, 2) for text in points]
    coords += [numbers("--not", text, 2) for text in beside]
    labels = (1,) * len(points) + (0,) * len(beside)
    corners = [_box(text) for text in boxes]
    if len(corners) > _MOST:
        raise UsageError(f"--box: got {len(corners)}, expected at most {_MOST}")
    one = Shape(
        points=tuple((x, y) for x, y in coords),
        labels=labels,
        mask=None if mask is None else read_mask("--mask", mask),
    )
    if not corners:
        return (one,)
    if len(corners) > 1 and (coords or mask is not None):
        raise UsageError("--box: got several and points or a mask, expected one box with them")
    return tuple(Shape(one.points, one.labels, corner, one.mask) for corner in corners)


def _box(text: str) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = numbers("--box", text, 4)
    if x1 >= x2 or y1 >= y2:
        raise UsageError(f"--box {text}: expected X1,Y1,X2,Y2 with X1 < X2 and Y1 < Y2")
    return x1, y1, x2, y2


def _columns_rows(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,2})", text, re.ASCII)
    if found is None or int(found[1]) * int(found[2]) > _MOST:
        raise UsageError(
            f"--grid {text}: expected COLUMNSxROWS such as 3x3, at most {_MOST} points"
        )
    return int(found[1]), int(found[2])


def _grid(columns: int, rows: int, size_hw: tuple[int, int]) -> list[tuple[float, float]]:
    height, width = size_hw
    return [
        ((column + 0.5) * width / columns, (row + 0.5) * height / rows)
        for row in range(rows)
        for column in range(columns)
    ]


def _ring(count: int, size_hw: tuple[int, int]) -> list[tuple[float, float]]:
    x, y = size_hw[1] / 2, size_hw[0] / 2
    radius = _RADIUS * min(size_hw)
    turns = [2 * math.pi * step / (count - 1) for step in range(count - 1)]
    circle = [(x + radius * math.sin(turn), y - radius * math.cos(turn)) for turn in turns]
    return [(x, y), *circle]
