"""Prompts as people and detectors give them: loose boxes, clicks, corrections, background.

Coordinates are in the model's square input of `SIZE` pixels; masks are bool (B, h, w) of any
size that covers the same picture. All randomness is torch's global generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE: Final = 128
_CORNER_LABELS: Final = (2, 3)  # SAM's labels of a box's two corners


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """``coords`` float32 (B, P, 2), x y; ``labels`` int32 (B, P): 1 +, 0 -, 2 and 3 a box."""

    coords: Tensor
    labels: Tensor

    def then(self, later: Points) -> Points:
        """These points followed by later ones."""
        return Points(
            torch.cat([self.coords, later.coords], 1), torch.cat([self.labels, later.labels], 1)
        )

    def as_inputs(self) -> dict[str, Tensor]:
        """In the form that sam2 takes."""
        return {"point_coords": self.coords, "point_labels": self.labels}


def jittered_boxes(boxes: Tensor, most: float = 0.1) -> Points:
    """Boxes (B, 4) in model pixels, each side moved by up to ``most`` of the box's size.

    Half of a batch is exact, as a person draws it; half is moved, as by a detector.
    """
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    scale = most * torch.rand(len(boxes), 1) * (torch.rand(len(boxes), 1) < 0.5)
    moved = boxes + (2 * torch.rand_like(boxes) - 1) * scale * size
    moved = moved.clamp(0, SIZE)
    labels = torch.tensor(_CORNER_LABELS, dtype=torch.int32).repeat(len(boxes), 1)
    return Points(moved.view(-1, 2, 2), labels)


def inner_click(masks: Tensor, label: Tensor | int = 1) -> Points:
    """One click inside each mask: for half of them anywhere, for half well inside.

    An empty mask gets a click at an arbitrary place.
    """
    count, height, width = masks.shape
    inside = masks.float()
    coarse = F.avg_pool2d(inside[:, None], 2)
    deep = F.avg_pool2d(coarse, 5, stride=1, padding=2)
    deep = F.interpolate(deep, size=(height, width))[:, 0]
    share = (torch.rand(count, 1, 1) < 0.5).float() * 0.95
    score = inside * (1e-3 + share * deep + (1 - share) * torch.rand(count, height, width))
    index = score.flatten(1).argmax(1)
    x = (index % width + 0.5) * (SIZE / width)
    y = (index // width + 0.5) * (SIZE / height)
    labels = torch.as_tensor(label, dtype=torch.int32).expand(count).reshape(count, 1)
    return Points(torch.stack([x, y], 1)[:, None], labels)


def correcting_click(truth: Tensor, predicted: Tensor) -> Points:
    """A click in the larger of what is missing (+) and what is too much (-).

    Where nothing is wrong the click is a negative one in the picture's corner.
    """
    missing, excess = truth & ~predicted, predicted & ~truth
    positive = missing.flatten(1).sum(1) > excess.flatten(1).sum(1)
    error = torch.where(positive[:, None, None], missing, excess)
    return inner_click(error, positive.int())


def background_prompts(occupied: Tensor) -> tuple[Points, Points]:
    """A box and a click on nothing for each picture; ``occupied`` bool (B, h, w), any object.

    Boxes are drawn at random and, where they touch an object, shrunk to a spot off it.
    """
    click = inner_click(~occupied)
    centre = click.coords[:, 0]
    coarse = F.max_pool2d(occupied[:, None].float(), 2)
    free = F.max_pool2d(coarse, 7, stride=1, padding=3)[:, 0] < 0.5
    roomy = inner_click(free).coords[:, 0]
    has_room = free.flatten(1).any(1)[:, None]
    half = torch.where(has_room, 4.0 + 4.0 * torch.rand(len(centre), 2), 2.0)
    middle = torch.where(has_room, roomy, centre)
    corners = torch.stack([middle - half, middle + half], 1).clamp(0, SIZE)
    labels = torch.tensor(_CORNER_LABELS, dtype=torch.int32).repeat(len(centre), 1)
    return Points(corners, labels), click
