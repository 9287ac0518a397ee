"""Non-maximum suppression of fixed size: greedy, exact, on the device, nothing read back.

The usual implementations return as many rows as survive, a number that the host must wait for.
Here the best row is picked K times; what it covers is out of the race before the next pick. So
all candidates take part, however many they are, and the result has K rows.
"""

from __future__ import annotations

from math import inf

import numpy as np
import torch
from torch import Tensor, nn


class Suppression:
    """The first K rows of `torchvision.ops.batched_nms`, bit for bit.

    Equal for boxes of up to float32 precision, ties included, with batched_nms in its form for
    many boxes (class by class). For few boxes that one moves classes apart in the plane first,
    which rounds their coordinates.
    """

    def __init__(self, keep: int, iou_threshold: float) -> None:
        """``keep``: K >= 1. ``iou_threshold``: 0..1; what overlaps a better row of its class by
        more goes."""
        self._keep = keep
        # torchvision compares in double precision, tensors compare in their own.
        nearest = np.float32(iou_threshold)
        if float(nearest) > iou_threshold:
            nearest = np.nextafter(nearest, np.float32(-inf))
        self._most = float(nearest)

    def __call__(
        self, boxes_xyxy: Tensor, scores: Tensor, class_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """int64 (K,) rows, best first, and their scores, float32 (K,); -inf where none is left.

        Boxes float32 (n, 4), scores float32 (n,), class_ids int (n,), n >= 1. Of equal scores the
        first row wins; rows whose score is -inf or not a number take no part.
        """
        x1, y1, x2, y2 = boxes_xyxy.unbind(dim=1)
        area = (x2 - x1) * (y2 - y1)
        left = torch.where(scores > -inf, scores, -inf)
        picked, found = [], []
        for _ in range(self._keep):
            best = left.argmax(dim=0, keepdim=True)
            picked.append(best)
            found.append(left.index_select(0, best))
            a1, b1, a2, b2 = boxes_xyxy.index_select(0, best).unbind(dim=1)
            across = (torch.minimum(x2, a2) - torch.maximum(x1, a1)).clamp(min=0)
            down = (torch.minimum(y2, b2) - torch.maximum(y1, b1)).clamp(min=0)
            both = across * down
            iou = both / (area.index_select(0, best) + area - both)
            covered = (iou > self._most) & (class_ids == class_ids.index_select(0, best))
            left = torch.where(covered, -inf, left).index_fill(0, best, -inf)
        return torch.cat(picked), torch.cat(found)


class OneToManyRows(nn.Module):
    """A YOLO whose head names each object many times (YOLOv8, YOLO11 and their kin), with the
    output of an end-to-end one."""

    def __init__(
        self, network: nn.Module, keep: int, min_score: float, iou_threshold: float
    ) -> None:
        """``network``: float32 (1, 3, h, w) to a tuple that begins with float32 (1, 4 + classes,
        n): centre x, centre y, width, height in input pixels, and a score for each class."""
        super().__init__()
        self.network = network
        self._min_score = min_score
        self._suppress = Suppression(keep, iou_threshold)

    def forward(self, picture: Tensor) -> tuple[Tensor]:
        """float32 (1, K, 6): x1, y1, x2, y2, score, class; best first, rows of zeros where fewer
        are left. A place counts for its best class alone."""
        rows = self.network(picture)[0][0].T
        centre, half = rows[:, :2], rows[:, 2:4] / 2
        boxes = torch.cat((centre - half, centre + half), dim=1)
        scores, class_ids = rows[:, 4:].max(dim=1)
        scores = torch.where(scores >= self._min_score, scores, -inf)
        picked, found = self._suppress(boxes, scores, class_ids)
        kept = torch.cat(
            (
                boxes.index_select(0, picked),
                found[:, None],
                class_ids.index_select(0, picked)[:, None].to(boxes.dtype),
            ),
            dim=1,
        )
        return (torch.where(found[:, None] > -inf, kept, 0.0)[None],)
