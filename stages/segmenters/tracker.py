"""Slots, memory and lifecycle put together: one frame of the stream, all on the device."""

from __future__ import annotations

from itertools import product
from typing import Final

import torch
from torch import Tensor

from stages.boxes import box_iou
from stages.records import EMPTY_SLOT, Detections, Frame, Tracks
from stages.segmenters.execution import Execution, made_ready, room_for
from stages.segmenters.lifecycle import Lifecycle
from stages.segmenters.live_prompts import Prompt
from stages.segmenters.mask_head import NO_MASK
from stages.segmenters.model_pixels import TightBoxes, in_model, upload
from stages.segmenters.occupancy import Permit
from stages.segmenters.prompts import BOX_CORNERS
from stages.segmenters.slot_table import SlotTable
from stages.segmenters.slots import unwanted
from stages.segmenters.tracker_core import TrackerCore
from stages.segmenters.tracker_records import Pictures, Shown

TICKETS: Final = 16
"""Answers to prompts that a header carries; more than are applied before a header is read."""
APPLIED, UNKNOWN_OBJECT, NO_SLOT = 1, 2, 3
_SAME_OBJECT: Final = 0.5
"""Box IoU from which two detections that wait are one object."""
_BY_PROMPT: Final = -1
"""`SlotTable.unseen` of objects that people asked for, or put right."""


class Tracker:
    """One stream. The verbs of a frame, in order: `follow`, `prompt`, `grow`, `finish`."""

    def __init__(self, core: TrackerCore, lifecycle: Lifecycle, execution: Execution) -> None:
        """Raises `ConfigError` where the device cannot do `execution`."""
        self.core, self._lifecycle = core, lifecycle
        self.units = made_ready(core, execution)
        slots, device = core.bank.shape.slots, core.device
        self.table = SlotTable(slots, core.image_size // 4, device)
        self._corners = torch.tensor([BOX_CORNERS], dtype=torch.int32, device=device)
        self._answers = torch.zeros(TICKETS, 3, dtype=torch.int64, device=device)
        self._tight = TightBoxes(core.image_size, device)
        self._rows_of = sizes(slots, execution)
        self._held_of = sizes(core.bank.shape.conditioning, execution)[1:]
        self._execution = execution
        self._followed: tuple[Tensor, Tensor] | None = None

    @torch.inference_mode()
    def run_all(self, frame: Frame) -> None:
        """Run every unit once, so that nothing lazy is left for the first frame.

        Compiled units are run for every size that they are made for.
        """
        self.clear()
        core, size = self.core, float(self.core.image_size)
        encoded = self.units.encode(core.network.transform(frame.rgb))
        self.prompt(encoded, frame, Prompt("add", box=(0.0, 0.0, size / 2, size / 2)), 1)
        skipped = -1 if self._execution == "eager" else 0
        made = list(product(self._rows_of[skipped:], self._held_of[skipped:]))
        with room_for(len(made), self._execution):
            for rows, held in made:
                self.follow(encoded, frame, rows, held)
        self.clear()

    def clear(self, ids_go_on: bool = False) -> None:
        """Nobody is tracked; ids and counts start anew with a new epoch, else they go on."""
        counts = (self.table.next_id, self.table.refused)
        kept = [count.clone() for count in counts]
        self.core.clear()
        self.table.clear()
        for count, value in zip(counts, kept if ids_go_on else (), strict=False):
            count.copy_(value)
        self._lifecycle.clear()
        self._answers.zero_()

    def forget(self, classes: Tensor | None) -> None:
        """End the objects of classes that nobody looks for; see `Detections.classes`."""
        if classes is not None:
            table = self.table
            table.move_out(table.live & unwanted(table.class_ids, classes))

    def follow(self, encoded: Pictures, frame: Frame, live: int, held: int) -> None:
        """Track every live object.

        `live`, `held`: at least as many as there are, and as conditioning frames that one holds.
        """
        self.table.age += 1
        count = next(size for size in self._rows_of if size >= live)
        self._followed = None
        if count:
            held = min(max(held, 1), self._held_of[-1])
            cells = next(size for size in self._held_of if size >= held)
            rows, alive = self.table.live_first(count)
            shown = self.units.track(encoded, rows, alive, cells)
            self._followed = rows, shown.features
            self._keep(rows, shown, frame)

    def prompt(self, encoded: Pictures, frame: Frame, prompt: Prompt, ticket: int) -> None:
        """Apply one checked prompt; the answer is written under `ticket`."""
        table, one = self.table, self._corners.new_ones(1)
        if prompt.action == "reset":
            table.move_out(table.live.clone())
            self._answer(ticket, one.bool(), one.long() * EMPTY_SLOT, UNKNOWN_OBJECT)
            return
        if prompt.action == "add":
            row = table.free_slot()
            self.core.bank.open(row)
            self._draw(encoded, frame, prompt, row)  # nobody moves in where this fails
            class_id = torch.full_like(one, prompt.class_id)
            object_id = table.move_in(row, one.bool(), class_id, one.float(), _BY_PROMPT)
            refusal = NO_SLOT
        else:
            object_id = torch.full((1,), prompt.object_id or 0, device=self.core.device)
            row = table.slot_of(object_id)
            if prompt.action == "correct":
                row = self._if_followed(row)
            refusal = UNKNOWN_OBJECT
        if prompt.action == "remove":
            gone = torch.zeros_like(table.live).index_fill_(0, row, True)
            table.move_out(gone & table.live)
        elif prompt.action != "add":
            table.unseen.index_fill_(0, row, _BY_PROMPT)
            self._draw(encoded, frame, prompt, row)
        self._answer(ticket, row < table.slots, object_id, refusal)

    def grow(self, encoded: Pictures, detections: Detections, permit: Permit) -> None:
        """Let a key frame's detections begin and refresh objects, as many as permitted."""
        most = detections.valid.shape[0]
        if not most:
            return
        wishes = self._lifecycle.associate(detections, self.table)
        looks, births = min(permit.looks, most), min(permit.births, most)
        if not looks + births:
            return
        frame = detections.frame
        new = wishes.slots == self.table.slots
        known = torch.where(wishes.ready & ~new, wishes.urgency, -1.0).topk(looks)
        fresh = torch.where(wishes.ready & new, detections.scores, -1.0).topk(births)
        order = torch.cat((known.indices, fresh.indices))
        ready = torch.cat((known.values, fresh.values)) >= 0
        boxes = detections.boxes_xyxy.index_select(0, order)
        rival = (box_iou(boxes, boxes) > _SAME_OBJECT) & ready[None, :]
        ready &= ~rival.tril(-1).any(dim=1)
        wanted = wishes.slots.index_select(0, known.indices)
        again = torch.where(ready[:looks], wanted, self.table.slots)
        begun = self._begin(detections, fresh.indices, ready[looks:])
        rows = torch.cat((again, begun))
        corners = in_model(boxes.view(-1, 2, 2), frame.size_hw, self.core.image_size)
        tokens = self.core.head.tokens(corners, self._corners.expand(looks + births, -1))
        shown = self.units.prompt.ask(encoded, rows, tokens)
        rows = self._lifecycle.admit(self.table, rows, shown.masks.logits, looks)
        unseen = self.table.unseen.index_select(0, rows).clamp(max=0)  # a prompt's -1 stays
        self.table.unseen.index_copy_(0, rows, unseen)
        self.table.told_xyxy.index_copy_(0, rows, boxes)
        self.table.scores.index_copy_(0, rows, detections.scores.index_select(0, order))
        self.table.missing.index_fill_(0, rows, 0)
        back = wishes.again.index_select(0, known.indices)
        come = torch.where(back, rows[:looks], self.table.slots)
        self.table.settled.index_fill_(0, come, 0)
        self.units.prompt.condition(encoded, rows, shown)
        self._keep(rows, shown, frame)

    def finish(self, detections: Detections) -> Tracks:
        """End what is gone, and hand on a copy of the slots."""
        table, self._followed = self.table, None
        self._lifecycle.end(table, table.live & (table.age == 0))
        self.core.advance()
        return self._tracks(detections)

    def stay(self, detections: Detections) -> Tracks:
        """In place of all verbs on a frame that is not looked at: the masks grow older."""
        self.table.age += 1
        return self._tracks(detections)

    def _tracks(self, detections: Detections) -> Tracks:
        table, n = self.table, self.table.slots
        feedback = torch.cat(
            (
                self._lifecycle.waiting.long(),
                table.refused[None],
                self.core.bank.most_held(table.live)[None],
                self._answers.flatten(),
            )
        )
        return Tracks(
            detections,
            logits=torch.where(table.live[:n, None, None], table.logits[:n], NO_MASK),
            object_ids=table.object_ids[:n].clone(),
            presence=table.presence[:n].clone(),
            quality=table.quality[:n].clone(),
            age_frames=table.age[:n].clone(),
            scores=table.scores[:n].clone(),
            class_ids=table.class_ids[:n].clone(),
            valid=table.live[:n].clone(),
            feedback=feedback,
        )

    def _begin(self, detections: Detections, order: Tensor, ready: Tensor) -> Tensor:
        """int64 (m,): the slots of new objects; scratch for a detection that gets none."""
        table = self.table
        rows = [order[:0]]
        for place in range(order.shape[0]):
            at, new = order[place : place + 1], ready[place : place + 1]
            free = torch.where(new, table.free_slot(), table.slots)
            class_id = detections.class_ids.index_select(0, at)
            score = detections.scores.index_select(0, at)
            table.move_in(free, new, class_id, score, 0)
            self.core.bank.open(free)
            rows.append(free)
        return torch.cat(rows)

    def _draw(self, encoded: Pictures, frame: Frame, prompt: Prompt, row: Tensor) -> None:
        told = upload(prompt, frame.size_hw, self.core)
        if prompt.action != "correct" or self._followed is None:  # None: `row` is scratch
            self._keep(row, self.units.prompt.begin(encoded, row, told), frame)
            return
        rows, features = self._followed
        place = (rows == row).byte().argmax(dim=0, keepdim=True)
        features = features.index_select(0, place)
        before = self.table.logits.index_select(0, row)
        self._keep(row, self.units.prompt.correct(encoded, row, features, before, told), frame)

    def _if_followed(self, row: Tensor) -> Tensor:
        """`row`, int64 (1,), or scratch: who has just been added on this frame has no features of
        its own to correct."""
        if self._followed is None:
            return torch.full_like(row, self.table.slots)
        return torch.where((self._followed[0] == row).any(), row, self.table.slots)

    def _keep(self, rows: Tensor, shown: Shown, frame: Frame) -> None:
        self.table.write(rows, shown.masks, self._tight(shown.enlarged, frame.size_hw))

    def _answer(self, ticket: int, applied: Tensor, object_id: Tensor, refusal: int) -> None:
        row = self._answers[ticket % TICKETS]
        row[0].fill_(ticket)
        row[1:2].copy_(torch.where(applied, APPLIED, refusal))
        row[2:3].copy_(object_id)


def sizes(most: int, execution: Execution) -> tuple[int, ...]:
    """Numbers from 0 to `most` that a step is made for.

    Any where units run as they stand; the powers of two and `most` where each is compiled.
    """
    if execution == "eager":
        return tuple(range(most + 1))
    return (0, *(2**power for power in range(most.bit_length()) if 2**power < most), most)
