"""Boxes on the device."""

from __future__ import annotations

import torch
from torch import Tensor


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """float32 (n, m) of float32 (n, 4) and (m, 4), x1 y1 x2 y2; 0 where a box is empty."""
    size = torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(
        a[:, None, :2], b[None, :, :2]
    )
    both = size.clamp(min=0).prod(dim=2)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).clamp(min=0).prod(dim=1) for box in (a, b))
    iou: Tensor = both / (area_a[:, None] + area_b[None, :] - both).clamp(min=1e-6)
    return iou


def repeated(boxes_xyxy: Tensor, class_ids: Tensor, valid: Tensor, most: float) -> Tensor:
    """bool (n,): rows that overlap an earlier `valid` row of their class by an IoU above `most`.

    float32 (n, 4), int (n,), bool (n,), best row first. What repeats a repetition goes too, so
    that no row waits for the verdict on another (as in YOLACT's Fast NMS, Bolya et al. 2019).
    """
    same = class_ids[:, None] == class_ids[None, :]
    close = (box_iou(boxes_xyxy, boxes_xyxy) > most) & same & valid[None, :]
    return close.tril(-1).any(dim=1)
