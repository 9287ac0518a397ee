"""SAM2 over a whole clip, step by step: prompts, and walks in either direction, on the device."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.clip.frames import UploadedFrames
from stages.clip.objects import ClipObject, Pending, Points
from stages.clip.outputs import RECENT, Keep, Retention, output_of
from stages.clip.prompts import uploaded
from stages.clip.walk import Walk
from stages.errors import PromptError
from stages.exits import named_exit
from stages.segmenters.mask_head import GivenMasks, Told
from stages.segmenters.memory_bank import Direction
from stages.segmenters.model_pixels import given_mask
from stages.segmenters.tracker_core import TrackerCore
from stages.segmenters.tracker_records import Pictures

_ENCODED: Final = 3
"""Frames whose features are kept, for prompts on the same frame."""
_ENDS: Final = 6
"""Walks whose first and last frames are anchors, see Note [What is held, and why]."""


class ClipTracker:
    """The device's side of a clip: a `TrackerCore` whose bank is filled anew for every walk.

    A walk is one call of `propagate`. All that lasts longer is in the objects.
    """

    def __init__(self, core: TrackerCore, frames: UploadedFrames, keep: Keep) -> None:
        self.core = core
        self._frames = frames
        self._encoded: OrderedDict[int, Pictures] = OrderedDict()
        self._retention = Retention(keep, core.bank.shape)
        self._ends: deque[int] = deque(maxlen=2 * _ENDS)
        self._newest: deque[int] = deque()
        """Frames of the last walk that are kept whole."""
        self._held = 1
        self._all = torch.zeros(1, dtype=torch.int64, device=core.device)
        self._live = torch.ones(1, dtype=torch.bool, device=core.device)

    def clear(self) -> None:
        """Nothing has been tracked."""
        self._ends.clear()
        self._newest.clear()

    @torch.inference_mode()
    def add_points(
        self, target: ClipObject, frame: int, points: Points, conditioning: bool
    ) -> None:
        """Prompt an object by all points of a frame; `conditioning`: whether the frame is to be a
        conditioning frame even where it was tracked."""
        tokens = self.core.head.tokens(points.coords, points.labels)
        self._add(target, frame, tokens, conditioning)
        target.points[frame] = points

    @torch.inference_mode()
    def add_mask(
        self, target: ClipObject, frame: int, mask: NDArray[np.bool_], conditioning: bool
    ) -> None:
        """The same by bool (H, W); raises `PromptError` for one too small to be seen."""
        side = self.core.image_size
        told = given_mask(uploaded(mask.view(np.uint8), self.core.device), side)
        with named_exit("prompt"):
            seen = bool(told.shares.any())
        if not seen:
            raise PromptError(f"mask: nothing is left of it at the model's {side}x{side} pixels")
        self._add(target, frame, told, conditioning)
        target.points.pop(frame, None)

    def _add(self, target: ClipObject, frame: int, told: Told, conditioning: bool) -> None:
        core, encoded, one = self.core, self._encode(frame), self._all[:1]
        direction = target.corrects(frame, core.bank.shape)
        shown = target.shown(frame)
        before = None if shown is None or shown.masks is None else shown.masks.logits
        if direction is None or before is None or isinstance(told, GivenMasks):
            kept = frame in target.pending or frame in target.conditioning
            drawn = core.ask(encoded, one, told, before if kept else None)
        else:
            self._fill([target], frame, direction)
            features = core.recollect(encoded, one, self._held)
            drawn = core.redraw(encoded, one, features, before, told)
        memory = core.memory_of(encoded, one, drawn)
        output = output_of(drawn.masks, memory, 0)
        target.pending[frame] = Pending(output, conditioning or direction is None)
        target.prompted.add(frame)

    @torch.inference_mode()
    def begin(self, objects: Sequence[ClipObject], walk: Walk) -> dict[int, Tensor]:
        """Remember what is needed at the start of a walk.

        Returns, for a frame that is a conditioning frame of some, the rows of the others: int64.
        """
        if self._newest:  # where the last walk ended
            self._ends.append(self._newest[-1])
        self._ends.append(walk.start)
        conditioning = {frame for target in objects for frame in target.conditioning}
        self._retention.anchors = frozenset(conditioning.union(self._ends))
        for target in objects:
            self._retention.trim(target.tracked, list(target.tracked))
        self._newest.clear()
        self._fill(objects, walk.start, walk.direction)
        device, rows = self.core.device, {}
        for frame in conditioning.intersection(walk.frames):
            free = [row for row, o in enumerate(objects) if frame not in o.conditioning]
            rows[frame] = uploaded(np.array(free, np.int64), device)
        return rows

    @torch.inference_mode()
    def step(
        self, objects: Sequence[ClipObject], frame: int, direction: Direction, some: Tensor | None
    ) -> None:
        """Track the objects on the next frame of the walk; `some`: only those rows."""
        rows = self._all if some is None else some
        if rows.shape[0]:
            encoded = self._encode(frame)
            shown = self.core.track(encoded, rows, self._live[: rows.shape[0]], self._held)
            free = [target for target in objects if frame not in target.conditioning]
            for row, target in enumerate(free):
                target.tracked[frame] = output_of(shown.masks, shown.memory, row)
        self.core.advance()
        for target in objects:
            target.walked.note(frame, direction)
        self._let_go(objects, frame)

    def _let_go(self, objects: Sequence[ClipObject], frame: int) -> None:
        self._newest.append(frame)
        if len(self._newest) > RECENT:
            oldest = self._newest.popleft()
            for target in objects:
                self._retention.trim(target.tracked, (oldest,))

    def _fill(self, objects: Sequence[ClipObject], start: int, direction: Direction) -> None:
        """Have the bank hold what objects remember where a walk begins; rows are in their order."""
        core, count = self.core, len(objects)
        self._held = max(1, *(len(target.conditioning) for target in objects))
        core.resize(count, max(2, self._held))
        bank, device = core.bank, core.device
        bank.direction = direction
        core.clock.fill_(start)
        self._all = torch.arange(count, device=device)
        self._live = torch.ones(count, dtype=torch.bool, device=device)
        reach = max(bank.shape.recent, bank.shape.pointers)
        for row, target in enumerate(objects):
            here = self._all[row : row + 1]
            for frame, output in target.conditioning.items():
                if output.memory is not None:  # always: nothing lets go of it
                    bank.hold(here, torch.full_like(here, frame), output.memory, output.pointer)
            for back in range(reach, 0, -1):
                frame = start - back * direction
                if frame in target.tracked:
                    past = target.tracked[frame]
                    at = torch.full_like(here, frame)
                    bank.restore(here, at, past.memory, past.pointer)

    def _encode(self, frame: int) -> Pictures:
        found = self._encoded.pop(frame, None)
        if found is None:
            pixels = self.core.network.transform(self._frames.read(frame))
            found = self.core.encode(pixels)
        self._encoded[frame] = found
        if len(self._encoded) > _ENCODED:
            self._encoded.popitem(last=False)
        return found
