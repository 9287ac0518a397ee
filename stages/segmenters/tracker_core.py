"""SAM2 as an endless stream: encode pictures, follow objects, take prompts.

Frame by frame the masks are those of the unmodified `SAM2VideoPredictor` with
`max_cond_frames_in_attn = K` up to float rounding, however long the stream. Rows are objects;
each slot belongs to one of S pictures of a step, named by `stream_of`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stages.segmenters.mask_head import GivenMasks, MaskHead, Masks, Told
from stages.segmenters.memory_attention import MemoryAttention
from stages.segmenters.memory_bank import MemoryBank
from stages.segmenters.memory_encoder import MemoryEncoder
from stages.segmenters.sam2_network import Sam2Network
from stages.segmenters.tracker_records import Pictures, Shown
from stages.segmenters.tracker_structure import bank_shape, check_structure


class TrackerCore:
    """The step of the official predictor over slots; holds the model and its memory bank."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        slots: int,
        conditioning: int,
        streams: int = 1,
        bf16: bool = False,
        frames: int | None = None,
    ) -> None:
        """`model`: a `SAM2Base` in eval mode on its final device; `slots` N; `conditioning` K >= 2;
        `streams` S; `bf16`: run under bfloat16 autocast; `frames`: how many there are in all,
        None without end, which counts where there are fewer than 16. Raises `ConfigError` for a
        structure that cannot be followed exactly."""
        check_structure(model)
        self.network = Sam2Network(model)
        self.image_size = self.network.image_size
        self.device = self.network.device
        shape = bank_shape(model, slots, conditioning, frames)
        self._future_pointers = not model.only_obj_ptrs_in_the_past_for_eval
        self.bank = MemoryBank(shape, self.device, self._future_pointers)
        with torch.no_grad():
            self.head = MaskHead(model)
            self._reader = MemoryAttention(model, shape.recent, shape.pointers)
            self._writer = MemoryEncoder(model)
            self._no_memory = model.no_mem_embed.detach().view(1, -1, 1, 1)
        self.stream_of = torch.zeros(slots + 1, dtype=torch.int64, device=self.device)
        """int64 (N + 1,): the picture of each slot."""
        self.clock = torch.zeros(streams, dtype=torch.int64, device=self.device)
        """int64 (S,): number of the current picture."""
        self._shared = streams == 1
        self._bf16 = bf16

    def resize(self, slots: int, conditioning: int) -> None:
        """Another, empty bank: N slots and K conditioning frames, at least 2."""
        shape = replace(self.bank.shape, slots=slots, conditioning=conditioning)
        self.bank = MemoryBank(shape, self.device, self._future_pointers)
        self.stream_of = torch.zeros(slots + 1, dtype=torch.int64, device=self.device)

    def encode(self, pixels: Tensor) -> Pictures:
        """float32 (S, 3, s, s), normalised, as `Sam2Network.transform` gives them."""
        with self._precision():
            fine, coarse = self.network.maps(pixels)
            return Pictures(coarse, self._reader.look(coarse), self._writer.look(coarse), fine)

    def track(
        self, encoded: Pictures, rows: Tensor, live: Tensor, held: int | None = None
    ) -> Shown:
        """Follow the slots `rows`, int64 (b,), each at most once, and remember the result.

        What is not `live`, bool (b,), is computed all the same and remembered as a hole. `held`:
        see `MemoryBank.recall`.
        """
        with self._precision():
            stream, now = self._place(rows)
            features = self.recollect(encoded, rows, held)
            masks = self.head.unprompted(features, self._fine(encoded, stream))
            enlarged = masks.enlarged(self.image_size)
            memory = self._memory(encoded, stream, masks, enlarged, prompted=False)
            self.bank.remember(rows, now, memory, masks.pointer, live)
            return Shown(masks, enlarged, features, memory)

    def recollect(self, encoded: Pictures, rows: Tensor, held: int | None = None) -> Tensor:
        """(b, C, h, w): the picture in the light of what the slots `rows` remember; nothing is
        kept. See `track`."""
        with self._precision():
            stream, now = self._place(rows)
            looked = self._each(encoded.looked, stream)
            return self._reader.read(looked, self.bank.recall(rows, now, held))

    def begin(self, encoded: Pictures, rows: Tensor, told: Told) -> Shown:
        """Condition slots on prompts, without regard to their memory; the frame is kept among
        their K conditioning frames.

        `rows` int64 (b,), scratch where there is nowhere to write.
        """
        shown = self.ask(encoded, rows, told)
        self.condition(encoded, rows, shown)
        return shown

    def ask(
        self, encoded: Pictures, rows: Tensor, told: Told, before: Tensor | None = None
    ) -> Shown:
        """The masks that `begin` would give; nothing is kept.

        `before` float32 (b, h, w): logits that an earlier prompt on the frame gave.
        """
        with self._precision():
            stream, _ = self._place(rows)
            features, fine = self._each(encoded.coarse, stream), self._fine(encoded, stream)
            if isinstance(told, GivenMasks):
                masks = self.head.given(features, fine, told)
            else:
                plain = features + self._no_memory
                masks = self.head.prompted(plain, fine, told, before, initial=True)
            return Shown(masks, masks.enlarged(self.image_size), features)

    def condition(self, encoded: Pictures, rows: Tensor, shown: Shown) -> None:
        """Keep the frame, with the masks that `ask` gave, for the slots `rows`."""
        with self._precision():
            _, now = self._place(rows)
            memory = self.memory_of(encoded, rows, shown)
            self.bank.condition(rows, now, memory, shown.masks.pointer)

    def memory_of(self, encoded: Pictures, rows: Tensor, shown: Shown) -> Tensor:
        """bfloat16 (b, L, M): what is to be remembered of a prompted frame."""
        with self._precision():
            stream, _ = self._place(rows)
            return self._memory(encoded, stream, shown.masks, shown.enlarged, prompted=True)

    def correct(
        self, encoded: Pictures, rows: Tensor, features: Tensor, before: Tensor, told: Told
    ) -> Shown:
        """Prompt slots that `track` has just followed; the frame's memory is written again.

        `features` (b, C, h, w) are `Shown.features` of the rows, `before` float32 (b, h, w)
        their logits; the rest is as for `begin`.

        On a frame that is among a slot's conditioning frames (`begin` in the same step) this shows
        a mask that no later frame depends on, as the official predictor silently does; so callers
        correct a frame later.
        """
        with self._precision():
            _, now = self._place(rows)
            shown = self.redraw(encoded, rows, features, before, told)
            memory = self.memory_of(encoded, rows, shown)
            live = torch.ones_like(rows).bool()
            self.bank.remember(rows, now, memory, shown.masks.pointer, live)
            return shown

    def redraw(
        self, encoded: Pictures, rows: Tensor, features: Tensor, before: Tensor, told: Told
    ) -> Shown:
        """The masks that `correct` would give; nothing is kept."""
        with self._precision():
            stream, _ = self._place(rows)
            fine = self._fine(encoded, stream)
            if isinstance(told, GivenMasks):
                masks = self.head.given(self._each(encoded.coarse, stream), fine, told)
            else:
                masks = self.head.prompted(features, fine, told, before)
            return Shown(masks, masks.enlarged(self.image_size), features)

    def advance(self) -> None:
        """The pictures of this step are done."""
        self.clock += self.bank.direction

    def clear(self) -> None:
        """Forget everything: a new epoch begins."""
        self.bank.clear()
        self.clock.zero_()

    def _precision(self) -> AbstractContextManager[object]:
        if not self._bf16:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def _memory(
        self, encoded: Pictures, stream: Tensor, masks: Masks, enlarged: Tensor, prompted: bool
    ) -> Tensor:
        looked = self._each(encoded.remembered, stream)
        return self._writer.encode(looked, enlarged, masks.presence, prompted)

    def _place(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        stream = self.stream_of.index_select(0, rows)
        return stream, self.clock.index_select(0, stream)

    def _each(self, maps: Tensor, stream: Tensor) -> Tensor:
        """A row of `maps`, (S, ...), for each object."""
        if self._shared:
            return maps.expand(stream.shape[0], *maps.shape[1:])
        return maps.index_select(0, stream)

    def _fine(self, encoded: Pictures, stream: Tensor) -> list[Tensor]:
        return [self._each(level, stream) for level in encoded.fine]
