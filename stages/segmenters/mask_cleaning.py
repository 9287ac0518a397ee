"""Options on the masks that leave: small holes filled, overlaps given to one object.

Both work on low-resolution logits, on the device, with fixed shapes; neither touches the memory.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

FILLED: Final = 0.1
"""Logit of a filled hole, as in `sam2.utils.misc.fill_holes_in_mask_scores`."""
_LOSER: Final = -10.0
"""Most a logit may be where another object wins, as in sam2's non-overlapping constraint."""


def fill_holes(logits: Tensor, most: int) -> Tensor:
    """Background components of at most `most` pixels (8-neighbourhood) become foreground.

    `logits` float32 (n, h, w); the same rule as sam2's optional CUDA extension. Labels spread by
    one pixel a step, so a component of `most` pixels is labelled through after `most` steps; what
    still meets another label then is part of something larger.
    """
    if most < 1:
        return logits
    n, h, w = logits.shape
    background = logits <= 0
    place = torch.arange(1, h * w + 1, device=logits.device).view(1, h, w)
    labels = torch.where(background, place, 0)
    for _ in range(most):
        labels = torch.where(background, _around(labels), 0)
    unfinished = background & (_around(labels) != labels)
    flat = labels.view(n, -1)
    ones = background.view(n, -1).long()
    area = torch.zeros(n, h * w + 1, dtype=torch.int64, device=logits.device)
    area.scatter_add_(1, flat, ones)
    open_ended = torch.zeros_like(area).scatter_add_(1, flat, unfinished.view(n, -1).long())
    small = (area <= most) & (open_ended == 0)
    hole = background & small.gather(1, flat).view(n, h, w)
    return torch.where(hole, FILLED, logits)


def without_overlap(logits: Tensor, live: Tensor) -> Tensor:
    """Each pixel is left to the object with the highest logit there.

    `logits` float32 (n, h, w), `live` bool (n,): others neither win nor lose.
    """
    shown = torch.where(live[:, None, None], logits, -torch.inf)
    winner = shown == shown.amax(dim=0, keepdim=True)
    return torch.where(winner | ~live[:, None, None], logits, logits.clamp(max=_LOSER))


def _around(labels: Tensor) -> Tensor:
    """The largest label in each pixel's 3 x 3 neighbourhood."""
    return F.max_pool2d(labels.double(), 3, stride=1, padding=1).long()
