"""Boxes on the device."""

from __future__ import annotations

import torch
from torch import Tensor


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """float32 (n, m) of float32 (n, 4) and (m, 4), x1 y1 x2 y2; 0 where a box is empty."""
    both = _shared_area(a, b)
    iou: Tensor = both / (_area(a)[:, None] + _area(b)[None, :] - both).clamp(min=1e-6)
    return iou


def _shared_area(a: Tensor, b: Tensor) -> Tensor:
    size = torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(
        a[:, None, :2], b[None, :, :2]
    )
    return size.clamp(min=0).prod(dim=2)


def _area(boxes_xyxy: Tensor) -> Tensor:
    return (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clamp(min=0).prod(dim=1)


def smaller_covered(boxes_xyxy: Tensor) -> Tensor:
    """float32 (n, n) of float32 (n, 4): share of the smaller of two boxes that lies in the larger
    one; 0 where it is empty."""
    both = _shared_area(boxes_xyxy, boxes_xyxy)
    area = _area(boxes_xyxy)
    share: Tensor = both / torch.minimum(area[:, None], area[None, :]).clamp(min=1e-6)
    return share


def diagonal(boxes_xyxy: Tensor) -> Tensor:
    """float32 (n,) of float32 (n, 4)."""
    length: Tensor = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).square().sum(dim=1).sqrt()
    return length


def centre_distance(a: Tensor, b: Tensor) -> Tensor:
    """float32 (n, m) between the centres of float32 (n, 4) and (m, 4)."""
    centre_a, centre_b = ((box[:, :2] + box[:, 2:]) / 2 for box in (a, b))
    distance: Tensor = (centre_a[:, None] - centre_b[None, :]).square().sum(2).sqrt()
    return distance


def covered(boxes_xyxy: Tensor, masks: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """float32 (n, m): share of each box's area that a mask covers; 0 where the box is empty.

    Boxes float32 (n, 4) in pixels of a frame of `size_hw`, masks bool (m, h, w) of that frame.
    """
    x1, y1, x2, y2 = boxes_xyxy[:, :, None].unbind(dim=1)
    down = _shared(y1, y2, masks.shape[1], size_hw[0])
    across = _shared(x1, x2, masks.shape[2], size_hw[1])
    both = torch.einsum("ny,myx,nx->nm", down, masks.float(), across)
    area = (across.sum(dim=1) * down.sum(dim=1))[:, None]
    share: Tensor = both / area.clamp(min=1e-6)
    return share


def _shared(first: Tensor, last: Tensor, cells: int, side: int) -> Tensor:
    """float32 (n, cells): length of each cell of a side that lies between two ends, (n, 1)."""
    begin = torch.arange(cells, device=first.device) * (side / cells)
    return (torch.minimum(last, begin + side / cells) - torch.maximum(first, begin)).clamp(min=0)


def repeated(boxes_xyxy: Tensor, class_ids: Tensor, valid: Tensor, most: float) -> Tensor:
    """bool (n,): rows that overlap an earlier `valid` row of their class by an IoU above `most`.

    float32 (n, 4), int (n,), bool (n,), best row first. What repeats a repetition goes too, so
    that no row waits for the verdict on another (as in YOLACT's Fast NMS, Bolya et al. 2019).
    """
    same = class_ids[:, None] == class_ids[None, :]
    close = (box_iou(boxes_xyxy, boxes_xyxy) > most) & same & valid[None, :]
    return close.tril(-1).any(dim=1)


def greedy(clash: Tensor, wanted: Tensor) -> Tensor:
    """bool (..., n): rows that greedy suppression keeps, `wanted` ones alone, best row first.

    `clash` bool (..., n, n), symmetric: of two such rows the later one goes, unless the earlier
    one went itself. One small step a row, for to know how many are left is to wait for the device.
    """
    before, kept = clash.tril(-1), wanted.clone()
    for row in range(1, wanted.shape[-1]):
        kept.select(-1, row).logical_and_(~(before.select(-2, row) & kept).any(dim=-1))
    return kept
