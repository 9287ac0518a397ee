"""Who is tracked: detections become objects, objects end, all decided on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from stages.base import Section
from stages.boxes import box_iou, diagonal
from stages.records import Detections
from stages.segmenters.association import crowded, explained, find_again, match, overlaps
from stages.segmenters.duplicates import duplicates, hosts, mask_iou
from stages.segmenters.slot_table import SlotTable


class LifecycleConfig(Section):
    """When an object begins, is looked at afresh, and ends."""

    confirm: int = Field(default=2, ge=1, le=30)
    """Key frames in a row on which a detection must be there before it begins an object, or
    brings a lost one back."""
    least: float = Field(default=0.25, ge=0, le=1)
    """Score below which a detection tells of known objects in sight only: it begins none and
    brings none back (as in ByteTrack, Zhang et al. 2022)."""
    patience: int = Field(default=3, ge=0, le=30)
    """Key frames more that a detection must be there before it begins an object close to one of
    its class, which may be the same one; even a sure one."""
    sure: float = Field(default=0.75, ge=0, le=1)
    """Score from which a detection begins an object at once; 1: each must be confirmed."""
    births: int = Field(default=4, ge=1, le=16)
    """Most detections that may begin an object on one key frame; as many may refresh one."""
    overlap: float = Field(default=0.3, gt=0, lt=1)
    """Box IoU from which a detection and a mask are the same object."""
    refresh_below: float = Field(default=0.9, ge=0, le=1)
    """A matched detection whose box IoU with the mask is lower prompts the mask anew, unless
    somebody has prompted it; 0: never."""
    reach: float = Field(default=1.0, ge=0)
    """How far from where it was last seen a lost object may be found again, in diagonals of the
    largest box that it was detected with: who goes into a shadow, or comes out, shows little."""
    astray: int = Field(default=2, ge=1)
    """Key frames in a row without a detection from which an object whose mask is elsewhere may be
    found again too."""
    max_missing_frames: int = Field(default=45, ge=1)
    """Frames in a row without presence after which an object ends."""
    max_unseen_key_frames: int = Field(default=15, ge=1)
    """Key frames in a row on which a detected object had a mask, but no detection, after which it
    ends: the mask has gone astray."""
    duplicate: float = Field(default=0.7, gt=0, le=1)
    """Mask IoU from which one of two objects counts as out of sight; see `duplicates`."""

    @property
    def unheard(self) -> int:
        """Births that may be ready on a key frame without having waited on the one before."""
        if self.confirm == 1:
            return self.births
        return int(self.sure < 1)


@dataclass(frozen=True, slots=True, eq=False)
class Wishes:
    """What the K detections of a key frame want."""

    slots: Tensor
    """int64 (K,): the object to refresh or to find again; N for a new one."""
    ready: Tensor
    """bool (K,): to be granted now."""
    again: Tensor
    """bool (K,): the object is out of sight, or its mask went astray, and is found again here."""
    urgency: Tensor
    """float32 (K,), 0 to 1: how far the mask is from a detection of a known object."""


class Lifecycle:
    """Association, births and deaths; state is one row for each detection of the last key frame."""

    def __init__(self, config: LifecycleConfig, device: torch.device) -> None:
        self._config = config
        self._boxes = torch.zeros(0, 4, device=device)
        self._hits = torch.zeros(0, dtype=torch.int32, device=device)
        self.waiting = torch.zeros(2, dtype=torch.int32, device=device)
        """int32 (2,): detections that will be ready on the next key frame if they stay: those that
        begin an object, and those that refresh one."""

    def clear(self) -> None:
        """Nobody waits."""
        self._hits = torch.zeros_like(self._hits)
        self.waiting.zero_()

    def associate(self, detections: Detections, table: SlotTable) -> Wishes:
        """Match detections with masks; matched slots take the detection's score."""
        config, n = self._config, table.slots
        near = overlaps(detections, table)
        matched = match(near, table, detections.scores, config.overlap)
        self._tell(table, matched, detections)
        # What somebody prompted is theirs to correct.
        ours = table.unseen[:n] >= 0
        drifted = (matched & (near.shown < config.refresh_below) & ours).any(dim=1)
        astray = ours & ~matched.any(dim=0) & (table.unseen[:n] >= config.astray)
        free = (detections.scores >= config.least) & ~explained(
            near, matched, detections, config.overlap
        )
        lost = near.same & (~near.seen | astray)
        found = find_again(detections, table, lost & free[:, None], config.reach)
        again = found.any(dim=1)
        new = detections.valid & free & ~again
        # To look again at a known object risks nothing; who somebody is must be confirmed.
        now, soon = self._confirmed(detections, again, new, crowded(near))
        self.waiting.copy_(torch.stack((soon & new, drifted | (soon & again))).sum(dim=1))
        table.settled += 1
        slot = torch.where(again, found.byte().argmax(dim=1), matched.byte().argmax(dim=1))
        urgency = 1 - torch.where(matched, near.shown, 0.0).amax(dim=1)
        return Wishes(torch.where(new, n, slot), drifted | now, again, urgency)

    def admit(self, table: SlotTable, rows: Tensor, logits: Tensor, known: int) -> Tensor:
        """int64 (b,): `rows`, but scratch where a prompt showed what another object shows already.

        `rows` int64 (b,), the first `known` of them with a past, the others new: those are ended.
        `logits` float32 (b, h, w), what each prompt gave.
        """
        host = hosts(table, self._config.astray)
        others = rows[:, None] != torch.arange(table.slots + 1, device=rows.device)[None, :]
        there = (table.logits > 0) & host[:, None, None]
        taken = mask_iou(logits > 0, there) >= self._config.duplicate
        intrudes = (taken & others).any(dim=1)
        gone = torch.zeros_like(table.live).index_copy_(0, rows[known:], intrudes[known:])
        table.move_out(gone & table.live)
        return torch.where(intrudes, table.slots, rows)

    def end(self, table: SlotTable, tracked: Tensor) -> None:
        """Hide what lies on another object, perhaps because that one passed in front, and empty
        the slots of what is gone; `tracked` bool (N + 1,): with a new mask."""
        config = self._config
        table.hide(duplicates(table, config.duplicate, config.astray))
        absent = tracked & (table.presence <= 0)
        table.settled.masked_fill_(tracked & (table.missing > 0), 0)
        table.missing.copy_(
            torch.where(absent, table.missing + 1, torch.where(tracked, 0, table.missing))
        )
        gone = table.missing > config.max_missing_frames
        gone |= table.unseen > config.max_unseen_key_frames
        table.move_out(gone & table.live)

    def _confirmed(
        self, detections: Detections, again: Tensor, new: Tensor, close: Tensor
    ) -> tuple[Tensor, Tensor]:
        """bool (K,) each: detections that have been there for long enough, to find an object
        `again` or to begin a `new` one, and those that will have been on the next key frame."""
        config = self._config
        hits = self._count(detections.boxes_xyxy, again | new)
        needed = config.confirm + config.patience * (close & new)
        sure = (detections.scores >= config.sure) & (config.sure < 1) & new & ~close
        now = (again | new) & ((hits >= needed) | sure)
        return now, (again | new) & (hits >= needed - 1)

    def _tell(self, table: SlotTable, matched: Tensor, detections: Detections) -> None:
        n = table.slots
        seen, best = matched.any(dim=0), matched.byte().argmax(dim=0)
        score = detections.scores.index_select(0, best)
        table.scores[:n].copy_(torch.where(seen, score, table.scores[:n]))
        box = detections.boxes_xyxy.index_select(0, best)
        table.told_xyxy[:n].copy_(torch.where(seen[:, None], box, table.told_xyxy[:n]))
        table.extent.copy_(torch.maximum(table.extent, diagonal(table.told_xyxy)))
        counted = table.unseen[:n] >= 0
        unseen = torch.where(seen, 0, table.unseen[:n] + (table.missing[:n] == 0))
        table.unseen[:n].copy_(torch.where(counted, unseen, table.unseen[:n]))

    def _count(self, boxes: Tensor, wants: Tensor) -> Tensor:
        """int32 (K,): key frames in a row on which each detection wanted something."""
        if self._boxes.shape != boxes.shape:
            self._boxes = torch.zeros_like(boxes)
            self._hits = torch.zeros(boxes.shape[0], dtype=torch.int32, device=boxes.device)
        before = (box_iou(boxes, self._boxes) >= self._config.overlap) * self._hits[None, :]
        hits = torch.where(wants, before.amax(dim=1) + 1, 0).int()
        self._boxes, self._hits = boxes, hits
        return hits
