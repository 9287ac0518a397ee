"""Prompts from the configuration: checked on the host, kept on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from stages.base import Section
from stages.prompting import Box, Point
from stages.window import Window

POSITIVE, NEGATIVE = 1, 0
BOX_CORNERS = (2, 3)
"""SAM's labels of a box's upper left and lower right corner given as points."""


class PromptConfig(Section):
    """One object to segment, told by a box or by points, in pixels of the full picture."""

    name: str | None = None
    """For whoever reads the configuration."""
    box: Box | None = None
    """[x1, y1, x2, y2], x1 < x2 and y1 < y2."""
    points: tuple[Point, ...] | None = Field(None, min_length=1, max_length=64)
    """[[x, y], ...]"""
    labels: tuple[Literal[0, 1], ...] | None = None
    """One for each point: 1 on the object, 0 beside it."""

    @model_validator(mode="after")
    def _is_usable(self) -> PromptConfig:
        if (self.box is None) == (self.points is None):
            raise ValueError("expected either a box or points")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError(f"box: got {list(self.box)}, expected x1 < x2 and y1 < y2")
        if len(self.labels or ()) != len(self.points or ()):
            raise ValueError(
                f"labels: got {len(self.labels or ())}, "
                f"expected one for each of {len(self.points or ())} points"
            )
        return self

    def inside(self, window: Window) -> bool:
        """Whether `window` shows part of the box, or every one of the points."""
        height, width = window.size_hw
        if self.box is not None:
            return box_touches(box_in(window, self.box), window.size_hw)
        points = points_in(window, self.points or ())
        return all(0 <= x <= width and 0 <= y <= height for x, y in points)

    def as_points(self) -> tuple[tuple[Point, ...], tuple[int, ...]]:
        """Points and labels as SAM takes them; a box is its two corners."""
        if self.box is not None:
            x1, y1, x2, y2 = self.box
            return ((x1, y1), (x2, y2)), BOX_CORNERS
        return self.points or (), self.labels or ()


def box_touches(box_xyxy: Box, size_hw: tuple[int, int]) -> bool:
    """Whether any part of a box lies in a frame of `size_hw` (height, width)."""
    x1, y1, x2, y2 = box_xyxy
    return x1 < size_hw[1] and y1 < size_hw[0] and x2 > 0 and y2 > 0


def box_in(window: Window, box_xyxy: Box) -> Box:
    """A box of the full picture in pixels of `window`."""
    y, x = window.origin_yx
    x1, y1, x2, y2 = box_xyxy
    return x1 - x, y1 - y, x2 - x, y2 - y


def points_in(window: Window, points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Points of the full picture in pixels of `window`."""
    y, x = window.origin_yx
    return tuple((px - x, py - y) for px, py in points)


@dataclass(frozen=True, slots=True, eq=False)
class PromptGroup:
    """G prompts with the same number of points P, which are decoded together."""

    members: tuple[int, ...]
    """Places of the prompts in the configuration."""
    coords: Tensor
    """float32 (G, P, 2), x and y in pixels of the full picture."""
    labels: Tensor
    """int32 (G, P)."""

    def coords_in(self, window: Window) -> Tensor:
        """`coords` in pixels of `window`; nothing is uploaded."""
        y, x = window.origin_yx
        return torch.stack((self.coords[..., 0] - x, self.coords[..., 1] - y), dim=-1)


def group_prompts(
    prompts: tuple[PromptConfig, ...], device: torch.device
) -> tuple[PromptGroup, ...]:
    """The prompts by number of points, uploaded once.

    The group of two points comes last, so that detected boxes can join it.
    """
    points = [prompt.as_points() for prompt in prompts]
    groups = []
    for count in sorted({len(coords) for coords, _ in points}, key=lambda n: (n == 2, n)):
        members = tuple(i for i, (coords, _) in enumerate(points) if len(coords) == count)
        coords = torch.tensor([points[i][0] for i in members], dtype=torch.float32, device=device)
        labels = torch.tensor([points[i][1] for i in members], dtype=torch.int32, device=device)
        groups.append(PromptGroup(members, coords, labels))
    return tuple(groups)
