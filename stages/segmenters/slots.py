"""Detections that are given one of a fixed number of slots, without asking how many there are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stages.records import Detections


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """R rows of detections; those not `valid` are padding."""

    boxes_xyxy: Tensor
    """float32 (R, 4), frame pixels."""
    scores: Tensor
    """float32 (R,)."""
    class_ids: Tensor
    """int32 (R,)."""
    valid: Tensor
    """bool (R,)."""

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> Candidates:
        """Nothing but padding."""
        values = torch.zeros(rows, device=device)
        return cls(torch.zeros(rows, 4, device=device), values, values.int(), values.bool())

    def looked_for(self, classes: Tensor | None) -> Candidates:
        """Those of other classes are not `valid`; see `Detections.classes`."""
        if classes is None:
            return self
        return replace(self, valid=self.valid & ~unwanted(self.class_ids, classes))


def place_detections(detections: Detections, slots: int) -> tuple[Candidates, Tensor]:
    """The first valid detections, at most `slots` rows, and how many valid ones found no room.

    Rows keep their order (best first). The count is int64 () on the device.
    """
    valid = detections.valid
    rows = (detections.boxes_xyxy, detections.scores, detections.class_ids, valid)
    if valid.shape[0] > slots:
        order = valid.byte().sort(descending=True, stable=True).indices[:slots]
        boxes, scores, class_ids, kept = (row.index_select(0, order) for row in rows)
        return Candidates(boxes, scores, class_ids, kept), valid.sum() - kept.sum()
    return Candidates(*rows), torch.zeros((), dtype=torch.int64, device=valid.device)


def unwanted(class_ids: Tensor, classes: Tensor) -> Tensor:
    """bool, a value for each of `class_ids`: of a class that nobody looks for; `classes` as in
    `Detections`."""
    last = classes.shape[0] - 1
    known = (class_ids >= 0) & (class_ids <= last)
    return known & ~classes.index_select(0, class_ids.clamp(0, last))
