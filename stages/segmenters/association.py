"""Which detection is which object, decided on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from stages.boxes import box_iou, centre_distance, covered, diagonal, smaller_covered
from stages.records import Detections
from stages.segmenters.duplicates import newcomers
from stages.segmenters.slot_table import SlotTable

_ROUNDS: Final = 3
_REPEATED: Final = 0.6
"""Box IoU from which a detection repeats another one's object."""
_INSIDE: Final = 0.5
"""Share of a detection's box on the mask of another one's object from which it repeats that one:
a part of it was detected too."""
_CONTAINED: Final = 0.8
"""Share of the smaller box in the larger one from which two detections are one object: what a
shadow parts is detected in part and as a whole."""
_GUEST: Final = 0.7
"""Weight of a newcomer's claim to a detection: whoever was there is followed on, even where its
mask slipped off for a moment and the newcomer's fits."""
_BOXES_TOUCH: Final = 0.05
"""Box IoU from which a detection is close to an object."""
_ON_MASK: Final = 0.1
"""Share of a detection's box on an object's mask from which it is close to it."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """How K detections lie to the N objects; every tensor (K, N)."""

    shown: Tensor
    """float32, box IoU with the mask."""
    told: Tensor
    """float32, box IoU with the object's last detection: a mask that fails its box must not make
    its detection a second object."""
    inside: Tensor
    """float32, share of the detection's box on the mask."""
    both: Tensor
    """bool: the detection is valid, the slot live."""
    same: Tensor
    """bool: and of one class."""
    seen: Tensor
    """bool: `both`, and the object is in sight."""

    @property
    def most(self) -> Tensor:
        return torch.maximum(self.shown, self.told)


def overlaps(detections: Detections, table: SlotTable) -> Overlaps:
    """Every detection against every slot."""
    n, boxes = table.slots, detections.boxes_xyxy
    both = detections.valid[:, None] & table.live[None, :n]
    return Overlaps(
        shown=box_iou(boxes, table.boxes_xyxy[:n]),
        told=box_iou(boxes, table.told_xyxy[:n]),
        inside=covered(boxes, table.logits[:n] > 0, detections.frame.size_hw),
        both=both,
        same=both & (detections.class_ids[:, None] == table.class_ids[None, :n]),
        seen=both & (table.missing[:n] == 0),
    )


def match(near: Overlaps, table: SlotTable, scores: Tensor, least: float) -> Tensor:
    """bool (K, N): at most one detection of an object in sight and one object of a detection.

    Of one class, with an overlap of at least `least`; the surer detection has the stronger claim.
    """
    guest = torch.where(newcomers(table)[: table.slots], _GUEST, 1.0)
    known = near.same & near.seen & (near.most >= least)
    claims = near.most * guest * scores[:, None]
    return best_pairs(torch.where(known, claims, 0.0))


def explained(near: Overlaps, matched: Tensor, detections: Detections, least: float) -> Tensor:
    """bool (K,): detections that tell of nobody but an object in sight.

    They match one, or overlap one without a match of its own by `least`, or repeat one's
    detection.
    """
    own, first = matched.any(dim=0), matched.any(dim=1)
    there = near.seen & (near.most >= torch.where(own, _REPEATED, least))
    part = near.seen & near.same & own & (near.inside >= _INSIDE)
    boxes, classes = detections.boxes_xyxy, detections.class_ids
    repeats = (smaller_covered(boxes) >= _CONTAINED) & (classes[:, None] == classes[None, :])
    return first | (there | part).any(dim=1) | (repeats & first[None, :]).any(dim=1)


def crowded(near: Overlaps) -> Tensor:
    """bool (K,): detections close to an object of their class, be it in sight or not."""
    close = (near.most > _BOXES_TOUCH) | (near.inside > _ON_MASK)
    return (close & near.same).any(dim=1)


def find_again(detections: Detections, table: SlotTable, may: Tensor, reach: float) -> Tensor:
    """bool (K, N): pairs of those that `may`, bool (K, N), by falling nearness.

    Near is within `reach` times the largest extent that the object was detected with, or that of
    its mask where it never was.
    """
    n, boxes = table.slots, detections.boxes_xyxy
    extent = torch.where(table.extent > 0, table.extent, diagonal(table.boxes_xyxy))[:n]
    shown = centre_distance(boxes, table.boxes_xyxy[:n])
    told = centre_distance(boxes, table.told_xyxy[:n])
    far = torch.minimum(shown, told) / extent[None, :].clamp(min=1e-6)
    return best_pairs(torch.where(may & (far <= reach), 1 / (1 + far), 0.0))


def best_pairs(scores: Tensor) -> Tensor:
    """bool (n, m): pairs by falling score > 0, each row and column once at most.

    Found in rounds of pairs that are each other's best, a fixed number, for to know how many it
    takes is to wait for the device. What longer chains of rivals leave open stays unpaired.
    """
    rows = torch.arange(scores.shape[0], device=scores.device)[:, None]
    columns = torch.arange(scores.shape[1], device=scores.device)[None, :]
    pairs = torch.zeros_like(scores, dtype=torch.bool)
    for _ in range(_ROUNDS):
        free = ~pairs.any(dim=1)[:, None] & ~pairs.any(dim=0)[None, :]
        left = scores * free
        of_row = left.argmax(dim=1)[:, None] == columns
        of_column = left.argmax(dim=0)[None, :] == rows
        pairs |= of_row & of_column & (left > 0)
    return pairs
