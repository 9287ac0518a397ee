"""The N object slots on the device: who lives where, and what was last seen of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from stages.records import EMPTY_SLOT
from stages.segmenters.mask_head import NO_MASK, Masks

NO_CLASS: Final = -1


class SlotTable:
    """Columns of N + 1 rows; the last row is scratch, written where there is nowhere to write."""

    def __init__(self, slots: int, side: int, device: torch.device) -> None:
        """`slots` N, `side` of the low-resolution logits."""
        self.slots = slots
        rows = slots + 1

        def column(dtype: torch.dtype, *tail: int) -> Tensor:
            return torch.zeros(rows, *tail, dtype=dtype, device=device)

        self.live = column(torch.bool)
        """bool (N + 1,), scratch never."""
        self.object_ids = column(torch.int64)
        self.class_ids = column(torch.int32)
        self.scores = column(torch.float32)
        """Of the last detection that began, matched or found it; 1 for a prompt."""
        self.missing = column(torch.int32)
        """Frames in a row without presence."""
        self.unseen = column(torch.int32)
        """Key frames in a row with a mask and no detection; -1: prompted, needs none."""
        self.settled = column(torch.int32)
        """Key frames since the object came into sight, or was brought to another place."""
        self.age = column(torch.int32)
        """Frames since the mask was computed."""
        self.logits = column(torch.float32, side, side)
        self.quality = column(torch.float32)
        self.presence = column(torch.float32)
        self.boxes_xyxy = column(torch.float32, 4)
        """Of the last mask that was there, frame pixels."""
        self.told_xyxy = column(torch.float32, 4)
        """Box of the last detection behind the slot, frame pixels; zeros where there was none."""
        self.extent = column(torch.float32)
        """Diagonal of the largest such box, frame pixels."""
        self.next_id = torch.zeros((), dtype=torch.int64, device=device)
        self.refused = torch.zeros((), dtype=torch.int64, device=device)
        """New objects that found no slot, since the epoch began."""
        self.clear()

    @property
    def tensors(self) -> Iterator[Tensor]:
        """Everything that is held."""
        yield from (
            self.live, self.object_ids, self.class_ids, self.scores, self.missing, self.unseen,
            self.age, self.logits, self.quality, self.presence, self.boxes_xyxy, self.told_xyxy,
            self.extent, self.settled, self.next_id, self.refused,
        )  # fmt: skip

    @staticmethod
    def nbytes(slots: int, side: int) -> int:
        """Exact size in bytes: (N + 1) x (4 side^2 + 77) + 16."""
        numbers = 1 + 8 + 9 * 4 + 2 * 4 * 4  # live, id, nine of four bytes, two boxes
        return (slots + 1) * (numbers + 4 * side**2) + 16

    def clear(self) -> None:
        """All slots empty, ids from 0."""
        for tensor in self.tensors:
            tensor.zero_()
        self.object_ids.fill_(EMPTY_SLOT)
        self.class_ids.fill_(NO_CLASS)
        self.logits.fill_(NO_MASK)

    def live_first(self, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` slots, those that live before the others: rows int64, live bool."""
        order = self.live[: self.slots].byte().sort(descending=True, stable=True).indices
        rows = order[:count]
        return rows, self.live.index_select(0, rows)

    def write(self, rows: Tensor, masks: Masks, boxes_xyxy: Tensor) -> None:
        """Keep new masks of the slots `rows`, int64 (b,); a box stays where the mask is empty."""
        self.logits.index_copy_(0, rows, masks.logits)
        self.quality.index_copy_(0, rows, masks.quality)
        self.presence.index_copy_(0, rows, masks.presence)
        there = boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]
        kept = self.boxes_xyxy.index_select(0, rows)
        boxes = torch.where(there.all(1, keepdim=True), boxes_xyxy, kept)
        self.boxes_xyxy.index_copy_(0, rows, boxes)
        self.age.index_fill_(0, rows, 0)

    def free_slot(self) -> Tensor:
        """int64 (1,): the first empty slot, scratch where there is none."""
        taken = self.live[: self.slots].byte()
        first = taken.argmin(dim=0, keepdim=True)
        full = self.live[: self.slots].all()
        return torch.where(full, self.slots, first)

    def slot_of(self, object_id: Tensor) -> Tensor:
        """int64 (1,): the live slot of an id, int64 (1,); scratch where there is none."""
        found = (self.object_ids[: self.slots] == object_id) & self.live[: self.slots]
        first = found.byte().argmax(dim=0, keepdim=True)
        return torch.where(found.any(), first, self.slots)

    def move_in(
        self, row: Tensor, wanted: Tensor, class_id: Tensor, score: Tensor, unseen: int
    ) -> Tensor:
        """A new object takes slot `row`, int64 (1,), of `free_slot`.

        One that is `wanted`, bool (1,), and gets scratch is refused and counted. `class_id` int32
        (1,), `score` float32 (1,). Returns its id, int64 (1,), EMPTY_SLOT where it got none.
        """
        granted = wanted & (row < self.slots)
        row = torch.where(granted, row, self.slots)
        object_id = torch.where(granted, self.next_id, EMPTY_SLOT)
        self.next_id += granted.sum()
        self.refused += (wanted & ~granted).sum()
        self.live.index_copy_(0, row, granted)
        self.object_ids.index_copy_(0, row, object_id)
        self.class_ids.index_copy_(0, row, class_id)
        self.scores.index_copy_(0, row, score)
        self.missing.index_fill_(0, row, 0)
        self.told_xyxy.index_fill_(0, row, 0)
        self.extent.index_fill_(0, row, 0)
        self.settled.index_fill_(0, row, 0)
        self.unseen.index_fill_(0, row, unseen)
        return object_id

    def hide(self, hidden: Tensor) -> None:
        """Take the masks of objects out of sight, bool (N + 1,): no mask, no presence."""
        self.logits.masked_fill_(hidden[:, None, None], NO_MASK)
        self.presence.copy_(torch.where(hidden, -self.presence.abs(), self.presence))

    def move_out(self, gone: Tensor) -> None:
        """Empty the slots where `gone`, bool (N + 1,)."""
        self.live &= ~gone
        self.object_ids.masked_fill_(gone, EMPTY_SLOT)
        self.class_ids.masked_fill_(gone, NO_CLASS)
        self.logits.masked_fill_(gone[:, None, None], NO_MASK)
        self.presence.masked_fill_(gone, 0)
        self.quality.masked_fill_(gone, 0)
        self.scores.masked_fill_(gone, 0)
