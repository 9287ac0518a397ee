"""Our tracker's core driven through a scripted history, whole or with one thing left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.official import Told
from benchmarks.script import Step
from stages.segmenters.mask_head import GivenMasks
from stages.segmenters.mask_head import Told as Prompt
from stages.segmenters.memory_bank import Recollection
from stages.segmenters.tracker_core import TrackerCore
from stages.segmenters.tracker_records import Pictures
from tools.phantom_clips import FRAME_HW

SLOTS = 4


class StreamedTracker:
    """Slots by name; every slot is computed on every frame, as in a step of fixed shape."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        conditioning: int,
        flaw: str | None = None,
    ) -> None:
        kept = conditioning - 1 if flaw == "cond-k" else conditioning
        self.core = TrackerCore(model, SLOTS, kept)
        if flaw is not None:
            FLAWS[flaw](self.core)
        self._told = Told()
        self._slots: dict[str, int] = {}
        self._number = 0

    def frame(self, picture: Tensor, steps: list[Step]) -> dict[str, Tensor]:
        """The objects' low-resolution logits (h, w) after this frame, by name."""
        core = self.core
        encoded = core.encode(picture[None])
        rows = torch.arange(SLOTS)
        live = torch.tensor([slot in self._slots.values() for slot in range(SLOTS)])
        shown = core.track(encoded, rows, live)
        logits = shown.masks.logits.clone()
        for step in steps:
            if step.action == "remove":
                del self._slots[step.name]
                continue
            if step.action == "add":
                free = set(range(SLOTS)) - set(self._slots.values())
                self._slots[step.name] = min(free)
                core.bank.open(torch.tensor([min(free)]))
            slot = torch.tensor([self._slots[step.name]])
            logits[slot] = self._prompt(encoded, step, slot, shown.features, logits)
        core.advance()
        self._number += 1
        return {name: logits[slot] for name, slot in self._slots.items()}

    def _prompt(
        self, encoded: Pictures, step: Step, slot: Tensor, features: Tensor, logits: Tensor
    ) -> Tensor:
        prompt = self._drawn(step)
        if step.action == "correct":
            shown = self.core.correct(encoded, slot, features[slot], logits[slot], prompt)
        else:
            shown = self.core.begin(encoded, slot, prompt)
        return shown.masks.logits

    def _drawn(self, step: Step) -> Prompt:
        size = self.core.image_size
        if step.told_by == "mask":
            mask = self._told.mask(self._number, step)[None, None].float()
            small = torch.nn.functional.interpolate(
                mask, (size, size), mode="bilinear", antialias=True, align_corners=False
            )
            return GivenMasks((small >= 0.5).float())
        scale = size / torch.tensor([FRAME_HW[1], FRAME_HW[0]])
        if step.told_by == "box":
            corners = self._told.box(self._number, step).view(1, 2, 2)
            return self.core.head.tokens(corners * scale, torch.tensor([[2, 3]]).int())
        click = self._told.click(self._number, step)[None]
        return self.core.head.tokens(click * scale, torch.tensor([[1]]).int())


def _hide_recent(core: TrackerCore, spatial: int, pointers: int) -> None:
    """Make what is older than so many frames invisible."""
    whole, shape = core.bank.recall, core.bank.shape
    cond, per_pointer = shape.conditioning, shape.model_dim // shape.memory_dim

    def recall(rows: Tensor, now: Tensor, held: int | None = None) -> Recollection:
        memory = whole(rows, now)
        all_of = torch.ones(len(rows), cond, dtype=torch.bool)
        near = torch.cat((all_of, memory.spatial_age <= spatial), 1)
        young = torch.cat((all_of, memory.pointer_age[:, cond:] <= pointers), 1)
        kept = torch.cat(
            (near.repeat_interleave(shape.tokens, 1), young.repeat_interleave(per_pointer, 1)), 1
        )
        return replace(memory, visible=memory.visible & kept)

    core.bank.recall = recall  # type: ignore[method-assign]


def _keep_grey(core: TrackerCore) -> None:
    writer = core._writer
    whole = writer.encode
    writer.encode = lambda looked, masks, presence, prompted: whole(  # type: ignore[method-assign]
        looked, masks, presence, False
    )


def _normalise(core: TrackerCore) -> None:
    core._reader._times._normaliser += 1


FLAWS: Final[dict[str, Callable[[TrackerCore], None]]] = {
    "pointers7": lambda core: _hide_recent(core, core.bank.shape.recent, 7),
    "memory5": lambda core: _hide_recent(core, 5, core.bank.shape.pointers),
    "no-binarise": _keep_grey,
    "cond-k": lambda core: None,
    "normaliser": _normalise,
}
"""What can be left out; each must break parity."""
